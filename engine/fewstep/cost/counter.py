"""Counting launches, bytes and waits of a GPU on tensors of the meta device, which have shapes and no memory.

What counts:

    launch   an op on device tensors, unless its results only share storage with its arguments (a view) or are fresh
             and unwritten (an allocation). Ops of fewstep_kernels count the launches that their Triton kernels list,
             attention counts one, a convolution with bias two, torch's group norm three, and every other op of torch
             one, though some (sort, nonzero, a reduction) are several.
    bytes    each distinct tensor that an op reads, whole, and each that it writes, whole; one updated in place counts
             twice. An expanded tensor counts what it stores. Tensors on the host, 0-dim operands above all, do not
             count: their values travel with the launch.
    sync     the host waits for the device: a value read back (`.item()`, an `if` on a tensor, a tensor as an index
             into a table on the host), an output whose shape depends on values, a blocking copy between the two.
             A value read back is a sync and no launch.

Ops on host tensors alone are host work, and cost none of these.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from fewstep.cost.fused import listed_launches
from fewstep.cost.torch_launches import torch_launches

DEVICE = torch.device("meta")  # stands for the GPU; the CPU is the host
MAX_VALUES = 4096  # numbers of a device tensor whose values are followed on the host

ATEN = torch.ops.aten
ALLOCATIONS = {"empty", "empty_like", "empty_permuted", "empty_strided", "new_empty", "new_empty_strided"}
COPIES = {"_to_copy", "copy_"}
# Arguments that are overwritten without being read; a schema says only that they are written.
WRITTEN_ONLY = {
    "copy_": {"self"},
    "fill_": {"self"},
    "zero_": {"self"},
    "begin_step": {"row", "step", "t", "r"},
    "step_statistics": {"statistics"},
    "step_log_prob": {"log_prob"},
    "denoise_step": {"x_in", "preview"},
}


@dataclass(frozen=True)
class Cost:
    """Launches, bytes read and written, and syncs."""

    launches: int = 0
    bytes: int = 0
    syncs: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.launches + other.launches, self.bytes + other.bytes, self.syncs + other.syncs)


@dataclass(frozen=True)
class Call:
    """One op that cost something, and where it was called."""

    part: str
    step: int
    op: str
    cost: Cost


class CostCounter(TorchDispatchMode):
    """Within it every op on a device tensor is counted, under the part and step that `at` names.

    Small tensors made within it keep their values on the host, so that what depends on a timestep runs its course.

    Raises:
        RuntimeError: where the program asks for a value that is not known.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[Call] = []
        self._place = ("setup", 0)
        self._values = WeakTensorKeyDictionary()
        self._attention = _WholeAttention(self)

    @contextmanager
    def at(self, part: str, step: int) -> Iterator[None]:
        """Name the part and step that the ops within belong to."""
        outside, self._place = self._place, (part, step)
        try:
            yield
        finally:
            self._place = outside

    def add(self, op: str, cost: Cost) -> None:
        """Count an op here."""
        if cost != Cost():
            self.calls.append(Call(*self._place, op, cost))

    def __enter__(self) -> Self:
        self._attention.__enter__()  # type: ignore[no-untyped-call]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        self._attention.__exit__(kind, error, trace)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = self._run(func, args, kwargs)
        self.add(func.name(), cost_of(func, args, kwargs, result))
        return result

    def _run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The op on meta tensors, and beside it on the values of those that have them."""
        reads_back = func is ATEN._local_scalar_dense.default or (_name(func) in COPIES and _to_host(args, kwargs))
        if reads_back or _shape_depends_on_values(func):
            if not (on_device(args) or on_device(kwargs)):
                return func(*args, **kwargs)
            values = self._on_values(func, args, kwargs)
            if values is None:
                raise RuntimeError(f"{func.name()}: the value of a tensor on the meta device is asked for")
            return values if reads_back else self._placed(values)
        result = _as_on_a_gpu(func, args, func(*args, **kwargs))
        devices = on_device(result)
        if devices and all(tensor.numel() <= MAX_VALUES for tensor in devices):
            self._keep(result, self._on_values(func, args, kwargs))
        return result

    def _on_values(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The op on the host, or None where an argument's values are not known, or the result's are arbitrary."""
        arbitrary = _name(func) in ALLOCATIONS or torch.Tag.nondeterministic_seeded in func.tags
        if arbitrary or any(tensor not in self._values for tensor in on_device((args, kwargs))):
            return None

        def value(leaf: Any) -> Any:
            if isinstance(leaf, Tensor) and leaf.device == DEVICE:
                return self._values[leaf]
            return torch.device("cpu") if leaf == DEVICE else leaf

        return func(*tree_map(value, args), **tree_map(value, kwargs))

    def _keep(self, result: Any, values: Any) -> None:
        leaves = tree_leaves(values) if values is not None else [None] * len(tree_leaves(result))
        for tensor, value in zip(tree_leaves(result), leaves, strict=True):
            if isinstance(value, Tensor):
                self._values[tensor] = value
            else:
                self._values.pop(tensor, None)  # written with what is not known

    def _placed(self, values: Any) -> Any:
        placed = tree_map(lambda leaf: leaf.to(DEVICE) if isinstance(leaf, Tensor) else leaf, values)
        self._keep(placed, values)
        return placed


