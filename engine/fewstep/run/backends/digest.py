"""The digest of a network: of its weights, of all else that it holds, and of the code that reads both."""

import enum
import functools
import math
import types
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePath
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from fewstep.run.backends.sources import Sources, UntoldError, digest, is_installed, is_installed_file, is_of_python

__all__ = ["UntoldError", "digest_of"]

_PLAIN: Final = (bool, int, str, bytes, type(None), complex, range, type(Ellipsis))
_OF_TORCH: Final = (torch.dtype, torch.device, torch.memory_format, torch.layout)
_BUILT_IN: Final = (types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType, np.ufunc)
_HOLDERS: Final = (dict, OrderedDict, list, tuple, torch.Size)
_SHOWN: Final = (object, types.SimpleNamespace, *_HOLDERS)  # not Python's own code, and what they hold can be seen
_OF_MODULES: Final = frozenset(vars(nn.Module()))
_MAX_DEPTH: Final = 100


def digest_of(module: nn.Module) -> str:
    """64 hexadecimal digits that are the same in every process, for networks that compute the same by the same code.

    Taken of every parameter, buffer and attribute of every module in it, of their classes, and of the files that hold
    their code; see `Sources`.

    Raises:
        UntoldError: something in it has no content that can be told, such as a function made within another.
    """
    tensors = [*module.parameters(), *module.buffers()]
    try:
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # hashing lets other threads run
            found = list(zip(tensors, pool.map(_tensor_or_none, tensors), strict=True))
        return _Teller({id(tensor): (tensor, told) for tensor, told in found if told is not None}).of(module).hex()
    except RecursionError:
        raise UntoldError("nested too deep") from None


