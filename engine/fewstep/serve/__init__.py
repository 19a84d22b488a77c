"""Serving: requests of many people share the steps of a network, one sample each, whatever their steps and samplers."""

from fewstep.serve.asks import Ask
from fewstep.serve.batching.batcher import Batcher
from fewstep.serve.family import Family
from fewstep.serve.limits import Limits

__all__ = ["Ask", "Batcher", "Family", "Limits"]
