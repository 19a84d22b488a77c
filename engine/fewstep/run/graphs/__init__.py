"""CUDA graphs over the sampling loop: capture, the cache of what was captured, and the runner that replays it."""

from fewstep.run.graphs.capture import Capturer, CudaCapturer, Graph
from fewstep.run.graphs.runner import GraphRunner

__all__ = ["Capturer", "CudaCapturer", "Graph", "GraphRunner"]
