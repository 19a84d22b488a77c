"""The code that a network runs, as a digest: of its files, or of the version of the package that they belong to."""

import functools
import hashlib
import os
import re
import sys
import sysconfig
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import fewstep_kernels

OURS: Final = ("fewstep", "fewstep_kernels")  # their version does not change with every edit
_HEAP_TYPE: Final = 1 << 9  # Py_TPFLAGS_HEAPTYPE, which a class of Python's own has


class UntoldError(Exception):
    """The content of something cannot be told, so neither can that of the network; the message says of what."""

    def __init__(self, what: str, place: str = "") -> None:
        self.what, self.place = what, place
        super().__init__(f"{place} is {what}" if place else what)

    def at(self, place: str) -> "UntoldError":
        """The same, where it was found; the innermost place stays."""
        return self if self.place else UntoldError(self.what, place)


def digest(*parts: Any) -> bytes:
    """Of the bytes of several, each with its length, so that no two lists of them have one digest."""
    made = hashlib.sha256()
    for part in parts:
        made.update(memoryview(part).nbytes.to_bytes(8, "little"))
        made.update(part)
    return made.digest()


class Sources:
    """Digests of the code of modules, by their names.

    A module that belongs to Python or to an installed package counts by the version of that package. Any other counts
    by its file and by the constants that it has now, and so do those that it has functions, classes or modules of.
    """

    def __init__(self) -> None:
        self._known: dict[str, bytes] = {}
        self._files: dict[str, bytes] = {}

    def of(self, module: str) -> bytes:
        """The digest of a module's code.

        Raises:
            UntoldError: it is in no file, as what is typed into a notebook.
        """
        if module not in self._known:
            self._known[module] = digest(*(part for name in sorted(_reached(module)) for part in self._one(name)))
        return self._known[module]

    def _one(self, name: str) -> tuple[bytes, bytes]:
        if name not in self._files:
            self._files[name] = _content(name)
        return name.encode(), self._files[name]


@functools.cache
def own_sources() -> str:
    """The digest of the files here that make a program of a network, and of the ops that it calls."""
    folders = [Path(__file__).parent, Path(str(fewstep_kernels.__file__)).parent]
    paths = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
    return digest(*(part for path in paths for part in (path.name.encode(), path.read_bytes()))).hex()


@functools.cache
def is_installed(module: str) -> bool:
    """Whether a module belongs to Python or to a package that was installed, and stays as its version says."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if module == "__main__" or (file is not None and module.partition(".")[0] in OURS):
        return False
    return file is None or is_installed_file(file)


@functools.cache
def is_installed_file(file: str) -> bool:
    """Whether a file stands where Python and packages are installed."""
    return os.path.realpath(file).startswith(_installed_folders())


def is_of_python(kind: type) -> bool:
    """Whether a class is Python's own code, whose objects hold nothing but attributes."""
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    return bool(kind.__flags__ & _HEAP_TYPE) and file is not None and file.endswith(".py")


@functools.cache
def _installed_folders() -> tuple[str, ...]:
    return tuple({os.path.realpath(path) + os.sep for path in sysconfig.get_paths().values()})


def _content(name: str) -> bytes:
    if is_installed(name):
        package = sys.modules.get(name.partition(".")[0])
        if package is None:
            raise UntoldError(f"code of {name}, which is in no file")
        return str(getattr(package, "__version__", "")).encode()
    try:
        return Path(str(sys.modules[name].__file__)).read_bytes() + _constants(name)
    except (AttributeError, OSError):
        raise UntoldError(f"code of {name}, which is in no file") from None


def _constants(name: str) -> bytes:
    """The plain values of names in capitals: they may have been set from outside."""
    held = {each: value for each, value in vars(sys.modules[name]).items() if each.isupper()}
    plain = {each: value for each, value in held.items() if isinstance(value, bool | int | float | str | None)}
    return repr(sorted(plain.items())).encode("utf-8", "backslashreplace")


def _reached(module: str) -> Iterator[str]:
    """A module, and those whose functions, classes and modules it has names for; of installed ones no further."""
    seen, waiting = {module}, [module]
    while waiting:
        name = waiting.pop()
        yield name
        if is_installed(name):
            continue
        for attribute, held in list(vars(sys.modules[name]).items()):
            if isinstance(held, types.ModuleType):
                other = held.__name__
                if other.startswith(f"{name}.") and not _names(name, attribute):
                    continue  # somebody else has imported it, later
            elif isinstance(held, type | types.FunctionType):
                other = str(held.__module__)
            else:
                continue
            if other not in seen and other in sys.modules and not is_installed(other):
                seen.add(other)
                waiting.append(other)


def _names(package: str, submodule: str) -> bool:
    """Whether the file of a package speaks of a submodule, which is an attribute of it once anybody imports it."""
    file = getattr(sys.modules[package], "__file__", None)
    return file is None or re.search(rf"\b{re.escape(submodule)}\b", Path(file).read_text(errors="replace")) is not None
