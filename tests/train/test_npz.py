"""An .npz of training images that lies about itself: refused in one line that names the file."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from fewstep import memory
from fewstep.errors import ArgumentError
from fewstep.train.data import load_data
from support.train_case import bars, bars_file


def member(array: object) -> bytes:
    page = io.BytesIO()
    np.save(page, np.asarray(array))
    return page.getvalue()


def refusal(path: Path) -> str:
    with pytest.raises(ArgumentError) as caught:
        load_data(str(path))
    message = str(caught.value)
    assert message.startswith(f"data: got {path}")
    assert len(message.splitlines()) == 1
    return message


def test_the_array_that_is_checked_is_the_one_that_is_read(tmp_path: Path) -> None:
    path = bars_file(tmp_path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("images", member(np.zeros((1, 4096, 4096), np.uint8)))
    assert "holds both images and images.npy, and programs differ in which they read" in refusal(path)
    other = bars_file(tmp_path)
    with zipfile.ZipFile(other, "a") as archive:
        archive.writestr("labels", b"x")
    assert "holds both labels and labels.npy" in refusal(other)


def test_orders_and_byte_orders_mean_the_same(tmp_path: Path) -> None:
    images, labels = bars()
    plain = load_data(str(bars_file(tmp_path)))
    other = load_data(str(bars_file(tmp_path, images=np.asfortranarray(images), labels=labels.astype(">u4"))))
    assert other.digest() == plain.digest()


def test_the_memory_there_is_bounds_what_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "wide.npz"
    header = {"descr": "|u1", "fortran_order": False, "shape": (300, 2048, 2048)}
    with zipfile.ZipFile(path, "w") as archive, archive.open("images.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, header)
    monkeypatch.setattr(memory, "available", lambda: 2**30)
    assert "what it holds takes at least 1.2 GiB, and 1.0 GiB are free" in refusal(path)