class _Teller:
    """Tells the content of values as digests, each made of a word for its kind and of the digests of what it holds.

    Args:
        known: what has been told, by its id; with the value itself, so that its id is no other's.
    """

    def __init__(self, known: Mapping[int, tuple[object, bytes]]) -> None:
        self._known: dict[int, tuple[object, bytes]] = dict(known)
        self._within: dict[int, int] = {}
        self._sources = Sources()

    def of(self, value: Any) -> bytes:
        kind = type(value)
        if kind is float:
            return digest(b"float", b"nan" if math.isnan(value) else value.hex().encode())
        if kind in _PLAIN or kind in _OF_TORCH:
            return digest(kind.__name__.encode(), repr(value).encode("utf-8", "backslashreplace"))
        if id(value) in self._known:
            return self._known[id(value)][1]
        if id(value) in self._within:
            return digest(b"back", str(len(self._within) - self._within[id(value)]).encode())
        if len(self._within) > _MAX_DEPTH:
            raise UntoldError("nested too deep")
        self._within[id(value)] = len(self._within)
        try:
            told = self._told(value)
        finally:
            del self._within[id(value)]
        self._known[id(value)] = value, told
        return told

    def _told(self, value: Any) -> bytes:
        kind = type(value)
        if isinstance(value, Tensor):
            return _tensor(value)
        if isinstance(value, np.ndarray | np.generic):
            return _array(value)
        if isinstance(value, type):
            return self._class(value)
        if callable(value) and kind in (types.FunctionType, types.MethodType, functools.partial, *_BUILT_IN):
            return self._callable(value)
        if kind is types.ModuleType:
            return self._sources.of(value.__name__)
        if isinstance(value, PurePath):
            return digest(b"path", str(value).encode("utf-8", "backslashreplace"))
        if isinstance(value, enum.Enum):
            return self._all(b"enum", (kind, value.name))
        if isinstance(value, set | frozenset):
            return digest(kind.__name__.encode(), *sorted(self.of(each) for each in value))
        own = b"" if kind in _HOLDERS else self._object(value)
        if isinstance(value, list | tuple):
            return digest(kind.__name__.encode(), own, *(self.of(each) for each in value))
        if isinstance(value, dict):
            items = (self.of(each) for pair in dict.items(value) for each in pair)
            return digest(kind.__name__.encode(), own, *items)
        return own

    def _all(self, word: bytes, values: Any) -> bytes:
        return digest(word, *(self.of(each) for each in values))

    def _object(self, value: Any) -> bytes:
        """By its class and its attributes, where those are all that it has."""
        kind = type(value)
        held = dict(getattr(value, "__dict__", {}))
        slots = [(each, vars(each).get("__slots__", ())) for each in kind.__mro__]
        names = [name for _, each in slots for name in ((each,) if isinstance(each, str) else each)]
        held |= {name: getattr(value, name) for name in names if name[:2] != "__" and hasattr(value, name)}
        seen = hasattr(value, "__dict__") or "__slots__" in vars(kind)
        if not seen or not all(is_of_python(each) or each in _SHOWN for each in kind.__mro__):
            raise UntoldError(f"a {kind.__module__}.{kind.__qualname__}")
        told = [self.of(kind)]
        for name, each in sorted(held.items()):
            if isinstance(value, nn.Module) and name in _OF_MODULES and not each and not isinstance(each, bool):
                continue  # a table of hooks or the like with nothing in it
            try:
                told += [name.encode(), self.of(each)]
            except UntoldError as error:
                raise error.at(f"{kind.__qualname__}.{name}") from None
        return digest(b"object", *told)

    def _class(self, value: type) -> bytes:
        told = [self._sources.of(value.__module__), value.__module__.encode(), value.__qualname__.encode()]
        if is_installed(value.__module__):
            return digest(b"class", *told)
        told += [self.of(each) for each in value.__bases__]
        for name, held in sorted(vars(value).items()):
            function = getattr(held, "fget", getattr(held, "__func__", held))  # of a property, or of no instance
            if isinstance(function, types.FunctionType):
                told += [name.encode(), *self._method(function, value, name)]
        return digest(b"class", *told)

    def _method(self, function: types.FunctionType, kind: type, name: str) -> Iterator[bytes]:
        """What the file of its class does not show: what it closes over, and code that is put there from elsewhere."""
        while isinstance(function, types.FunctionType):
            if not is_installed_file(function.__code__.co_filename):
                cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
                for free, cell in cells:
                    if free != "__class__":
                        yield self.of(cell.cell_contents)
            place = function.__module__, function.__qualname__
            if place != (kind.__module__, f"{kind.__qualname__}.{name}"):
                yield digest(*(str(each).encode() for each in place))
                if place[0] != kind.__module__ and not is_installed(str(place[0])):
                    yield self._callable(function)
            function = getattr(function, "__wrapped__", None)  # type: ignore[assignment]

    def _callable(self, value: Any) -> bytes:
        if isinstance(value, functools.partial):
            return self._all(b"partial", (value.func, value.args, value.keywords))
        if isinstance(value, types.MethodType):
            return self._all(b"method", (value.__func__, value.__self__))
        name, owner = str(getattr(value, "__qualname__", value.__name__)), getattr(value, "__self__", None)
        if "<" in name or not (owner is None or isinstance(owner, types.ModuleType | type)):
            raise UntoldError(f"{name}, a function without a place of its own")
        module = str(getattr(value, "__module__", None) or "builtins")
        return digest(b"function", self._sources.of(module), module.encode(), name.encode())


def _tensor(value: Tensor) -> bytes:
    if type(value) not in (Tensor, nn.Parameter):
        raise UntoldError(f"a tensor of class {type(value).__name__}")
    if value.device.type != "cpu" or value.layout is not torch.strided or value.is_quantized:
        raise UntoldError(f"a tensor on {value.device}, {value.layout}")
    order = sorted(range(value.ndim), key=value.stride, reverse=True)
    memory = value.detach().resolve_conj().resolve_neg().permute(order)  # as it lies, so that nothing is copied
    data = memory.contiguous().view(-1).view(torch.uint8).numpy() if value.numel() else b""
    return digest(b"tensor", f"{value.dtype} {tuple(value.shape)} {order}".encode(), data)


def _tensor_or_none(value: Tensor) -> bytes | None:
    """None for one that is refused where it is found, by the name of its place."""
    try:
        return _tensor(value)
    except UntoldError:
        return None


def _array(value: "np.ndarray[Any, Any] | np.generic") -> bytes:
    if value.dtype.kind not in "biufcSU" or type(value) is np.ma.MaskedArray:
        raise UntoldError(f"an array of {value.dtype}")
    return digest(b"array", str(value.dtype).encode(), repr(value.shape).encode(), value.tobytes())
