"""An op is in every file that CONTRIBUTING.md names: definition, registration, kernel, the gate and the tests."""

import inspect
from typing import Any

import pytest
import torch

import fewstep_kernels
from fewstep_kernels import reference, reference_layers
from support.tree import ROOT, load

BY_CUDA = {"attention", "attention_laid_out"}  # their kernels are in csrc/
TWINS = (reference, reference_layers)
OPS = set(reference.__all__)


def functions_of(file: Any) -> list[str]:
    public = {name: each for name, each in vars(file).items() if not name.startswith("_")}
    return [name for name, each in public.items() if inspect.isfunction(each) and each.__module__ == file.__name__]


def test_the_twins_are_the_ops() -> None:
    assert {"begin_step", "denoise_step", "normal", "group_norm_silu"} <= OPS
    assert {name for file in TWINS for name in functions_of(file)} - {"check_waves", "compute_dtype"} == OPS
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
    definitions, registrations = ("reference.py", "reference_layers.py"), ("ops.py", "layer_ops.py", "__init__.py")
    for name in (*definitions, *registrations, "fused/variants.py", "tools/compile_gate.py"):
        assert f"`{name}`" in section
