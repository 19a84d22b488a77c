"""An op is in every file that CONTRIBUTING.md names: definition, registration, kernel, the gate and the tests."""

import inspect
from typing import Any

import pytest
import torch

import fewstep_kernels
from fewstep_kernels import reference
from support.tree import ROOT, load

BY_CUDA = {"attention", "attention_laid_out"}  # their kernels are in csrc/
OPS = {
    name
    for name, each in vars(reference).items()
    if inspect.isfunction(each) and each.__module__ == reference.__name__ and not name.startswith("_")
}


def test_the_twins_are_the_ops() -> None:
    assert {"begin_step", "denoise_step", "normal", "group_norm_silu"} <= OPS
    assert not [name for name in OPS if not hasattr(torch.ops.fewstep, name)]
    assert set(fewstep_kernels.__all__) >= OPS


def test_every_op_has_a_kernel_that_is_compiled_for_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    fused: Any = pytest.importorskip("fewstep_kernels.fused", exc_type=ImportError)
    monkeypatch.syspath_prepend(ROOT / "tools")
    gate: Any = load("compile_gate", ROOT / "tools" / "compile_gate.py")
    assert set(fused.__all__) == OPS - BY_CUDA
    compiled = {case.variant.name.split()[0] for case in gate.cases(None)}
    assert compiled == OPS - BY_CUDA


def test_every_op_is_checked_by_opcheck() -> None:
    text = (ROOT / "tests" / "kernels" / "test_kernel_ops.py").read_text()
    assert not [name for name in OPS if f'"{name}": ' not in text]


def test_the_page_names_the_files() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text()
    section = page[page.index("**An op**") : page.index("**A key mapping**")]
    for name in ("reference.py", "ops.py", "__init__.py", "fused/variants.py", "tools/compile_gate.py"):
        assert f"`{name}`" in section
