"""A picture means the same to `train`, `fewstep.Image` and `--image`: the table of `fewstep.pictures`, by value."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fewstep import pictures
from fewstep.cli.pictures import read_mask, read_picture
from fewstep.errors import ArgumentError
from fewstep.request.images import as_images, as_mask
from fewstep.train.data import load_data
from support.png import header, png

GRAY = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
COLOUR = np.stack([GRAY, GRAY.T, 255 - GRAY], axis=2)
ALPHA = np.where(np.eye(8, dtype=bool), 0, 255).astype(np.uint8)
DEEP = (np.arange(64, dtype=np.uint16) * 1000).reshape(8, 8)
ON_WHITE = np.where(np.eye(8, dtype=bool), 255, GRAY)
TURNS: dict[int, Any] = {  # EXIF: what a viewer does with the stored rows
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x),
}


def palette(transparent: bool = False, gray: bool = False) -> Image.Image:
    """Indices 0 to 63, whose colours are those of COLOUR, or gray; the first may be transparent."""
    picture = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).convert("P")
    colours = np.repeat(GRAY.reshape(64, 1), 3, axis=1) if gray else COLOUR.reshape(64, 3)
    picture.putpalette(colours.tobytes())
    if transparent:
        picture.info["transparency"] = 0
    return picture


def keyed(picture: Image.Image, key: Any) -> Image.Image:
    picture.info["transparency"] = key
    return picture


def with_corner(values: Any, corner: Any) -> Any:
    changed = values.copy()
    changed[0, 0] = corner
    return changed


# What is stored, and what it means in 0 to 255.
STORED: dict[str, tuple[Image.Image, Any]] = {
    "1": (Image.fromarray(GRAY > 100), np.where(GRAY > 100, 255, 0)),
    "L": (Image.fromarray(GRAY), GRAY),
    "L, one shade transparent": (keyed(Image.fromarray(GRAY), 0), with_corner(GRAY, 255)),
    "LA": (Image.merge("LA", [Image.fromarray(GRAY), Image.fromarray(ALPHA)]), ON_WHITE),
    "P": (palette(), COLOUR),
    "P, gray": (palette(gray=True), GRAY),
    "P, transparent": (palette(transparent=True), with_corner(COLOUR, 255)),
    "P, gray, transparent": (palette(transparent=True, gray=True), with_corner(GRAY, 255)),
    "1, black transparent": (keyed(Image.fromarray(GRAY > 100), 0), np.full((8, 8), 255)),
    "I;16, one shade transparent": (keyed(Image.fromarray(DEEP), 0), with_corner(DEEP / 257, 255)),
    "RGB": (Image.fromarray(COLOUR), COLOUR),
    "RGB, one colour transparent": (keyed(Image.fromarray(COLOUR), (0, 0, 255)), with_corner(COLOUR, 255)),
    "RGBA": (Image.fromarray(np.dstack([COLOUR, ALPHA])), np.where(np.eye(8, dtype=bool)[..., None], 255, COLOUR)),
    "I;16": (Image.fromarray(DEEP), DEEP / 257),
}


def everywhere(path: Path, channels: int) -> dict[str, Tensor]:
    """The picture as each entry has it: [C, H, W] in [-1, 1]."""
    height, width = load_data(str(path.parent)).shape[1:]
    shape = (channels, height, width)
    return {
        "train": load_data(str(path.parent)).x_0()[0],
        "Image": as_images("image", Image.open(path), 1, shape)[0],
        "--image": read_picture("image", path, shape),
    }


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("mode", STORED)
def test_a_png_means_the_same_everywhere(tmp_path: Path, mode: str, orientation: int) -> None:
    stored, expected = STORED[mode]
    exif = Image.Exif()
    exif[0x0112] = orientation
    extra = {"transparency": stored.info["transparency"]} if "transparency" in stored.info else {}
    stored.crop((0, 0, 8, 6)).save(tmp_path / "a.png", exif=exif, **extra)
    turned = TURNS[orientation](np.atleast_3d(expected)[:6].astype(float))
    found = everywhere(tmp_path / "a.png", turned.shape[2])
    for entry, value in found.items():
        rounding = 0.51 / 127.5 if entry == "train" and mode.startswith("I;16") else 1e-5
        right = torch.from_numpy(turned.copy()).permute(2, 0, 1) / 127.5 - 1
        torch.testing.assert_close(value.double(), right, atol=rounding, rtol=0, msg=f"{entry} of {mode}")


def four_pixels(bits: int, colour: int, row: bytes, key: bytes) -> bytes:
    """A PNG of one row of four pixels of such bits and colour type, with a transparent colour."""
    return png(header(4, 1, bits, colour), (b"tRNS", key), (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b""))


# Bits, colour type, one row, the key, and what it means in 0 to 255.
KEYED: dict[str, tuple[int, int, bytes, bytes, list[Any]]] = {
    "gray of 1 bit": (1, 0, b"\x50", b"\0\0", [255, 255, 255, 255]),
    "gray of 2 bits": (2, 0, b"\x1b", b"\0\1", [0, 255, 170, 255]),
    "gray of 4 bits": (4, 0, b"\x01\x5f", b"\0\5", [0, 17, 255, 255]),
    "gray of 8 bits": (8, 0, b"\x00\x01\x55\xff", b"\0\1", [0, 255, 85, 255]),
    "gray of 8 bits, none of the key": (8, 0, b"\x00\x02\x55\xff", b"\0\1", [0, 2, 85, 255]),
    "gray of 16 bits": (16, 0, struct.pack(">4H", 0, 257, 60000, 65535), b"\1\1", [0, 255, 60000 / 257, 255]),
    "RGB of 8 bits": (8, 2, bytes(range(12)), b"\0\3\0\4\0\5", [[0, 1, 2], [255] * 3, [6, 7, 8], [9, 10, 11]]),
    "RGB of 16 bits": (
        16,
        2,
        struct.pack(">12H", 30000, 60000, 5, *(256 * part for part in range(9))),
        struct.pack(">3H", 30000, 60000, 5),
        [[255] * 3, [0, 1, 2], [3, 4, 5], [6, 7, 8]],
    ),
}


@pytest.mark.parametrize("name", KEYED)
@pytest.mark.parametrize("loaded", [False, True], ids=["as it is opened", "loaded before"])
def test_a_transparent_colour_is_white_whatever_the_bits(tmp_path: Path, name: str, loaded: bool) -> None:
    bits, colour, row, key, expected = KEYED[name]
    path = tmp_path / "a.png"
    path.write_bytes(four_pixels(bits, colour, row, key))
    picture = Image.open(path)
    if loaded:
        picture.load()
    right = np.asarray(expected, dtype=np.float32).reshape(1, 4, -1)
    for found in (pictures.plain("image", picture), pictures.read_picture("image", path)):
        np.testing.assert_allclose(pictures.values(found, right.shape[2]), right, rtol=1e-6)
    if right.shape[2] == 1 and "none of" not in name:
        for asked in (lambda: pictures.plain_mask("mask", picture), lambda: pictures.read_mask("mask", path)):
            with pytest.raises(ArgumentError, match=r"^mask: got .*transparent pixels; allowed"):
                asked()


def test_a_16_bit_mask_whose_transparent_shade_does_not_occur_is_one(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(four_pixels(16, 0, struct.pack(">4H", 0, 65535, 60000, 1), b"\0\7"))
    assert np.asarray(pictures.read_mask("mask", path))[0].tolist() == pytest.approx([0, 255, 60000 / 257, 1 / 257])


@pytest.mark.parametrize("size", [(0, 4), (4, 0), (0, 0)])
def test_a_picture_of_no_pixels_is_refused(size: tuple[int, int]) -> None:
    said = rf"got {size[0]}x{size[1]} pixels; allowed: a picture of at least one"
    with pytest.raises(ArgumentError, match=f"^image: {said}"):
        as_images("image", Image.new("L", size), 1, (1, 8, 8))
    with pytest.raises(ArgumentError, match=f"^mask: {said}"):
        as_mask("mask", Image.new("L", size), 1, (1, 8, 8))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty: a download or a copy was not finished"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer, not the file itself"),
        (b"<!DOCTYPE html><html>", "an HTML page, not the file itself"),
        (b"BM" + bytes(60), "a BMP picture"),
        (b"GIF89a" + bytes(60), "a GIF picture"),
        (b"\0\0\0\x18ftypheic" + bytes(60), "a HEIC picture"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "a damaged PNG"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_picture_is_told_what_it_is(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with pytest.raises(ArgumentError, match=rf"^data: got '{path}'; allowed: a PNG, JPEG .* pixels; it is {said}"):
        load_data(str(tmp_path))
    with pytest.raises(ArgumentError, match=rf"^image: got '{path}'; allowed: .*; it is {said}"):
        read_picture("image", path, (1, 8, 8))


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(
    ("suffix", "mode"), [("jpg", "L"), ("jpg", "RGB"), ("jpg", "CMYK"), ("webp", "L"), ("webp", "RGB")]
)
def test_a_jpeg_and_a_webp_mean_the_same_everywhere(tmp_path: Path, suffix: str, mode: str, orientation: int) -> None:
    smooth = Image.fromarray(np.tile(np.arange(0, 256, 16, dtype=np.uint8), (8, 1))).convert("RGB").convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    smooth.save(tmp_path / f"a.{suffix}", exif=exif, quality=98)
    channels = load_data(str(tmp_path)).shape[0]
    found = everywhere(tmp_path / f"a.{suffix}", channels)
    right = TURNS[orientation](np.asarray(smooth.convert("RGB"), dtype=float)[:, :, :channels])
    for entry, value in found.items():
        assert (value - found["train"]).abs().max() < 1e-5, entry
    expected = torch.from_numpy(right.copy()).permute(2, 0, 1) / 127.5 - 1
    lossy = 1e-5 if suffix == "jpg" else 1.01 / 127.5
    torch.testing.assert_close(found["train"].double(), expected, atol=lossy, rtol=0)


def test_an_upside_of_a_photograph_is_up_in_training(tmp_path: Path) -> None:
    stored = Image.new("RGB", (8, 8))
    stored.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6
    stored.save(tmp_path / "a.png", exif=exif)
    assert load_data(str(tmp_path)).images[0, :, 0, 7].tolist() == [255, 0, 0]


def test_16_bit_gray_keeps_its_shade(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 30000, np.uint16)).save(tmp_path / "a.png")
    found = everywhere(tmp_path / "a.png", 1)
    shade = 30000 / 65535 * 2 - 1
    assert float(found["Image"].mean()) == pytest.approx(shade, abs=1e-6)
    assert float(found["--image"].mean()) == pytest.approx(shade, abs=1e-6)
    assert float(found["train"].mean()) == pytest.approx(117 / 127.5 - 1, abs=1e-6)  # of 8 bits
    colour = as_images("image", np.full((8, 8), 30000, np.uint16), 1, (3, 8, 8))
    assert colour.mean(dim=(0, 2, 3)).tolist() == pytest.approx([shade] * 3, abs=1e-6)
    half = read_picture("image", tmp_path / "a.png", (1, 4, 4))
    assert float(half.mean()) == pytest.approx(shade, abs=1e-6)


def test_a_gray_model_takes_a_colour_picture_by_its_luma_and_a_colour_model_a_gray_one(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "red.png")
    luma = 76 / 127.5 - 1
    assert float(read_picture("image", tmp_path / "red.png", (1, 8, 8)).mean()) == pytest.approx(luma)
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 255
    for given in (Image.open(tmp_path / "red.png"), red, torch.from_numpy(red).permute(2, 0, 1)):
        assert float(as_images("image", given, 1, (1, 8, 8)).mean()) == pytest.approx(luma)
    Image.new("L", (8, 8), 51).save(tmp_path / "gray.png")
    for image in (
        read_picture("image", tmp_path / "gray.png", (3, 8, 8)),
        as_images("image", Image.open(tmp_path / "gray.png"), 1, (3, 8, 8))[0],
        as_images("image", np.full((8, 8), 51, np.uint8), 1, (3, 8, 8))[0],
        as_images("image", np.full((8, 8, 1), 51, np.uint8), 1, (3, 8, 8))[0],
    ):
        torch.testing.assert_close(image, torch.full((3, 8, 8), 51 / 127.5 - 1))


PIXELS = torch.from_numpy(COLOUR.copy())
RIGHT = PIXELS.permute(2, 0, 1).float() / 127.5 - 1


@pytest.mark.parametrize(
    "given",
    [
        COLOUR,
        COLOUR.transpose(2, 0, 1),
        COLOUR[::-1][::-1],
        COLOUR.astype(np.uint16) * 257,
        COLOUR.astype(">u2") * 257,
        RIGHT.numpy(),
        RIGHT.numpy().transpose(1, 2, 0),
        RIGHT.numpy().astype(np.longdouble),
        PIXELS,
        PIXELS.permute(2, 0, 1),
        PIXELS.permute(2, 0, 1)[None],
        torch.from_numpy(COLOUR.astype(np.uint16) * 257),
        RIGHT.double(),
        [COLOUR],
        [RIGHT],
        Image.fromarray(COLOUR),
        [Image.fromarray(COLOUR)],
        np.dstack([COLOUR, np.full((8, 8), 255, np.uint8)]),
    ],
    ids=lambda value: f"{type(value).__name__} {getattr(value, 'dtype', '')} {list(getattr(value, 'shape', ''))}",
)
def test_arrays_and_tensors_of_each_kind_mean_the_same(given: Any) -> None:
    torch.testing.assert_close(as_images("image", given, 2, (3, 8, 8)).float(), RIGHT.expand(2, -1, -1, -1))


def test_bools_are_black_and_white_and_an_alpha_model_keeps_its_alpha() -> None:
    image = as_images("image", GRAY > 100, 1, (1, 8, 8))
    assert (image[0, 0].numpy() == np.where(GRAY > 100, 1, -1)).all()
    rgba = np.dstack([COLOUR, ALPHA])
    for given in (rgba, Image.fromarray(rgba)):
        assert as_images("image", given, 1, (4, 8, 8))[0, 3].diagonal().tolist() == [-1.0] * 8


ANIMATION = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (np.eye(8, dtype=np.uint8), r"no values of torch\.uint8 but 0 and 1; allowed: 255 for white"),
        (np.eye(8, dtype=np.uint16), r"no values of torch\.uint16 but 0 and 1; allowed: 65535 for white"),
        (np.ones((8, 8), np.int64), r"a tensor of torch\.int64; allowed: floats"),
        (np.ones((8, 8), np.complex64), "an array of complex64; allowed: floats"),
        (np.array(["a"]), "an array of <U1; allowed: floats"),
        (np.ones((0, 8, 8)), "a tensor of torch.float64"),
        ("photo.png", "a str; allowed: floats"),
        ([], "an empty list; allowed: at least one image"),
        ([GRAY, GRAY[:4]], r"shapes \[1, 8, 8\], .*; allowed: images of one shape"),
        (GRAY.astype(float), "values from 0 to 252; allowed: finite values"),
        (Image.new("F", (8, 8)), "pixels of mode F; allowed: 8 bits a channel or 16-bit gray"),
        (Image.new("I", (8, 8)), "pixels of mode I; allowed: 8 bits"),
        (Image.new("LAB", (8, 8)), "pixels of mode LAB; allowed: 8 bits"),
        (Image.new("L", (9, 8)), r"shape \(1, 1, 8, 9\); allowed"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_has_no_meaning_as_an_image_is_refused_by_name(given: Any, said: str) -> None:
    with pytest.raises(ArgumentError, match=f"^image: got {said}"):
        as_images("image", given, 1, (1, 8, 8))


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_an_animation_is_refused_and_the_first_picture_of_a_camera_taken(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    ANIMATION[0].save(path, save_all=True, append_images=ANIMATION[1:])
    with pytest.raises(ArgumentError, match=rf"data: got .*a\.{suffix}: an animation of 2 frames; allowed: one"):
        load_data(str(tmp_path))
    with pytest.raises(ArgumentError, match="image: got an animation of 2 frames"):
        as_images("image", Image.open(path), 1, (3, 8, 8))
    red, *others = as_images("image", Image.open(path).copy(), 1, (3, 8, 8))[0]  # the first frame alone
    assert (red - 1).abs().max() < 0.01
    assert max((other + 1).abs().max() for other in others) < 0.01
    path.unlink()
    ANIMATION[0].save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=ANIMATION[1:])
    assert load_data(str(tmp_path)).images[0, 0].min() > 200


WHITE_BELOW = np.arange(64).reshape(8, 8) >= 32
MASK = torch.from_numpy(WHITE_BELOW).float()[None, None]


@pytest.mark.parametrize(
    "given",
    [
        WHITE_BELOW,
        WHITE_BELOW.astype(np.uint8),
        WHITE_BELOW.astype(np.uint8) * 255,
        WHITE_BELOW.astype(np.int64),
        WHITE_BELOW.astype(np.uint16) * 65535,
        WHITE_BELOW.astype(np.float64),
        WHITE_BELOW[..., None],
        WHITE_BELOW[None],
        torch.from_numpy(WHITE_BELOW),
        torch.from_numpy(WHITE_BELOW).byte(),
        torch.from_numpy(WHITE_BELOW).byte() * 255,
        torch.from_numpy(WHITE_BELOW).long()[None],
        torch.from_numpy(WHITE_BELOW).half()[None, None],
        Image.fromarray(WHITE_BELOW),
        Image.fromarray(WHITE_BELOW.astype(np.uint8) * 255),
        Image.fromarray(WHITE_BELOW.astype(np.uint8) * 255).convert("RGBA"),
        Image.fromarray(WHITE_BELOW.astype(np.uint16) * 65535),
        [Image.fromarray(WHITE_BELOW)],
    ],
    ids=lambda value: f"{type(value).__name__} {getattr(value, 'dtype', '') or getattr(value, 'mode', '')}",
)
def test_a_mask_of_each_kind_means_the_same(given: Any, tmp_path: Path) -> None:
    torch.testing.assert_close(as_mask("mask", given, 1, (3, 8, 8)).to(MASK.dtype), MASK)
    if isinstance(given, Image.Image):
        given.save(tmp_path / "m.png")
        torch.testing.assert_close(read_mask("mask", tmp_path / "m.png", (3, 8, 8), tmp_path / "m.png"), MASK[0, 0])


def test_a_mask_lies_where_its_picture_does(tmp_path: Path) -> None:
    Image.new("L", (64, 48)).save(tmp_path / "photo.png")
    for size in ((64, 48), (32, 24), (33, 25), (16, 16)):
        Image.new("L", size, 255).save(tmp_path / "mask.png")
        assert read_mask("mask", tmp_path / "mask.png", (1, 16, 16), tmp_path / "photo.png").min() == 1
    Image.new("L", (48, 48), 255).save(tmp_path / "mask.png")
    with pytest.raises(ArgumentError, match=r"48x48 pixels; allowed: the proportions of the image, 64x48, or the mod"):
        read_mask("mask", tmp_path / "mask.png", (1, 16, 16), tmp_path / "photo.png")


def test_a_mask_of_ones_and_a_soft_one() -> None:
    assert as_mask("mask", np.ones((16, 16), np.uint8), 1, (1, 16, 16)).min() == 1
    assert as_mask("mask", np.zeros((16, 16), np.uint8), 1, (1, 16, 16)).max() == 0
    soft = as_mask("mask", np.full((8, 8), 51, np.uint8), 2, (1, 8, 8))
    torch.testing.assert_close(soft, torch.full((2, 1, 8, 8), 0.2, dtype=soft.dtype))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (np.full((8, 8), 255.0), r"values outside \[0, 1\]; allowed: 1 where the sample is generated"),
        (np.full((8, 8), 2, np.int32), r"values outside \[0, 1\]; allowed"),
        (np.full((8, 8), np.nan), r"values outside \[0, 1\]; allowed"),
        (np.array("mask"), "an array of <U4; allowed: 1 where"),
        (np.zeros((8, 8, 3), np.uint8), r"shape \(1, 3, 8, 8\); allowed: \[8, 8\]"),
        (Image.merge("LA", [Image.new("L", (8, 8))] * 2), "transparent pixels; allowed: a picture of black"),
        (Image.new("RGBA", (8, 8), (255, 255, 255, 0)), "transparent pixels; allowed"),
        (Image.new("RGB", (8, 8), "red"), "colours in it; allowed: a picture of black"),
        (Image.new("L", (8, 8), 1), "pixels that are all black or nearly; .*; white is 255, not 1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_has_no_meaning_as_a_mask_is_refused_by_name(given: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=f"^mask: got {said}"):
        as_mask("mask", given, 1, (3, 8, 8))
    if isinstance(given, Image.Image):
        given.save(tmp_path / "m.png")
        with pytest.raises(ArgumentError, match=rf"^mask: got .*m\.png: {said}"):
            read_mask("mask", tmp_path / "m.png", (3, 8, 8), tmp_path / "m.png")
