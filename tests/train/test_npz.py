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


@pytest.mark.parametrize("name", ["label", "Labels", "lables", "labels_"])
def test_labels_under_another_name_are_not_lost(tmp_path: Path, name: str) -> None:
    images, labels = bars()
    path = tmp_path / "own.npz"
    np.savez(path, images=images, **{name: labels})
    assert f"an array {name} and no `labels`; allowed: the classes under the name `labels`" in refusal(path)


def test_other_arrays_are_left_out_by_name(tmp_path: Path) -> None:
    images, labels = bars()
    path = tmp_path / "own.npz"
    np.savez(path, images=images, labels=labels, label=labels, ids=labels)
    data = load_data(str(path))
    assert data.left_out == ("left out: 2 arrays not named images or labels: label, ids",)
    assert data.labels is not None
    np.savez(path, images=images, y=labels)
    assert load_data(str(path)).left_out == ("left out: 1 array not named images or labels: y",)
    np.savez(path, x=images, y=labels)
    assert "no array `images`; it holds x, y; allowed: an .npz with" in refusal(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is empty: a download or a copy was not finished"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "it is a Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "it is an HTML page"),
        (b"PK\x03\x04", "File is not a zip file"),
    ],
    ids=["empty", "pointer", "page", "cut short"],
)
def test_what_is_no_npz_is_told_what_it_is(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "own.npz").write_bytes(content)
    assert f"own.npz: it cannot be read: {said}" in refusal(tmp_path / "own.npz")
