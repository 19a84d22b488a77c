"""The operands of a step are written once: the op's schema and the kernel's arguments are those of StepOperands."""

from typing import Any

import pytest
import torch

from fewstep_kernels.operands import TENSORS, WRITTEN, StepOperands, schema


def test_the_schema_names_every_operand_in_order_and_what_is_written() -> None:
    registered = torch.ops.fewstep.denoise_step.default._schema
    assert [argument.name for argument in registered.arguments] == list(StepOperands._fields)
    assert [a.name for a in registered.arguments if a.alias_info is not None] == list(WRITTEN)
    defaults = {a.name: a.default_value for a in registered.arguments if a.has_default_value()}
    assert defaults == StepOperands._field_defaults
    assert schema("f").startswith("f(Tensor(a!) x, Tensor(b!) x_in, Tensor(c!)? history, Tensor(d!)? preview, Tensor ")


def test_the_kernel_takes_the_tensors_by_the_same_names_in_the_same_order() -> None:
    """Triton reads the kernel's own argument list, which cannot be a NamedTuple."""
    step: Any = pytest.importorskip("fewstep_kernels.fused.step", exc_type=ImportError)
    names = step._denoise_step_kernel.arg_names
    assert tuple(names[: len(TENSORS)]) == tuple(f"{name}_ptr" for name in TENSORS)
    assert not [name for name in names[len(TENSORS) :] if name.endswith("_ptr")]
