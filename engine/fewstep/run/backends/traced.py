"""A network that torch.export does not take, traced: written down as it ran once, and then doubted."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fewstep.errors import reason_of
from fewstep.run.backends.backend import Program, UnreadyError
from fewstep.run.backends.call import Call
from fewstep.run.backends.export import laid_out, network_by_position
from fewstep.run.backends.openvino_import import openvino_module
from fewstep.run.backends.parity import BOUNDS, distance

TRACED: Final = "traced"
UNPROVEN: Final = "no more is known of it than that it was right where it was tried"
SHARES: Final = (0.0, 0.03, 0.25, 0.5, 0.9)  # of the times of the first call, at which a trace is tried
READS: Final = {  # what gives Python a value, to go by which a trace would keep for ever
    *("__bool__", "__int__", "__float__", "__complex__", "__index__", "__contains__", "__array__"),
    *("item", "tolist", "numpy", "equal", "allclose", "is_nonzero"),
}


def traced(module: Any, call: Call, inputs: Sequence[Tensor]) -> Any:
    """A network as an openvino.Model, for this number of lanes.

    Raises:
        UnreadyError: it cannot be traced, or reads values of its tensors in Python, which a trace would not do again.
    """
    network = network_by_position(module, call)
    example = tuple(each.clone() for each in laid_out(inputs))
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with _Unread():
                network(*example)
            return openvino_module().convert_model(network, example_input=example)
    except UnreadyError:
        raise
    except Exception as error:  # whatever torch and OpenVINO raise for what they cannot follow
        raise UnreadyError(f"a trace: {reason_of(error)}") from error


@torch.no_grad()
def doubted(program: Program, module: Callable[..., Tensor], names: Sequence[str], inputs: Sequence[Tensor]) -> None:
    """Compare a traced program with the module, at other times and with other lanes than it was traced with.

    Raises:
        UnreadyError: somewhere they differ by more than they may.
    """
    bound = BOUNDS.get(inputs[0].dtype, 0.0)

    def called(x: Tensor, t: Tensor, *others: Tensor) -> Tensor:
        return module(x.clone(), t.clone(), **dict(zip(names, (each.clone() for each in others), strict=True)))

    if not torch.equal(called(*inputs).nan_to_num(), called(*inputs).nan_to_num()):
        raise UnreadyError("it answers twice differently")
    for share, (x, t, *others) in _tries(inputs):
        error = distance(program((x, t, *others)), called(x, t, *others), x)
        if not error <= bound:
            raise UnreadyError(f"its trace is {error:.1e} from the module at {share:g} of the first call's times")


def _tries(inputs: Sequence[Tensor]) -> Iterator[tuple[float, list[Tensor]]]:
    """Inputs whose times are spread, with the lanes in another order and other images."""
    x, t, *others = inputs
    generator = torch.Generator().manual_seed(0)
    for place, share in enumerate(SHARES):
        noise = torch.randn(x.shape, generator=generator).to(x.dtype)
        lanes = torch.arange(len(x)).roll(place + 1)
        yield (
            share,
            [(x if place % 2 else noise)[lanes], (t[lanes] * share).to(t.dtype), *(each[lanes] for each in others)],
        )


class _Unread(TorchFunctionMode):
    """Refuses to let Python read a tensor's values."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in READS:
            raise UnreadyError("its Python reads values of its tensors, which no graph does")
        return func(*args, **(kwargs or {}))
