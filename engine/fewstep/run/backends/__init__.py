"""Backends: how the network's call is executed on a device. The runner asks for a call; this room answers it."""

from fewstep.run.backends.names import BACKENDS, BackendName
from fewstep.run.backends.network import Network

__all__ = ["BACKENDS", "BackendName", "Network"]
