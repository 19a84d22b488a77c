"""A function of a caller's own file, as "my_file.py:make_model" names it."""

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from fewstep.errors import ModelError, reason_of, some_of

SUFFIX = ".py"
MOST = 8  # names in an error


def is_own_file(name: str) -> bool:
    """Whether a name is of a Python file, with or without a function in it."""
    return _parted(name)[0].endswith(SUFFIX)


def made_by(name: str) -> Any:
    """What the function returns, which is called without arguments.

    The file runs as `python my_file.py` runs it: what lies beside it can be imported.

    Raises:
        ModelError: no such file or function, or one that raises.
    """
    file, function = _parted(name)
    path = Path(file).resolve()
    if not path.is_file():
        raise ModelError(f"{file}: no such file")
    with _beside(path.parent):
        module = _imported(path, file)
        make = getattr(module, function, None) if function else None
        if not callable(make):
            found = some_of(_functions(module), MOST) or "none"
            lacks = f"has no function {function!r}" if function else "names no function in it, as my_file.py:make_model"
            raise ModelError(f"{file}: {lacks}; it has: {found}")
        try:
            return make()
        except Exception as error:
            raise ModelError(f"{name}: raised {type(error).__name__}: {reason_of(error)}") from error


def _parted(name: str) -> tuple[str, str]:
    file, colon, function = name.rpartition(":")
    return (file, function) if colon and file.endswith(SUFFIX) else (name, "")


def _imported(path: Path, file: str) -> ModuleType:
    name = f"own_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where its own classes look for their module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ModelError(f"{file}: cannot be imported: {type(error).__name__}: {reason_of(error)}") from error
    return module


def _functions(module: ModuleType) -> list[str]:
    """Of the file itself, that can be called without arguments or say themselves what they lack."""
    own: list[tuple[str, Callable[..., Any]]] = [
        (name, value) for name, value in vars(module).items() if callable(value) and not name.startswith("_")
    ]
    return [name for name, value in own if getattr(value, "__module__", "") == module.__name__]


@contextmanager
def _beside(folder: Path) -> Iterator[None]:
    """With a folder in front of where modules are looked for."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
