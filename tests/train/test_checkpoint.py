"""Checkpoints: whole or absent, checked when read, never lost to a later failure."""

import errno
import os
import re
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from fewstep.errors import FewstepError, ModelError, OutputError
from fewstep.staging import mend
from fewstep.train import checkpoint
from fewstep.train.checkpoint import (
    CORRUPT,
    Checkpoint,
    checkpoints,
    latest_checkpoint,
    read_checkpoint,
    save_checkpoint,
)
from fewstep.train.config import FitConfig
from fewstep.train.fit import State, check_fits
from support.train_case import contents

ABOUT = {"config": {"steps": 3}, "seconds": 0.5}


def tensors(step: int) -> dict[str, Tensor]:
    value = torch.arange(24.0).reshape(1, 2, 3, 4) + step
    return {"model.weight": value.to(memory_format=torch.channels_last), "adamw.step.weight": torch.tensor(float(step))}


def saved(folder: Path, *steps: int, keep: int = 9) -> list[Path]:
    return [save_checkpoint(folder, step, tensors(step), ABOUT, keep) for step in steps]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def silent(line: str) -> None:
    raise AssertionError(line)


def test_a_checkpoint_is_read_as_it_was_written(tmp_path: Path) -> None:
    (path,) = saved(tmp_path / "new", 12)
    assert path.name == "step-00000012.safetensors"
    found = read_checkpoint(path)
    assert (found.step, found.about) == (12, ABOUT)
    assert found.tensors.keys() == tensors(12).keys()
    assert all(torch.equal(found.tensors[name], value) for name, value in tensors(12).items())


def test_the_last_few_are_kept(tmp_path: Path) -> None:
    saved(tmp_path, 5, 10, 15, 20, keep=2)
    assert names(tmp_path) == ["step-00000015.safetensors", "step-00000020.safetensors"]
    found = latest_checkpoint(tmp_path, silent)
    assert found is not None
    assert found.step == 20


def test_an_empty_or_missing_folder_has_none(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path, silent) is None
    assert latest_checkpoint(tmp_path / "missing", silent) is None


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-10] ^= 4
    path.write_bytes(data)


