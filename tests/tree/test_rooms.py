"""The rooms of engine/fewstep: each imports only from itself and those before it, and no files import in a circle."""

import ast
import functools
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from support.rooms import ROOMS
from support.sources import FEWSTEP, parsed

PLACE = {name: i for i, names in enumerate(ROOMS.values()) for name in names}
Edges = Mapping[str, frozenset[str]]  # module -> those it imports, both without "fewstep."


def room(module: str) -> int:
    """The place in ROOMS of a module such as run.loop."""
    return PLACE[module.split(".")[0]]


def runs(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that only a type checker reads."""
    yield tree
    typing = isinstance(tree, ast.If) and ast.unparse(tree.test).endswith("TYPE_CHECKING")
    for node in tree.orelse if typing else ast.iter_child_nodes(tree):
        yield from runs(node)


def imports(tree: ast.Module, modules: frozenset[str]) -> Iterator[str]:
    """What a file imports of fewstep, also inside its functions; what is for a type checker alone is left out."""
    for node in runs(tree):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name the whole module"
            names = [[*(node.module or "").split("."), alias.name] for alias in node.names]
        else:
            continue
        for parts in names:
            if parts[0] == "fewstep":
                inner = ".".join(parts[1:])
                yield inner if inner in modules else ".".join(parts[1:-1])


@functools.cache
def edges() -> Edges:
    """Of every module of the package."""
    files = {module(path): path for path in sorted(FEWSTEP.rglob("*.py"))}
    return {name: frozenset(imports(parsed(path), frozenset(files))) - {name} for name, path in files.items()}


def module(path: Path) -> str:
    """engine/fewstep/run/loop.py -> run.loop; a package by its own name, fewstep itself by none."""
    parts = path.relative_to(FEWSTEP).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def upward(found: Edges) -> list[str]:
    """The imports of a room that comes later."""
    return [f"{name} <- {other}" for name, others in found.items() for other in others if room(other) > room(name)]


def circle(found: Edges) -> list[str]:
    """The modules of one circle; none where there is none."""
    try:
        TopologicalSorter(found).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@pytest.mark.slow
def test_every_module_has_a_room_and_imports_point_one_way() -> None:
    found = edges()
    for i, name in enumerate(ROOMS):
        inside = [each for each in found if room(each) == i]
        above = sorted({list(ROOMS)[room(other)] for each in inside for other in found[each]} - {name})
        print(f"{name:<10}{len(inside):>3} files, imports {', '.join(above) or 'nothing'}")
    assert upward(found) == []


@pytest.mark.slow
def test_no_files_import_each_other_in_a_circle() -> None:
    assert circle(edges()) == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from fewstep.run.loop import sample_loop", {"run.loop"}),
        ("def f():\n    from fewstep.run import loop", {"run.loop"}),
        ("import fewstep.run.loop", {"run.loop"}),
        ("import fewstep", {""}),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from fewstep.run.loop import x", set()),
    ],
    ids=["a name", "inside a function", "whole", "the package", "for a type checker"],
)
def test_every_form_of_import_is_seen(source: str, expected: set[str]) -> None:
    assert set(imports(ast.parse(source), frozenset({"", "run", "run.loop"}))) == expected


def test_an_import_upward_and_a_circle_are_found() -> None:
    assert upward({"run.loop": frozenset({"request.batch"})}) == ["run.loop <- request.batch"]
    assert set(circle({"run.loop": frozenset({"run.a"}), "run.a": frozenset({"run.loop"})})) == {"run.loop", "run.a"}
