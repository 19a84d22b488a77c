"""Promises about the tree itself: who imports whom, what an import loads, what a tracked file may hold."""

import ast
import importlib
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from support.rooms import ROOMS
from support.sources import FEWSTEP, KERNELS, imported, importers, parsed, sources, tracked
from support.tree import ROOT

# How paths on somebody's machine begin; in two pieces, so that this file passes its own test.
MACHINE_PATH = re.compile(r"(?<![\w.~-])/(?:home|root|tmp|work|Users)" + "/")
OUTSIDE = "../" + "shared"


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
    assert imported(ast.parse(source), "a.b") == names


@pytest.mark.slow
def test_imports_point_one_way() -> None:
    assert KERNELS / "ops.py" in importers("torch")
    assert not {path for path in importers("fewstep") if KERNELS in path.parents}
    serves = {FEWSTEP / "serve", FEWSTEP / "cli"}
    assert not {path for path in importers("fewstep.serve") if not serves & {*path.parents}}
    assert not {path for path in importers("triton") if KERNELS not in path.parents}
    assert importers("fewstep_kernels._C") <= {KERNELS / "_ext.py"}


def test_every_folder_of_code_is_a_package() -> None:
    assert not [path for path in sources() if not (path.parent / "__init__.py").exists()]


@pytest.mark.slow
def test_importing_fewstep_loads_only_the_core() -> None:
    heavy = ["diffusers", "huggingface_hub", "matplotlib", "onnx", "onnxruntime", "openvino", "PIL", "pydantic"]
    heavy += ["rich", "transformers", "triton", "typer"]
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


def crowded(tree: ast.AST) -> Iterator[str]:
    """The functions that take more parameters than they should, kernels apart, by class and name."""
    owner = {id(each): node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for each in node.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and "triton.jit" not in map(ast.unparse, node.decorator_list):
            names = [each.arg for each in node.args.posonlyargs + node.args.args + node.args.kwonlyargs]
            if len([name for name in names if name not in ("self", "cls")]) > MAX_PARAMETERS:
                yield f"{owner[id(node)]}.{node.name}" if id(node) in owner else node.name


def test_what_travels_together_is_a_value_with_a_name() -> None:
    verbs = FEWSTEP / "cli"
    found = {name for path in sources() if verbs not in path.parents for name in crowded(parsed(path))}
    print(*sorted(found))
    assert not found
    many = ", ".join(f"a{i}" for i in range(13))
    source = f"class A:\n    def f(self, {many}): ...\n\n@triton.jit\ndef kernel({many}): ..."
    assert list(crowded(ast.parse(source))) == ["A.f"]


def test_files_stay_short() -> None:
    code = {".py", ".cpp", ".cu", ".cuh", ".h"}
    lines = {path: len(path.read_text().splitlines()) for path in tracked() if path.suffix in code}
    assert not {str(path.relative_to(ROOT)): n for path, n in lines.items() if n > 450}


@pytest.mark.slow
def test_tests_mirror_the_rooms_and_share_only_what_is_in_support() -> None:
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and path.name != "__pycache__"}
    of_code = {*ROOMS, "kernels", "csrc", "benchmarks", "tools"}
    print(*sorted(folders))
    assert folders - of_code <= {"data", "support", "tree"}
    assert of_code <= folders
    for path in (ROOT / "tests").rglob("*.py"):
        names = {name.split(".")[-1] for name in imported(parsed(path), "")} | imported(parsed(path), "")
        assert not [name for name in names if name.startswith(("test_", "tests.")) or name == "conftest"], path


KINDS = {"ClassifierFree", "EmbeddedGuidance", "Classes", "Numbers", "Prompts", "Unconditional"}
# Classes, one by one, are looked at by what labels them for itself: scores of digits, and students of a teacher.
# And what makes a model of something else says what that is.
BY_CLASS = {"evaluate/run.py", "train/distill.py", "cost/subjects.py", "pipelines/from_pipeline.py"}


def asks_of_guidance(tree: ast.AST) -> list[str]:
    """Where a file asks whether there is guidance, or which kind: a comparison with None, or of types."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and any(isinstance(each, ast.Is | ast.IsNot) for each in node.ops):
            found += [ast.unparse(node)] * (re.search(r"guidance$", ast.unparse(node.left)) is not None)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
            words = set(re.findall(r"\w+", ast.unparse(node)))
            found += [ast.unparse(node)] * bool({"ClassifierFree", "EmbeddedGuidance"} & words)
    return found


def test_which_guidance_it_is_is_asked_in_the_guidance_room_alone() -> None:
    asked: dict[str, list[str]] = {}
    for path in sources():
        if FEWSTEP in path.parents and (found := asks_of_guidance(parsed(path))):
            asked[path.relative_to(FEWSTEP).as_posix()] = found
    for name, found in asked.items():
        print(name, *found, sep="\n    ")
    outside = {name for name in asked if not name.startswith("request/guidance/")}
    # The file of a model and its training speak of a range in numbers, and the U-Net of an embedding; no request does.
    assert all(name.startswith(("models/", "train/")) for name in outside), outside


def test_a_kind_of_condition_is_named_by_its_room_and_by_who_labels_for_himself() -> None:
    named = {
        path.relative_to(FEWSTEP).as_posix()
        for path, names in sources().items()
        if KINDS & {name.rpartition(".")[2] for name in names}
    }
    assert {name for name in named if not name.startswith("request/") and name != "__init__.py"} == BY_CLASS


def code_lines(function: ast.FunctionDef) -> int:
    """Lines of what a function does, its docstring apart."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    end = function.body[-1].end_lineno
    return 0 if end is None else end - body[0].lineno + 1


def test_a_request_is_a_session_in_less_than_forty_lines() -> None:
    tree = parsed(FEWSTEP / "engine.py")
    methods = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    lines = {name: code_lines(methods[name]) for name in ("sample", "_part", "prepared")}
    print(lines)
    assert sum(lines.values()) < 40
