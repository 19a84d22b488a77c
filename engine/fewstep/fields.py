"""Reading JSON that may be hostile: a file within bounds, then every field by name, with its type and its bounds."""

import json
import stat
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from fewstep.checks import exact, named, real, whole
from fewstep.errors import ModelError
from fewstep.errors import shown as shown  # for all who read with this file
from fewstep.mistaken import HEAD, mistaken

T = TypeVar("T")
MAX_JSON_BYTES: Final = 4 << 20
MAX_LIST: Final = 100_000  # entries in any list of a JSON file


class Fields:
    """One JSON object whose fields are taken one by one.

    `where` starts every message, such as "digits/fewstep.json: unet". A method called with `default` accepts an
    absent field; `finish` refuses the fields that nobody asked for. All problems are ModelError. `names` are what the
    file calls fields that have been read under other names; those of `apart` somebody said who is not the file, and
    their messages start with their names.
    """

    def __init__(
        self,
        data: Any,
        where: str,
        names: Mapping[str, str] | None = None,
        apart: Collection[str] = (),
    ) -> None:
        if not isinstance(data, Mapping):
            raise ModelError(f"{where}: got {shown(data)}; allowed: an object")
        self.data: Mapping[str, Any] = data
        self.where = where
        self._names = names or {}
        self._apart = apart
        self._asked: set[str] = set()

    def integer(self, name: str, low: int, high: int, default: int | None = None) -> int:
        """An integer from low to high."""
        return integer(self._value(name, default), low, high, self.at(name))

    def optional_integer(self, name: str, low: int, high: int, default: int | None = None) -> int | None:
        """An integer or null; `default` where the field is absent."""
        if name not in self.data:
            return default
        return self.integer(name, low, high) if self.has(name) else None

    def integers(self, name: str, low: int, high: int, default: Sequence[int] | None = None) -> tuple[int, ...]:
        return self._list(name, default, lambda value, where: integer(value, low, high, where))

    def number(self, name: str, low: float, high: float, default: float | None = None) -> float:
        """A finite number from low to high."""
        return number(self._value(name, default), low, high, self.at(name))

    def numbers(self, name: str, low: float, high: float) -> tuple[float, ...]:
        """A list of such numbers."""
        return self._list(name, None, lambda value, where: number(value, low, high, where))

    def flag(self, name: str, default: bool | None = None) -> bool:
        """True or false."""
        return flag(self._value(name, default), self.at(name))

    def flags(self, name: str) -> tuple[bool, ...]:
        """A list of those."""
        return self._list(name, None, flag)

    def choice(self, name: str, allowed: Sequence[str], default: str | None = None) -> str:
        """One of the allowed texts."""
        return choice(self._value(name, default), allowed, self.at(name))

    def optional_choice(self, name: str, allowed: Sequence[str], default: str | None = None) -> str | None:
        """One of the allowed texts or null; `default` where the field is absent."""
        if name not in self.data:
            return default
        return self.choice(name, allowed) if self.has(name) else None

    def choices(self, name: str, allowed: Sequence[str], default: Sequence[str] | None = None) -> tuple[str, ...]:
        return self._list(name, default, lambda value, where: choice(value, allowed, where))

    def text(self, name: str, default: str | None = None, max_length: int = 10_000) -> str:
        """A text of bounded length."""
        return text(self._value(name, default), max_length, self.at(name))

    def texts(self, name: str, default: Sequence[str] | None = None, max_length: int = 10_000) -> tuple[str, ...]:
        return self._list(name, default, lambda value, where: text(value, max_length, where))

    def only(self, name: str, allowed: Any, default: Any = None) -> None:
        """The field, if given, must be `allowed`: for what a file can say and fewstep does not have."""
        value = self.data.get(name, default)
        self._asked.add(name)
        # In Python True == 1; a file that says true where 1 is meant is wrong all the same.
        if value != allowed or isinstance(value, bool) != isinstance(allowed, bool):
            raise self.error(name, f"got {shown(value)}; supported: {shown(allowed)}")

    def child(self, name: str) -> "Fields":
        """A nested object."""
        return Fields(self._value(name, None), self.at(name))

    def has(self, name: str) -> bool:
        """Whether the field is there and not null; counts as asked for."""
        self._asked.add(name)
        return self.data.get(name) is not None

    def ignore(self, *names: str) -> None:
        """Accept fields without reading them."""
        self._asked.update(names)

    def finish(self) -> None:
        """Refuse the fields that nobody asked for."""
        unknown = sorted(str(name) for name in self.data if name not in self._asked)
        if unknown:
            known = named(sorted(self._asked), unknown[0])
            raise ModelError(f"{self.where}: unknown field {shown(unknown[0])}; allowed: {known}")

    def at(self, name: str) -> str:
        """Where a field is, for messages."""
        return self.called(name) if self.said_apart(name) else f"{self.where}: {self.called(name)}"

    def said_apart(self, name: str) -> bool:
        """Whether a field was said by somebody who is not the file."""
        return name in self._apart

    def called(self, name: str) -> str:
        """What the file calls a field."""
        return self._names.get(name, name)

    def error(self, name: str, problem: str) -> ModelError:
        """The error that says `problem` of a field."""
        return ModelError(f"{self.at(name)}: {problem}")

    def _value(self, name: str, default: Any) -> Any:
        self._asked.add(name)
        if name in self.data:
            return self.data[name]
        if default is None:
            raise self.error(name, "is missing")
        return default

    def _list(self, name: str, default: Sequence[T] | None, read: Callable[[Any, str], T]) -> tuple[T, ...]:
        values = self._value(name, default)
        if not isinstance(values, (list, tuple)) or len(values) > MAX_LIST:
            raise self.error(name, f"got {shown(values)}; allowed: a list of at most {MAX_LIST} entries")
        return tuple(read(value, f"{self.at(name)}[{index}]") for index, value in enumerate(values))