class _WholeAttention(TorchFunctionMode):
    """Counts scaled_dot_product_attention as one launch, as on a GPU; the meta device would take it apart."""

    def __init__(self, counter: CostCounter) -> None:
        super().__init__()
        self.counter = counter

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not functional.scaled_dot_product_attention or not on_device(args):
            return func(*args, **kwargs)
        tensors = on_device((args, kwargs))
        q, _, v = tensors[:3]
        # The fused kernels store heads behind tokens, so the transpose that follows in most networks is a view.
        *lead, heads, tokens, _ = q.shape if q.ndim > 2 else (1, *q.shape)
        out = q.new_empty((*lead, tokens, heads, v.shape[-1])).transpose(-2, -3)
        out = out if q.ndim > 2 else out[0]
        self.counter.add("aten::scaled_dot_product_attention", Cost(1, bytes_of(tensors) + bytes_of([out])))
        return out


def cost_of(func: Any, args: Sequence[Any], kwargs: dict[str, Any], result: Any) -> Cost:
    """The cost of one call of an op that gave `result`."""
    named = _named(func, args, kwargs)
    inputs, outputs = on_device(named), on_device(result)
    if not inputs and not outputs:
        return Cost()
    name = _name(func)
    if name == "_local_scalar_dense":
        return Cost(syncs=1)
    if name in ALLOCATIONS or _only_views(func, inputs, outputs):
        return Cost()
    ours = func.namespace == "fewstep"
    launches = listed_launches(name, args) if ours else torch_launches(name, args, result)
    if launches is not None:
        return Cost(len(launches), sum(bytes_of(tensors) for tensors in launches))
    unread = WRITTEN_ONLY.get(name, set())
    read = [tensor for argument, value in named.items() if argument not in unread for tensor in on_device(value)]
    written = [tensor for argument in _written(func) for tensor in on_device(named.get(argument))]
    written += outputs if not written else []
    if not any(tensor.numel() for tensor in (*read, *written)):
        return Cost()
    return Cost(1, bytes_of(read) + bytes_of(written), int(_waits(func, named, result)))


def bytes_of(tensors: Sequence[Tensor]) -> int:
    """Bytes of the distinct tensors among these; of an expanded one what it stores."""
    distinct = {
        (t.untyped_storage()._cdata, t.storage_offset(), tuple(t.shape), tuple(t.stride()), t.dtype): t for t in tensors
    }
    return sum(_stored(tensor) * tensor.element_size() for tensor in distinct.values())


def on_device(value: Any) -> list[Tensor]:
    """The device tensors in a value."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor) and leaf.device == DEVICE]


def _stored(tensor: Tensor) -> int:
    count = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if stride else min(size, 1)
    return count


def _name(func: Any) -> str:
    return str(func.name()).split("::")[1].split(".")[0]


def _named(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    names = [argument.name for argument in func._schema.arguments]
    return dict(zip(names, args, strict=False)) | kwargs


def _written(func: Any) -> list[str]:
    return [a.name for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write]


def _only_views(func: Any, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> bool:
    if torch.Tag.inplace_view in func.tags:
        return True
    held = {tensor.untyped_storage()._cdata for tensor in inputs}
    shared = bool(outputs) and all(tensor.untyped_storage()._cdata in held for tensor in outputs)
    return shared and not func._schema.is_mutable


def _as_on_a_gpu(func: Any, args: Sequence[Any], result: Any) -> Any:
    """A convolution of what lies channels-last gives the same; on the meta device it would not."""
    if _name(func) != "convolution" or not on_device(result):
        return result
    formats = [suggest_memory_format(tensor) for tensor in args[:2]]
    return result.contiguous(memory_format=torch.channels_last) if torch.channels_last in formats else result


def _shape_depends_on_values(func: Any) -> bool:
    return torch.Tag.dynamic_output_shape in func.tags


def _to_host(args: Any, kwargs: dict[str, Any]) -> bool:
    target = kwargs.get("device")
    if target is not None:
        return bool(torch.device(target).type == "cpu") and bool(on_device(args))
    first, *others = [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
    return bool(first.device.type == "cpu") and bool(on_device(others))


def _waits(func: Any, named: dict[str, Any], result: Any) -> bool:
    if _shape_depends_on_values(func):
        return True
    devices = {leaf.device.type for leaf in tree_leaves((named, result)) if isinstance(leaf, Tensor)}
    return _name(func) in COPIES and len(devices) > 1 and not named.get("non_blocking", False)
