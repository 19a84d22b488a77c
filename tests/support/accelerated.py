"""What tests of accelerated pipelines share."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from support.pipelines_case import KINDS, call

PRODUCTS = ("aten.mm", "aten.addmm", "aten.bmm", "aten.baddbmm")


def images(pipe: Any, kind: str, **options: Any) -> Tensor:
    """Latents of a pipeline with text, and pictures of one without: the same noise each time."""
    given = {name: options.pop(name) for name in ("batch", "seed", "steps", "negative") if name in options}
    output = {"output_type": "latent" if KINDS[kind].takes_text else "np"}
    return torch.as_tensor(pipe(**(call(kind, **given) | output | options)).images)


def off(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, as a share of the largest value where that is above 1."""
    return float((ours.double() - theirs.double()).abs().max() / theirs.double().abs().max().clamp(min=1.0))


class Products(TorchDispatchMode):
    """Counts products of matrices that have a side of a length."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side, self.count = side, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(function).rsplit(".", 1)[0]
        if name in PRODUCTS and any(isinstance(each, Tensor) and self.side in each.shape[-2:] for each in args):
            self.count += 1
        return function(*args, **(kwargs or {}))


@contextmanager
def counted(side: int) -> Iterator[Products]:
    with Products(side) as products:
        yield products
