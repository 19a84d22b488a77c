"""Further arguments of the network, as a user gives them by name: each has to be one, and to have its counterpart."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fewstep.checks import as_tensor, named
from fewstep.errors import ArgumentError
from fewstep.run.inputs import SECOND_TIME, Inputs


def given_condition(
    given: object, count: int, inputs: Inputs, dtype: torch.dtype, guided: bool
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What `condition` means: tensors [count, ...] by name, and those that take their place in the unconditional half.

    Args:
        given: a tensor or an array each, or a pair of it and what stands for no condition. Labels may be called
            `labels` or as the network calls them.
        count: samples.
        inputs: what the network's call takes.
        dtype: of the network, in which it gets floats.
        guided: some sample has an unconditional half. Then each has to be a pair: a tensor that both halves get is
            given twice, since one that was forgotten would go unnoticed.

    Raises:
        ArgumentError: a tensor that does not fit, or one without its counterpart.
    """
    condition: dict[str, Tensor] = {}
    null: dict[str, Tensor] = {}
    if given is None:
        return condition, null
    if not isinstance(given, Mapping):
        raise ArgumentError("condition", type(given).__name__, "a mapping from the network's arguments to tensors")
    for name, value in given.items():
        called = "labels" if name == inputs.labels else name
        if called in condition:
            raise ArgumentError(f"condition[{name!r}]", "a tensor", "labels once, under either name")
        rows = _pair(f"condition[{name!r}]", value, count, dtype, guided)
        condition[called] = rows[0]
        if len(rows) == 2:
            null[called] = rows[1]
    return condition, null


def _pair(argument: str, value: object, count: int, dtype: torch.dtype, guided: bool) -> Sequence[Tensor]:
    """A tensor alone, or the two of a pair, as a network of this dtype gets them."""
    pair: Sequence[Any] = [as_tensor(each) for each in (value if isinstance(value, tuple) else (value,))]
    for rows in pair:
        if not isinstance(rows, Tensor) or rows.ndim == 0 or rows.shape[0] != count or len(pair) > 2:
            shown = f"shape {tuple(rows.shape)}" if isinstance(rows, Tensor) else type(rows).__name__
            allowed = f"a tensor with {count} rows, one per sample, or a pair of them: with the condition, without"
            raise ArgumentError(argument, shown, allowed)
    if not pair:
        raise ArgumentError(argument, "()", "a tensor, or a pair of them")
    if pair[0].shape != pair[-1].shape:
        shown = f"shapes {tuple(pair[0].shape)} and {tuple(pair[-1].shape)}"
        raise ArgumentError(argument, shown, "two tensors of one shape")
    pair = [_carried(argument, rows, dtype) for rows in pair]
    if pair[0].dtype != pair[-1].dtype:
        shown = f"{pair[0].dtype} and {pair[-1].dtype}"
        raise ArgumentError(argument, shown, "two tensors of one dtype, or two of floats")
    if guided and len(pair) == 1:
        allowed = "a pair: (tensor, what stands for none), or (tensor, tensor) if both halves are to get it"
        raise ArgumentError(argument, "one tensor, beside a guidance_scale that is not 1", allowed)
    return pair


def _carried(argument: str, rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Floats in the network's dtype; unsigned integers of more than 8 bits, with which torch does little, as int64."""
    if rows.is_floating_point():
        return rows.to(dtype)
    if rows.dtype not in (torch.uint16, torch.uint32, torch.uint64):
        return rows
    wide = rows.to(torch.int64)
    if bool((wide < 0).any()):
        raise ArgumentError(argument, "integers of 2^63 or more", "integers below 2^63")
    return wide


def check_names(condition: Iterable[str], inputs: Inputs) -> None:
    """ArgumentError for what the network's call does not take, or requires and is not given.

    Args:
        condition: all that it is going to be called with beside x and t; labels are called `labels`.
        inputs: what it takes.
    """
    given = [inputs.labels if name == "labels" else name for name in condition]
    for name in given:
        if name == SECOND_TIME and inputs.second_time:
            raise ArgumentError("condition", name, "nothing of that name: a plan says r, the second time, as it says t")
        if not inputs.takes(name):
            others = "any other name" if inputs.others else "nothing"
            taken = named(inputs.names, name) if inputs.names else others
            raise ArgumentError("condition", name, f"what the network's call takes beside {inputs.told}: {taken}")
    for name in inputs.required:
        if name not in given:
            instead = f"condition={{{name!r}: tensor}}"
            if name == inputs.labels:
                instead = f"labels and Model(conditions=fewstep.Classes(...)), or {instead}"
            raise ArgumentError("condition", f"no {name!r}", f"all that the network's call requires: {instead}")
