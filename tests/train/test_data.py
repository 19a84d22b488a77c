"""Images to train on, how they are shown, and what is said of files that are wrong."""

import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fewstep.errors import ArgumentError
from fewstep.train.data import BUNDLED, digits, load_data
from fewstep.train.draws import Order, draw, permutation
from support.train_case import bars, bars_file


def picture(path: Path, mode: str = "L", size: tuple[int, int] = (8, 8), colour: Any = 128) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)
    return path


def test_the_digits_are_split_into_disjoint_parts_with_every_classes_share() -> None:
    train, held_out = digits()
    assert (len(train), len(held_out)) == (8000, 2000)
    assert train.labels is not None
    assert held_out.labels is not None
    counts = train.labels.bincount() + held_out.labels.bincount()
    assert (held_out.labels.bincount() - 0.2 * counts).abs().max() < 1
    together = torch.cat([train.images, held_out.images]).flatten(1)
    with np.load(BUNDLED) as whole:
        assert len(set(map(bytes, together.numpy()))) == len(set(map(bytes, whole["images"].reshape(10000, -1))))
        assert together.sum() == whole["images"].sum()


def test_the_split_never_changes() -> None:
    assert digits()[1].digest()[:16] == "1be93faf312a31e3"


def test_digits_are_padded_with_paper_and_reach_from_minus_one_to_one() -> None:
    train, _ = digits()
    x_0 = train.x_0(torch.arange(100))
    assert x_0.shape == (100, 1, 32, 32)
    assert x_0.dtype == torch.float32
    assert (float(x_0.min()), float(x_0.max())) == (-1, 1)
    assert (x_0[:, :, :2] == -1).all()
    assert (x_0[:, :, :, -2:] == -1).all()
    assert train.classes == 10


def test_the_bundled_digits_come_with_their_licence() -> None:
    note = (BUNDLED.parent / "LICENCE.md").read_text()
    assert "mnist) 1.1.0" in note
    assert "Permission is hereby granted" in note


def test_every_epoch_shows_every_image_once_in_an_order_of_its_own() -> None:
    order = Order(10, seed=3)
    shown = torch.cat([order.indices(step, 4) for step in range(10)]).view(4, 10)
    assert (shown.sort(1).values == torch.arange(10)).all()
    assert len({tuple(epoch) for epoch in shown.tolist()}) == 4
    assert Order(10, seed=3).indices(7, 4).tolist() == order.indices(7, 4).tolist()
    assert Order(10, seed=4).indices(0, 10).tolist() != order.indices(0, 10).tolist()


def test_a_batch_larger_than_the_data_spans_epochs() -> None:
    assert Order(3, 0).indices(0, 10).bincount().tolist() in ([4, 3, 3], [3, 4, 3], [3, 3, 4])


@pytest.mark.slow
def test_a_permutation_has_no_favourites() -> None:
    first = torch.tensor([int(permutation(8, 0, epoch)[0]) for epoch in range(2000)])
    assert (first.bincount(minlength=8) - 250).abs().max() < 5 * 250**0.5


def test_times_are_uniform_and_stratified_and_no_two_steps_share_noise() -> None:
    chances = [draw(7, step, 64) for step in range(100)]
    strata = torch.stack([(chance.u * 64).long() for chance in chances])
    assert (strata == torch.arange(64)).all()
    within = torch.cat([(chance.u * 64) % 1 for chance in chances])
    assert float(within.mean()) == pytest.approx(0.5, abs=5 / (12 * 6400) ** 0.5)
    assert len(torch.cat([chance.seeds for chance in chances]).unique()) == 6400
    assert (draw(7, 5, 64).u == chances[5].u).all()
    assert (draw(8, 5, 64).u != chances[5].u).any()


def test_labels_are_dropped_at_their_rate() -> None:
    drop = torch.cat([draw(0, step, 100).drop for step in range(100)])
    assert float((drop < 0.1).double().mean()) == pytest.approx(0.1, abs=5 * (0.09 / 10000) ** 0.5)


@pytest.mark.parametrize("channels", [None, 1, 3], ids=["no channel axis", "grey", "colour"])
def test_an_npz_of_images_is_read(tmp_path: Path, channels: int | None) -> None:
    images, labels = bars()
    stored = images if channels is None else np.repeat(images[..., None], channels, axis=3)
    data = load_data(str(bars_file(tmp_path, images=stored, labels=labels.astype(np.uint8))))
    assert data.shape == (channels or 1, 8, 8)
    assert (data.images[:, -1].numpy() == images).all()
    assert data.labels is not None
    assert data.labels.tolist() == labels.tolist()


def test_an_npz_without_labels_is_unconditional(tmp_path: Path) -> None:
    np.savez(tmp_path / "plain.npz", images=bars()[0])
    assert load_data(str(tmp_path / "plain.npz")).labels is None


def test_a_folder_of_pngs_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    for index in (2, 0, 1):
        picture(tmp_path / f"{index}.png", colour=index)
    data = load_data(str(tmp_path))
    assert data.images[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert data.labels is None


def test_subfolders_are_classes_and_one_colour_picture_makes_all_colour(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "1.png", colour=5)
    picture(tmp_path / "b" / "1.png", "RGB", (16, 8), (1, 2, 3))
    data = load_data(str(tmp_path), size=8)
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1]
    assert data.images[:, :, 0, 0].tolist() == [[5, 5, 5], [1, 2, 3]]