def integer(value: Any, low: int, high: int, where: str) -> int:
    """`value` if it is an integer from low to high; a bool is none."""
    found = whole(value)
    if found is None or not low <= found <= high:
        raise ModelError(f"{where}: got {shown(value)}; allowed: an integer from {low} to {high}")
    return found


def number(value: Any, low: float, high: float, where: str) -> float:
    """`value` as a float if it is a number from low to high, so never NaN."""
    found = real(value)
    if found is None or not low <= found <= high:
        raise ModelError(f"{where}: got {shown(value)}; allowed: a number from {exact(low)} to {exact(high)}")
    return found


def flag(value: Any, where: str) -> bool:
    """`value` if it is a bool."""
    if not isinstance(value, bool):
        raise ModelError(f"{where}: got {shown(value)}; allowed: true or false")
    return value


def choice(value: Any, allowed: Sequence[str], where: str) -> str:
    """`value` if it is one of the allowed texts."""
    if not isinstance(value, str) or value not in allowed:
        raise ModelError(f"{where}: got {shown(value)}; supported: {', '.join(allowed)}")
    return value


def text(value: Any, max_length: int, where: str) -> str:
    """`value` if it is a text of at most so many characters."""
    if not isinstance(value, str) or len(value) > max_length:
        raise ModelError(f"{where}: got {shown(value)}; allowed: a text of at most {max_length} characters")
    return value


def read_json(path: Path, constants: bool = False) -> dict[str, Any]:
    """The object in a JSON file: bounded in size, no key twice; NaN and infinity only with `constants`."""
    size = file_size(path)
    if size > MAX_JSON_BYTES:
        raise ModelError(f"{path}: is {size:,} bytes; allowed: at most {MAX_JSON_BYTES:,}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error
    if what := mistaken(data[:HEAD]):
        raise ModelError(f"{path}: is not valid JSON: it is {what}")
    return parse_json(data, str(path), constants)


def parse_json(data: bytes, where: str, constants: bool = False) -> dict[str, Any]:
    """As `read_json`, from memory. Takes time in proportion to the length of the data, whatever they hold."""
    try:
        constant = None if constants else _no_constant
        value = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_object, parse_constant=constant)
        if b"\\u" in data:  # an escape may be half of a surrogate pair, which no file name and no stream takes
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{where}: is not valid JSON: {_reason(error)}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{where}: got {shown(value)}; allowed: a JSON object")
    return value


def file_size(path: Path) -> int:
    """Bytes in a regular file."""
    try:
        status = path.stat()
    except OSError as error:
        raise unreadable(path, error) from error
    except ValueError as error:  # a NUL in the name
        raise ModelError(f"{path}: is no name of a file") from error
    if not stat.S_ISREG(status.st_mode):
        raise ModelError(f"{path}: is not a regular file")
    return status.st_size


def unreadable(path: Path, error: OSError) -> ModelError:
    """The error to raise for a file that the system does not let us read."""
    reason = error.strerror or str(error)
    return ModelError(f"{path}: cannot be read: {reason[:1].lower()}{reason[1:]}")


def _reason(error: ValueError | RecursionError) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, UnicodeEncodeError):
        return f"a text holds {shown(error.object[error.start])}, half of a surrogate pair"
    return " ".join(str(error).split())


def _object(pairs: list[tuple[str, T]]) -> dict[str, T]:
    result: dict[str, T] = {}
    for name, value in pairs:
        if name in result:
            raise ValueError(f"field {shown(name)} is given twice")
        result[name] = value
    return result


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")