def other_step(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"step":"20"', b'"step":"21"'))


def forged(path: Path, step: int = 20, about: Any = ABOUT, **more: Tensor) -> None:
    """A checkpoint that is whole, its fingerprint right, under the name of another."""
    made = save_checkpoint(path.parent / "forge", step, tensors(step) | more, about, 1)
    made.replace(path)
    made.parent.rmdir()


def rewritten(path: Path, **metadata: str) -> None:
    with safe_open(path, framework="pt") as file:
        before = file.metadata()
    path.write_bytes(save(load_file(path), before | metadata))


def recast(path: Path, change: Callable[[Tensor], Tensor]) -> None:
    with safe_open(path, framework="pt") as file:
        before = file.metadata()
    path.write_bytes(save({name: change(tensor) for name, tensor in load_file(path).items()}, before))


def replaced(path: Path, make: Callable[[Path], Any]) -> None:
    path.unlink()
    make(path)


NOT_FINITE = "is not of finite float32"
DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a bit flipped": (flipped, "its content is not what was written"),
    "another step claimed": (other_step, "holds step 21, which is not the one of its name"),
    "cut short": (lambda path: os.truncate(path, path.stat().st_size - 7), "truncated"),
    "emptied": (lambda path: os.truncate(path, 0), "truncated"),
    "zeros": (lambda path: path.write_bytes(bytes(path.stat().st_size)), "JSON|hole"),
    "another file": (lambda path: path.write_bytes(b"{}" * 100), "header"),
    "another step's": (lambda path: forged(path, 10), "holds step 10, which is not the one of its name"),
    "an absurd step": (lambda path: rewritten(path, step="9" * 5000), "step: got '999.*text of at most 9"),
    "a step in other digits": (lambda path: rewritten(path, step="\u0662\u0660"), "step: got .*allowed: a number"),
    "half a surrogate pair": (lambda path: rewritten(path, about='{"a": "\\ud800"}'), "half of a surrogate pair"),
    "a name twice": (lambda path: rewritten(path, about='{"a": 1, "a": 1}'), "'a' is given twice"),
    "nested": (lambda path: rewritten(path, about="[" * 100_000), "nested too deeply"),
    "seconds in words": (lambda path: forged(path, about={"seconds": "0.5"}), "seconds: got '0.5'"),
    "settings in a list": (lambda path: forged(path, about={"config": []}), r"config: got \[\]; allowed: an object"),
    "commands in numbers": (lambda path: forged(path, about={"commands": [1]}), r"commands\[0\]: got 1"),
    "no numbers": (lambda path: recast(path, lambda tensor: tensor * torch.nan), NOT_FINITE),
    "bfloat16": (lambda path: recast(path, lambda tensor: tensor.bfloat16()), NOT_FINITE),
    "a folder": (lambda path: replaced(path, Path.mkdir), "is not a regular file"),
    "a pipe": (lambda path: replaced(path, os.mkfifo), "is not a regular file"),
    "a link to nothing": (lambda path: replaced(path, lambda p: p.symlink_to("nowhere")), "cannot be read: no such"),
    "a link to itself": (lambda path: replaced(path, lambda p: p.symlink_to(p)), "cannot be read: too many levels"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_corrupt_one_is_named_and_the_one_before_it_used(tmp_path: Path, damage: str) -> None:
    spoil, reason = DAMAGES[damage]
    _, last = saved(tmp_path, 10, 20)
    spoil(last)
    with pytest.raises(ModelError, match=f"^{re.escape(str(last))}.*({reason})"):
        read_checkpoint(last)
    said: list[str] = []
    found = latest_checkpoint(tmp_path, said.append)
    assert found is not None
    assert found.step == 10
    assert len(said) == 1
    assert len(said[0].splitlines()) == 1
    assert re.match(f"{re.escape(str(last))}.*set aside as {last.name}{CORRUPT}, step-00000010.* is used", said[0])
    assert latest_checkpoint(tmp_path, silent) is not None
    saved(tmp_path, 15, keep=1)
    assert names(tmp_path) == ["step-00000015.safetensors", last.name + CORRUPT]


@pytest.mark.parametrize("failure", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_one_that_is_too_large_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    _, last = saved(tmp_path, 10, 20)

    def read(path: Path) -> Checkpoint:
        if path == last:
            raise failure
        return read_checkpoint(path)

    monkeypatch.setattr(checkpoint, "read_checkpoint", read)
    said: list[str] = []
    found = latest_checkpoint(tmp_path, said.append)
    assert found is not None
    assert found.step == 10
    assert said[0].startswith(f"{last}: is too large for the memory there is; set aside")


def test_one_that_is_no_good_to_the_run_is_passed_over(tmp_path: Path) -> None:
    module = nn.Linear(2, 3)
    state = State(module, FitConfig())
    module(torch.ones(1, 2)).sum().backward()
    state.optimiser.step()
    save_checkpoint(tmp_path, 10, state.tensors(), ABOUT, 9)
    saved(tmp_path, 20)
    said: list[str] = []
    found = latest_checkpoint(tmp_path, said.append, lambda each: check_fits(each, module))
    assert found is not None
    assert found.step == 10
    assert "step-00000020.safetensors: holds another model than the one that is trained; set aside" in said[0]
    state.load(found)


def test_where_all_are_corrupt_none_is_touched(tmp_path: Path) -> None:
    for path in saved(tmp_path, 10, 20):
        flipped(path)
    before = contents(tmp_path)
    with pytest.raises(ModelError, match=r"step-00000020.*; no earlier checkpoint can be read either"):
        latest_checkpoint(tmp_path, silent)
    assert contents(tmp_path) == before


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, 10, 20)
    before = contents(tmp_path)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"step-00000030\.safetensors: cannot be written: no space left on device"):
        saved(tmp_path, 30, keep=1)
    assert contents(tmp_path) == before


def test_a_write_that_breaks_off_leaves_what_was_there(tmp_path: Path) -> None:
    saved(tmp_path, 10)
    before = contents(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
    try:
        with pytest.raises(OutputError, match=r"step-00000020\.safetensors: cannot be written: file too large"):
            saved(tmp_path, 20, keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert contents(tmp_path) == before


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_checkpoint_that_would_be_no_good_is_not_written(tmp_path: Path, bad: float) -> None:
    saved(tmp_path, 10)
    before = contents(tmp_path)
    with pytest.raises(FewstepError, match=r"step 20: ema\.bias holds NaN or infinity; no checkpoint"):
        save_checkpoint(tmp_path, 20, tensors(20) | {"ema.bias": torch.tensor([0.0, bad])}, ABOUT, 1)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("about", "reason"),
    [({"notes": "x" * (1 << 20)}, "about: got"), ({"loss": float("nan")}, "about: is not valid JSON: NaN")],
    ids=["too long", "not a number"],
)
def test_words_that_could_not_be_read_again_are_not_written(tmp_path: Path, about: dict[str, Any], reason: str) -> None:
    saved(tmp_path, 10)
    before = contents(tmp_path)
    with pytest.raises(FewstepError, match=f"step 20: {reason}"):
        save_checkpoint(tmp_path, 20, tensors(20), about, 1)
    assert contents(tmp_path) == before


def test_what_a_killed_writer_left_is_no_checkpoint_and_goes(tmp_path: Path) -> None:
    saved(tmp_path, 10)
    (tmp_path / ".fewstep-00ff.tmp").write_bytes(b"half")
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000010.safetensors"]
    mend(tmp_path)
    assert names(tmp_path) == ["step-00000010.safetensors"]
