"""The network of an engine, by the backend that was asked for."""

from importlib.util import find_spec

import torch
from torch import nn

from fewstep.run.backends.cache import Cache
from fewstep.run.backends.compiled import Compiled
from fewstep.run.backends.kept import Kept
from fewstep.run.backends.names import backend_asked, threads_asked
from fewstep.run.backends.network import Network
from fewstep.run.backends.openvino import OpenVino
from fewstep.run.backends.packed import PackedTorch, packable


def network_for(
    module: nn.Module,
    backend: str,
    threads: int | None,
    device: torch.device,
    dtype: torch.dtype,
    batch_invariant: bool,
) -> Network:
    """A module as a backend executes it.

    "auto" takes OpenVINO on a CPU where it is installed and ahead of torch, and torch elsewhere; so it does where the
    bits of a sample are not to depend on its company.

    Raises:
        ArgumentError: a backend or a number of threads that is not to be had.
    """
    meant = backend_asked(backend, device, dtype)
    count = threads_asked(threads, "auto" if backend == "auto" else meant)  # what it becomes is not the caller's error
    automatic = meant == "auto"
    packs = device.type == "cpu" and dtype in (torch.float32, torch.bfloat16) and packable(module)
    by_torch = Network(module, PackedTorch() if packs else None, dtype, only_if_faster=False)
    if automatic:
        meant = "openvino" if find_spec("openvino") is not None and not batch_invariant else "torch"
    if meant == "openvino":
        how = {"backend": meant, "dtype": str(dtype).removeprefix("torch."), "threads": count}
        kept = Kept(Cache.of_user(), module, how)
        openvino = OpenVino(dtype, count, kept, tracing=not automatic)
        return Network(module, openvino, dtype, only_if_faster=automatic, kept=kept, otherwise=by_torch)
    if meant == "compile":
        return Network(module, Compiled(), dtype, only_if_faster=False, otherwise=by_torch)
    return by_torch
