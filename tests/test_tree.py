"""Promises about the tree itself: who imports whom, what an import loads, what a tracked file may hold."""

import ast
import functools
import importlib
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FEWSTEP, KERNELS = ROOT / "engine/fewstep", ROOT / "kernels/fewstep_kernels"

# How paths on somebody's machine begin; in two pieces, so that this file passes its own test.
MACHINE_PATH = re.compile(r"(?<![\w.~-])/(?:home|root|tmp|work|Users)" + "/")
OUTSIDE = "../" + "shared"


def imported(source: str, package: str) -> set[str]:
    """The full names of all that `source`, a file of `package`, imports, also inside its functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return names


def sources() -> Iterator[tuple[Path, set[str]]]:
    for root in (FEWSTEP, KERNELS):
        for path in sorted(root.rglob("*.py")):
            package = ".".join(path.parent.relative_to(root.parent).parts)
            yield path, imported(path.read_text(), package)


def importers(module: str) -> set[Path]:
    """The files that import `module` or something in it."""
    return {path for path, names in sources() if any(f"{name}.".startswith(f"{module}.") for name in names)}


def exported(package: str) -> Iterator[tuple[str, object]]:
    """The functions and classes of `__all__`, and the public methods and properties of those classes."""
    module = importlib.import_module(package)
    for name in module.__all__:
        value = getattr(module, name)
        if callable(value):
            yield name, value
        if inspect.isclass(value):
            for key, member in vars(value).items():
                if not key.startswith("_") and (inspect.isroutine(member) or isinstance(member, property)):
                    yield f"{name}.{key}", member


@functools.cache
def tracked() -> tuple[Path, ...]:
    """The files of the repository, also those about to be added."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    return tuple(path for name in names if name and (path := ROOT / name).is_file())


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import triton.language as tl", {"triton.language"}),
        ("def f():\n    from ..serve import api", {"a.serve", "a.serve.api"}),
        ("from . import _C", {"a.b", "a.b._C"}),
    ],
    ids=["absolute", "relative inside a function", "sibling"],
)
def test_every_form_of_import_is_seen(source: str, names: set[str]) -> None:
    assert imported(source, "a.b") == names


def test_imports_point_one_way() -> None:
    assert KERNELS / "ops.py" in importers("torch")
    assert not {path for path in importers("fewstep") if KERNELS in path.parents}
    assert not {path for path in importers("fewstep.serve") if FEWSTEP / "serve" not in path.parents}
    assert not {path for path in importers("triton") if KERNELS not in path.parents}
    assert importers("fewstep_kernels._C") <= {KERNELS / "_ext.py"}


def test_every_folder_of_code_is_a_package() -> None:
    files = [path for path, _ in sources()]
    assert not [path for path in files if not (path.parent / "__init__.py").exists()]


def test_importing_fewstep_loads_only_the_core() -> None:
    heavy = ["diffusers", "huggingface_hub", "matplotlib", "onnx", "onnxruntime", "PIL", "pydantic", "rich"]
    heavy += ["transformers", "triton", "typer"]
    script = f"""
import sys, time, torch
before, start = set(sys.modules), time.perf_counter()
import fewstep
print(f"import fewstep: {{time.perf_counter() - start:.3f}} s beyond torch's own", file=sys.stderr)
print(*sorted(set({heavy}) & (set(sys.modules) - before)))
"""
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(FEWSTEP.parent), str(KERNELS.parent)])}
    run = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True)
    print(run.stderr)
    assert (run.returncode, run.stdout.split()) == (0, [])


@pytest.mark.parametrize("package", ["fewstep", "fewstep_kernels"])
def test_every_exported_function_and_method_has_a_docstring(package: str) -> None:
    assert not [name for name, value in exported(package) if not value.__doc__]


def test_no_file_names_a_machine() -> None:
    for path in tracked():
        content = path.read_bytes()
        if b"\0" in content:  # a picture, or weights
            continue
        text = content.decode()
        where = path.relative_to(ROOT)
        assert not MACHINE_PATH.search(text), where
        assert OUTSIDE not in text, where


def test_the_tree_stays_small() -> None:
    assert sum(path.stat().st_size for path in tracked()) < 40 * 2**20


MAX_PARAMETERS = 12
# What still takes more: a kernel of Triton's and a verb of the command line apart, nothing else should.
CROWDED = {"Engine.__init__", "Engine.sample", "config_from_adm", "build_request", "carry_out"}


def crowded(source: str) -> Iterator[str]:
    """The functions that take more parameters than they should, kernels apart, by class and name."""
    tree = ast.parse(source)
    owner = {id(each): node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for each in node.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and "triton.jit" not in map(ast.unparse, node.decorator_list):
            names = [each.arg for each in node.args.posonlyargs + node.args.args + node.args.kwonlyargs]
            if len([name for name in names if name not in ("self", "cls")]) > MAX_PARAMETERS:
                yield f"{owner[id(node)]}.{node.name}" if id(node) in owner else node.name


def test_what_travels_together_is_a_value_with_a_name() -> None:
    verbs = FEWSTEP / "cli"
    found = {name for path, _ in sources() if verbs not in path.parents for name in crowded(path.read_text())}
    print(*sorted(found))
    assert found == CROWDED
    many = ", ".join(f"a{i}" for i in range(13))
    assert list(crowded(f"class A:\n    def f(self, {many}): ...\n\n@triton.jit\ndef kernel({many}): ...")) == ["A.f"]


def test_files_stay_short() -> None:
    code = {".py", ".cpp", ".cu", ".cuh", ".h"}
    lines = {path: len(path.read_text().splitlines()) for path in tracked() if path.suffix in code}
    assert not {str(path.relative_to(ROOT)): n for path, n in lines.items() if n > 450}
