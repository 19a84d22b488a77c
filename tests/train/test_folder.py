"""Two runs into one folder: the second is refused, at once and whatever it was told to do there."""

from pathlib import Path

import pytest

from fewstep.errors import OutputError
from fewstep.files import atomic_write
from fewstep.train.folder import LOCK_FILE, alone_in_run


def refused(out: Path, resume: bool, said: str) -> None:
    with pytest.raises(OutputError, match=said), alone_in_run(out, resume):
        pass


@pytest.mark.parametrize("resume", [False, True])
def test_a_second_run_into_one_folder_is_refused(tmp_path: Path, resume: bool) -> None:
    out = tmp_path / "runs" / "out"
    with alone_in_run(out, resume):
        refused(out, resume, "out: another run writes into it; allowed: a folder of its own")
        with atomic_write(out / "loss.csv") as file:
            file.write(b"step,loss")
        refused(out, resume, "another run writes into it" if resume else "holds files already")
    assert [path.name for path in out.iterdir()] == ["loss.csv"]
    with alone_in_run(out, resume=True):
        pass


def test_a_run_that_came_to_nothing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), alone_in_run(tmp_path / "runs" / "out", resume=False):
        raise ZeroDivisionError
    assert not any(tmp_path.iterdir())


def test_the_file_of_a_run_that_was_killed_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).touch()
    with alone_in_run(tmp_path, resume=False):
        assert (tmp_path / LOCK_FILE).exists()
    assert not any(tmp_path.iterdir())


def test_a_folder_whose_file_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).mkdir()
    refused(tmp_path, True, f"{LOCK_FILE}: cannot be written: is a directory")
