"""What a scheduler asks of torch while it is traced, seen and answered by this thread alone."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fewstep.diffusion.tracing.basis import Basis
from fewstep.diffusion.tracing.refusal import Refusal

NORMAL = (torch.randn, torch.randn_like)
NOT_NORMAL = (torch.rand, torch.rand_like, torch.randint, torch.randint_like, torch.multinomial, torch.bernoulli)
CLAMPS = (torch.clamp, torch.clip, Tensor.clamp, Tensor.clip, Tensor.clamp_, Tensor.clip_)


class Clipped(NamedTuple):
    """A clip that a step has made: of what, into what, and within which limit."""

    argument: Tensor
    result: Tensor
    limit: float
    ratio: float


class Interception(TorchFunctionMode):
    """Within it, a scheduler runs on the vectors of a basis. It is this thread's own: nothing that others see changes.

    float32     is float64, so that coefficients are exact but for the scheduler's own tables
    noise       normal noise of the sample's shape is a new vector; no generator is read
    clip        what a step clips is kept, and its result is a new vector, independent of all else
    """

    def __init__(self, basis: Basis) -> None:
        super().__init__()
        self.basis = basis
        self.clips: list[Clipped] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        args, kwargs = tuple(map(_wide, args)), {name: _wide(value) for name, value in (kwargs or {}).items()}
        if func in NORMAL:
            return self._noise(func, args, kwargs)
        if func in NOT_NORMAL:
            raise Refusal("its step draws noise that is not normal")
        if func in CLAMPS and self.basis.holds(args[0]):
            return self.clip(args[0], *_limits(*args[1:], **kwargs))
        if func is Tensor.float:
            return args[0].double()
        result = func(*args, **kwargs)
        narrow = isinstance(result, Tensor) and result.dtype == torch.float32
        if narrow and "dtype" not in kwargs and not any(hasattr(each, "dtype") for each in args):
            return func(*args, **kwargs, dtype=torch.float64)  # made of Python's numbers
        return result

    def clip(self, argument: Tensor, limit: float, ratio: float = 0.0) -> Tensor:
        """A new vector in place of the clipped argument."""
        result = self.basis.vector()
        self.clips.append(Clipped(argument.clone(), result, limit, ratio))
        return result

    def _noise(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
        size = args[0] if args else kwargs.get("size", ())
        shape = (
            tuple(size.shape) if isinstance(size, Tensor) else tuple(size if isinstance(size, tuple | list) else args)
        )
        if shape != self.basis.shape:
            raise Refusal(f"its step draws noise of shape {list(shape)} for a sample of shape {list(self.basis.shape)}")
        return self.basis.vector()


def _wide(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value


def _limits(min: Any = None, max: Any = None) -> tuple[float]:
    """The limit of a clamp that is symmetric."""
    low, high = (None if each is None else float(each) for each in (min, max))
    if low is None or high is None or low != -high or not high > 0:
        raise Refusal(f"its step clips x_0 to [{low}, {high}], and a row only between -limit and limit")
    return (high,)
