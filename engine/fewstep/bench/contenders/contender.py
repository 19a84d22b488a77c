"""The contenders by name: a kind, for an engine on a backend, and the dtype that its network computes in."""

from dataclasses import dataclass

import torch

from fewstep.run.backends import BACKENDS

ENGINE, EAGER, DIFFUSERS, BARE = "engine", "eager", "diffusers", "bare"
BY_CALLS = "engine by calls"
CHANNELS_LAST = "diffusers channels-last"
COMPILE, REGIONAL, FREEZING = "compile", "compile regional", "compile freezing"
REDUCE_OVERHEAD, MAX_AUTOTUNE = "compile reduce-overhead", "compile max-autotune"
BY_HAND, ONNXRUNTIME = "openvino by hand", "onnxruntime"

KINDS = {
    ENGINE: "Engine.sample: plan, Philox noise by seed, fused update",
    BY_CALLS: "the same engine on a GPU without graphs: every step called from Python",
    EAGER: "the plan interpreted in plain torch, the network as it is: the reference",
    DIFFUSERS: "diffusers' pipeline or its scheduler's loop, on its own module with the same weights",
    CHANNELS_LAST: "the same, its module in channels-last memory",
    COMPILE: "the reference's loop around torch.compile of diffusers' module, or of ours where it has none",
    REGIONAL: "the same, each repeated block compiled by itself",
    REDUCE_OVERHEAD: "the same, mode reduce-overhead: CUDA graphs around the network",
    MAX_AUTOTUNE: "the same, mode max-autotune; on a CPU with the weights frozen, which its templates need",
    FREEZING: "the same on a CPU, the weights frozen into the program",
    BY_HAND: "the reference's loop around OpenVINO as one calls it oneself",
    ONNXRUNTIME: "the reference's loop around onnxruntime",
    BARE: "the network's calls alone, on a fixed input",
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Contender:
    """One of a race."""

    kind: str
    backend: str = "torch"
    dtype: str = "float32"

    @property
    def name(self) -> str:
        """Its kind, and what is not as usual about it: "engine openvino bfloat16"."""
        return " ".join([self.kind, *[self.backend] * (self.backend != "torch"), *[self.dtype] * (not self.exact)])

    @property
    def about(self) -> str:
        """Itself in words."""
        parts = [KINDS[self.kind], *[BACKENDS[self.backend]] * (self.kind == ENGINE), *[self.dtype] * (not self.exact)]
        return "; ".join(parts)

    @property
    def exact(self) -> bool:
        """Whether it computes in float32, as the reference of all images does."""
        return self.dtype == "float32"

    @property
    def ours(self) -> bool:
        """Whether a wrong image is a failure of fewstep, and not a baseline's own affair."""
        return self.kind in (ENGINE, BY_CALLS)
