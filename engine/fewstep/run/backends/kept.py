"""What is kept of a network between processes: the model that it was converted to, and what was found out about it."""

import importlib.metadata
import platform
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from fewstep.errors import reason_of
from fewstep.run.backends.cache import Cache, Entry, key_of
from fewstep.run.backends.call import Call
from fewstep.run.backends.digest import UntoldError, digest_of
from fewstep.run.backends.openvino_import import core_of
from fewstep.run.backends.processor import cpu_features, cpu_name
from fewstep.run.backends.saying import say
from fewstep.run.backends.sources import own_sources
from fewstep.version import __version__

STATES: Final = 4  # of one network's weights that are kept: whoever trains it has a new one in every run
CONVERTING: Final = "openvino: converting"
_MODEL: Final = "model.xml"


class Kept:
    """What is kept of a network, in a cache, by the digest of all that it is.

    A network whose content cannot be told is converted and measured in each process; `why_not` says why.

    Args:
        cache: where.
        module: the network; its digest is that of its weights at the first call that needs it, until `forget`.
        how: it is executed, as far as its speed depends on it: backend, dtype, threads.
    """

    def __init__(self, cache: Cache, module: nn.Module, how: Mapping[str, object]) -> None:
        self.cache, self.module, self.how = cache, module, dict(how)
        self.why_not = ""
        self._digest: str | None = None
        self._states: set[str] = set()
        self._found: set[str] = set()  # names of models that were kept by another process

    def forget(self) -> None:
        """The network has been written into: it has another digest."""
        self._digest, self.why_not = None, ""

    def model(self, openvino: Any, call: Call, convert: Callable[[], Any]) -> tuple[Any, str]:
        """A network as an openvino.Model, "kept" or "converted" and kept now. What is kept is what is run.

        Args:
            openvino: the library.
            call: of the kind that it is for; where it takes any number of lanes, for all of them.
            convert: makes it, where it is not kept.
        """
        if self._told() is None:
            say(CONVERTING, self.module, f", in each process, since {self.why_not}, whose content cannot be told")
            return as_it_is_read(openvino, convert()), "converted"
        for lanes in (None, call.batch):
            key = key_of(self._of_model(call, lanes))
            found = self._read(openvino, self.cache.find(key))
            if found is not None:
                self._found.add(key)
                return found, "kept"
        say(CONVERTING, self.module)
        model = convert()
        entry = self._keep(openvino, model, call) if self._may_keep() else None
        return self._read(openvino, entry) or as_it_is_read(openvino, model), "converted"

    def drop(self, call: Call) -> bool:
        """Remove what another process kept for a call, since it is not what the network is; whether there was one."""
        if self._told() is None:
            return False
        keys = {key_of(self._of_model(call, lanes)) for lanes in (None, call.batch)} & self._found
        for key in keys:
            self.cache.remove(key)
        self._found -= keys
        return bool(keys)

    def finding(self, call: Call) -> dict[str, Any] | None:
        """What was found out about a kind of call as it is executed here; None where nothing was."""
        if self._told() is None:
            return None
        entry = self.cache.find(key_of(self._of_finding(call)))
        return None if entry is None else dict(entry.facts["found"])

    def keep_finding(self, call: Call, found: Mapping[str, object]) -> None:
        """Keep what was found out, in place of what was."""
        if self._told() is not None and self._may_keep():
            facts = self._of_finding(call)
            self.cache.replace(key_of(facts), {**facts, "found": dict(found)})

    def _told(self) -> str | None:
        """The digest of the network; None where it has none."""
        if self._digest is None and not self.why_not:
            try:
                self._digest = digest_of(self.module)
            except UntoldError as error:
                self.why_not = str(error)
        return self._digest

    def _may_keep(self) -> bool:
        if self._digest is not None and len(self._states) < STATES:
            self._states.add(self._digest)
        return self._digest in self._states

    def _of_network(self, call: Call) -> dict[str, object]:
        return {
            "network": type(self.module).__name__,
            "digest": self._digest,
            "names": list(call.names),
            "versions": {"fewstep": __version__, "python": platform.python_version(), "torch": torch.__version__}
            | {"openvino": _installed("openvino")},
            "sources": own_sources(),
            "autocast": torch.is_autocast_enabled("cpu"),
            "default_dtype": _name(torch.get_default_dtype()),
        }

    def _of_model(self, call: Call, lanes: int | None) -> dict[str, object]:
        inputs = [[_name(like.dtype), lanes, *like.shape[1:]] for like in call.likes]
        return {"what": "model", **self._of_network(call), "inputs": inputs}

    def _of_finding(self, call: Call) -> dict[str, object]:
        inputs = [[_name(like.dtype), *like.shape] for like in call.likes]
        machine = {"cpu": cpu_name(), "features": cpu_features(), "torch_threads": torch.get_num_threads()}
        return {"what": "finding", **self._of_network(call), "inputs": inputs, **machine, **self.how}

    def _keep(self, openvino: Any, model: Any, call: Call) -> Entry | None:
        facts = self._of_model(call, None if model.input(0).partial_shape[0].is_dynamic else call.batch)
        return self.cache.keep(key_of(facts), facts, lambda folder: _write(openvino, model, folder), self._bytes())

    def _read(self, openvino: Any, entry: Entry | None) -> Any:
        try:
            return None if entry is None else core_of(openvino).read_model(entry.path / _MODEL)
        except Exception:  # what it cannot read ends in an error of any class
            if entry is not None:
                self.cache.remove(entry.key)
            return None

    def _bytes(self) -> int:
        tensors = [*self.module.parameters(), *self.module.buffers()]
        return sum(max(4, each.element_size()) * each.numel() for each in tensors)


def as_it_is_read(openvino: Any, model: Any) -> Any:
    """A model as it is once it has been written and read, which loses what conversion notes of its divisions.

    So a network has the same bits whether it is kept or not. Where nothing can be written the model is as it was.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="fewstep-", ignore_cleanup_errors=True) as folder:
            _write(openvino, model, Path(folder))
            return core_of(openvino).read_model(Path(folder) / _MODEL)
    except Exception:  # what it cannot read ends in an error of any class
        return model


def _write(openvino: Any, model: Any, folder: Path) -> None:
    try:
        openvino.save_model(model, folder / _MODEL, compress_to_fp16=False)
    except Exception as error:  # a full disk is a RuntimeError
        raise OSError(reason_of(error)) from error


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _installed(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
