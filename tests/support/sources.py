"""The files of the tree, parsed once, and what they import."""

import ast
import functools
import subprocess
from pathlib import Path

import pytest

from support.tree import ROOT

FEWSTEP, KERNELS = ROOT / "engine/fewstep", ROOT / "kernels/fewstep_kernels"


@functools.cache
def parsed(path: Path) -> ast.Module:
    """A file's syntax tree; nobody changes it."""
    return ast.parse(path.read_text())


def imported(tree: ast.AST, package: str) -> set[str]:
    """The full names of all that a file of `package` imports, also inside its functions."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return names


@functools.cache
def sources() -> dict[Path, set[str]]:
    """The files of both packages, and what each imports."""
    found = {}
    for root in (FEWSTEP, KERNELS):
        for path in sorted(root.rglob("*.py")):
            found[path] = imported(parsed(path), ".".join(path.parent.relative_to(root.parent).parts))
    return found


def importers(module: str) -> set[Path]:
    """The files that import `module` or something in it."""
    return {path for path, names in sources().items() if any(f"{name}.".startswith(f"{module}.") for name in names)}


@functools.cache
def tracked() -> tuple[Path, ...]:
    """The files of the repository, also those about to be added."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    return tuple(path for name in names if name and (path := ROOT / name).is_file())