IMAGES = np.zeros((4, 8, 8), np.uint8)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": IMAGES.astype(float)}, r"images float64 \[4, 8, 8\]; allowed: images uint8"),
        ({"images": IMAGES[0]}, r"images uint8 \[8, 8\]; allowed"),
        ({"images": IMAGES[:0]}, r"images uint8 \[0, 8, 8\]; allowed"),
        ({"images": IMAGES[..., None].repeat(2, 3)}, r"images uint8 \[4, 8, 8, 2\]; allowed"),
        ({"images": np.array([{}])}, r"images object \[1\]; allowed"),
        ({"images": IMAGES, "labels": np.zeros(3, int)}, "3 labels; allowed: 4, one an image"),
        ({"images": IMAGES, "labels": np.zeros(4)}, r"labels float64 \[4\]; allowed: integers"),
        ({"images": IMAGES, "labels": np.arange(4) - 1}, "labels from -1 to 2; allowed: classes from 0"),
        ({"pictures": IMAGES}, "no array `images`; it holds pictures; allowed"),
    ],
    ids=[
        "floats",
        "one image",
        "none",
        "two channels",
        "objects",
        "few labels",
        "float labels",
        "negative",
        "name",
    ],
)
def test_an_npz_that_is_wrong_is_named_in_one_line(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    path = tmp_path / "own.npz"
    np.savez(path, **arrays)
    with pytest.raises(ArgumentError, match=f"^data: got {re.escape(str(path))}: {message}") as error:
        load_data(str(path))
    assert "\n" not in str(error.value)


def test_an_npz_that_claims_too_much_is_refused_before_it_is_decompressed(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    header = {"descr": "|u1", "fortran_order": False, "shape": (5_000_000, 2048, 2048)}
    with zipfile.ZipFile(path, "w") as archive, archive.open("images.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(ArgumentError, match="bytes of pixels; allowed: at most"):
        load_data(str(path))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not a zip"], ids=["empty", "cut short", "text"])
def test_a_file_that_is_no_npz_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(ArgumentError, match=r"bad\.npz: it cannot be read: .*; allowed: an \.npz file") as error:
        load_data(str(tmp_path / "bad.npz"))
    assert "\n" not in str(error.value)


def test_a_truncated_npz_is_named(tmp_path: Path) -> None:
    path = bars_file(tmp_path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ArgumentError, match="it cannot be read"):
        load_data(str(path))


def test_a_source_that_is_nothing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"data: got 'digit'; allowed: 'digits', an \.npz file, or a folder"):
        load_data("digit")
    with pytest.raises(ArgumentError, match=r"0 pictures; allowed: 1 to"):
        load_data(str(tmp_path))
    with pytest.raises(ArgumentError, match=r"no\.npz: it cannot be read: No such file"):
        load_data(str(tmp_path / "no.npz"))
    with pytest.raises(ArgumentError, match="size: got 28; allowed: 32 for the digits"):
        load_data("digits", size=28)


@pytest.mark.parametrize("size", [0, -1, "8", 2.0, 2049, 1 << 40, True])
def test_a_size_that_is_none_is_named(tmp_path: Path, size: Any) -> None:
    picture(tmp_path / "a.png")
    for source in (str(tmp_path), "digits", str(tmp_path / "no.npz")):
        with pytest.raises(ArgumentError, match=r"^size: got .*; allowed: an integer from 1 to 2048"):
            load_data(source, size=size)


@pytest.mark.parametrize("source", ["", None, 3, "a\0b", "\ud800"])
def test_no_source_is_not_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: Any) -> None:
    picture(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArgumentError, match=r"^data: got .*; allowed: 'digits', an \.npz file, or a folder"):
        load_data(source)
    assert len(load_data(".")) == 1


def test_pngs_that_are_wrong_are_named(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    odd = picture(tmp_path / "b.png", size=(9, 8))
    with pytest.raises(
        ArgumentError, match=r"b\.png: 9x8 pixels; allowed: 8x8, as the others, or a size to which all are scaled$"
    ):
        load_data(str(tmp_path))
    assert load_data(str(tmp_path), size=8).shape == (1, 8, 8)
    odd.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 40)
    with pytest.raises(ArgumentError, match=r"b\.png'; allowed: a PNG, JPEG or WebP file"):
        load_data(str(tmp_path))
    picture(odd, size=(3000, 1))
    with pytest.raises(
        ArgumentError,
        match=r"b\.png: 3000x1 pixels; allowed: at most 2048 a side, or a size to which larger ones are scaled$",
    ):
        load_data(str(tmp_path))


def test_the_fingerprint_sees_every_pixel_and_label(tmp_path: Path) -> None:
    images, labels = bars()
    first = load_data(str(bars_file(tmp_path))).digest()
    images[3, 4, 5] ^= 1
    second = load_data(str(bars_file(tmp_path, images=images))).digest()
    labels = labels.copy()
    labels[0] = 1
    third = load_data(str(bars_file(tmp_path, labels=labels))).digest()
    assert len({first, second, third}) == 3
