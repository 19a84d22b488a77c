"""What a picture means, whoever hands it over: upright, opaque, and gray or RGB in the values 0 to 255.

    a file, or PIL's mode       what is made of it
    turned by EXIF              turned upright
    alpha, or a transparent     laid on white; of a mask, refused
    colour or shade
    16-bit gray                 0 to 65535 becomes 0 to 255 without rounding: mode F
    palette                     its colours; gray where all of them are
    1, CMYK, YCbCr, HSV         gray or RGB
    I, F, LAB                   refused: nothing says which of their values is white
    several frames              refused; the further pictures in a camera's JPEG are left alone

Colour profiles and gamma are not applied: bytes are taken for sRGB, as training data are.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from fewstep.errors import ArgumentError, reason_of
from fewstep.mistaken import head_of, mistaken

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS: Final = ("PNG", "JPEG", "WEBP")
MAX_PIXELS: Final = 64 << 20  # decoded; a small file can claim far more
WHITE: Final = 255
NEUTRAL: Final = 8  # of 255: how far apart the channels of a gray pixel may be, which a JPEG rounds
PLAIN: Final = {"1": "L", "L": "L", "RGB": "RGB", "RGBX": "RGB", "CMYK": "RGB", "YCbCr": "RGB", "HSV": "RGB"}
ALPHA: Final = {"LA": "LA", "La": "LA", "PA": "RGBA", "RGBA": "RGBA", "RGBa": "RGBA"}
SIXTEEN_BITS: Final = ("I;16", "I;16L", "I;16B", "I;16N")
SCALES: Final = {"L;2": 85, "L;4": 17}  # PIL's names of a PNG's fewer bits, and what it multiplies their shades by
ALLOWED: Final = f"a PNG, JPEG or WebP file of at most {MAX_PIXELS} pixels"
# What a file may begin with, from which byte, and what it then is.
BEGINNINGS: Final = (
    (0, b"\x89PNG", "a damaged PNG"),
    (0, b"\xff\xd8\xff", "a damaged JPEG"),
    (8, b"WEBP", "a damaged WebP"),
    (0, b"BM", "a BMP picture"),
    (0, b"GIF8", "a GIF picture"),
    (0, b"II*\0", "a TIFF picture"),
    (0, b"MM\0*", "a TIFF picture"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"%PDF", "a PDF document"),
    (0, b"\0\0\0\x0cjP  ", "a JPEG 2000 picture"),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL picture"),
    (0, b"\xff\x0a", "a JPEG XL picture"),
    (4, b"ftypavif", "an AVIF picture"),
    *((4, b"ftyp" + brand, "a HEIC picture") for brand in (b"heic", b"heix", b"mif1", b"msf1")),
)
ORIENTATION: Final = 0x0112  # of EXIF


def read_picture(argument: str, path: Path, max_side: int | None = None) -> "Image":
    """The picture in a PNG, JPEG or WebP file, as `plain` has it.

    Raises:
        ArgumentError: naming the file and what is wrong with it; its size is checked before it is decoded.
    """
    with _opened(argument, path, max_side) as picture:
        return plain(argument, picture, f"{path}: ")


def read_mask(argument: str, path: Path) -> "Image":
    """The mask in such a file, as `plain_mask` has it. Raises as `read_picture`."""
    with _opened(argument, path, None) as picture:
        return plain_mask(argument, picture, f"{path}: ")


def plain(argument: str, picture: "Image", name: str = "") -> "Image":
    """The picture upright and on white: of mode L or RGB, or F with values 0 to 255 where it was gray of 16 bits.

    Args:
        argument: the name used in an error.
        name: what an error says before what is wrong.

    Raises:
        ArgumentError: a picture that cannot be read, is too large, has several frames, or of a mode that means no
            colours.
    """
    return _on_white(_upright(argument, picture, name))


def plain_mask(argument: str, picture: "Image", name: str = "") -> "Image":
    """As `plain`, of mode L or F. A mask is black and white: ArgumentError where it is transparent or coloured."""
    allowed = "a picture of black (kept), white (made anew) and gray"
    upright = _upright(argument, picture, name)
    hides = _is_deep(picture) and bool(np.any(np.asarray(picture) == _key(picture)))
    if hides or (upright.mode in ALPHA and _darkest(upright.getchannel("A")) < WHITE):
        raise ArgumentError(argument, f"{name}transparent pixels", f"{allowed}; nothing says what transparent means")
    mask = _on_white(upright)
    if mask.mode == "RGB":
        values = np.asarray(mask)
        if int((values.max(axis=2) - values.min(axis=2)).max()) > NEUTRAL:
            raise ArgumentError(argument, f"{name}colours in it", allowed)
        mask = mask.convert("L")
    brightest = float(np.asarray(mask).max())
    if 0 < brightest <= 1:
        raise ArgumentError(argument, f"{name}pixels that are all black or nearly", f"{allowed}; white is 255, not 1")
    return mask


def with_alpha(argument: str, picture: "Image") -> "Image":
    """The picture upright, of mode RGBA. ArgumentError as `plain`."""
    return _upright(argument, picture, "").convert("RGBA")


def fitted(picture: "Image", width: int, height: int) -> "Image":
    """The middle of a plain picture, cut to the aspect and scaled; as it is where it has the size."""
    from PIL import Image, ImageOps

    if picture.size == (width, height):
        return picture
    scaled = ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)
    # Lanczos rings at edges, which 8 bits cut off by themselves.
    return scaled if scaled.mode != "F" else Image.fromarray(np.asarray(scaled).clip(0, WHITE))


def values(picture: "Image", channels: int) -> NDArray[np.float32]:
    """A plain picture as [H, W, channels] float32 in 0 to 255, 1 or 3 channels: gray is the ITU-R 601 luma of RGB."""
    if channels == 1 and picture.mode == "RGB":
        picture = picture.convert("L")
    array = np.asarray(picture, dtype=np.float32)
    array = array if array.ndim == 3 else array[..., None]
    return np.broadcast_to(array, (*array.shape[:2], channels)) if array.shape[2] == 1 else array


def pixels(picture: "Image") -> NDArray[np.uint8]:
    """A plain picture as [H, W, C] uint8, C 1 or 3; 16 bits are rounded to 8."""
    array = np.asarray(picture)
    array = array if array.dtype == np.uint8 else np.rint(array).astype(np.uint8)
    return array if array.ndim == 3 else array[..., None]


@contextmanager
def _opened(argument: str, path: Path, max_side: int | None) -> "Iterator[Image]":
    from PIL import Image, UnidentifiedImageError

    if os.path.exists(path) and not os.path.isfile(path):  # a pipe would be waited for
        raise ArgumentError(argument, str(path), f"{ALLOWED}; it is not a file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the bound of `_upright` is tighter
            picture = Image.open(path, formats=FORMATS)
    except FileNotFoundError:
        raise ArgumentError(argument, str(path), f"{ALLOWED}; there is no such file") from None
    except Image.DecompressionBombError:
        raise ArgumentError(argument, str(path), ALLOWED) from None
    except UnidentifiedImageError:
        what = _instead(path)
        raise ArgumentError(argument, str(path), f"{ALLOWED}; it is {what}" if what else ALLOWED) from None
    except Exception as error:  # whatever PIL meets in a damaged file
        raise ArgumentError(argument, str(path), f"{ALLOWED}; {reason_of(error)}") from None
    with picture:
        if max_side is not None and max(picture.size) > max_side:
            bound = f"at most {max_side} a side, or a size to which larger ones are scaled"
            raise ArgumentError(argument, f"{path}: {picture.width}x{picture.height} pixels", bound)
        yield picture


def _instead(path: Path) -> str | None:
    """What a file is in which PIL finds no PNG, JPEG or WebP picture; None where its beginning says nothing.

    By its first bytes alone: PIL's readers of other formats are kept from a file that may be hostile.
    """
    head = head_of(path)
    if head is None:
        return None
    found = (what for at, beginning, what in BEGINNINGS if head[at:].startswith(beginning))
    return next(found, None) or mistaken(head)


def _upright(argument: str, picture: "Image", name: str) -> "Image":
    """Of mode L, LA, RGB or RGBA, or F in 0 to 255."""
    if picture.width * picture.height > MAX_PIXELS:
        raise ArgumentError(argument, f"{name}{picture.width}x{picture.height} pixels", ALLOWED)
    if not picture.width * picture.height:
        raise ArgumentError(argument, f"{name}{picture.width}x{picture.height} pixels", "a picture of at least one")
    bits = _bits(picture)
    try:
        frames = getattr(picture, "n_frames", 1) if picture.format != "MPO" else 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what PIL thinks of broken EXIF
            picture.load()
            orientation = picture.getexif().get(ORIENTATION)
        straight = _converted(picture, _key(picture, bits))
    except Exception as error:  # whatever PIL meets in a damaged file
        given = name.removesuffix(": ") or "a picture"
        raise ArgumentError(argument, given, f"{ALLOWED}; {reason_of(error)}") from None
    if frames > 1:
        raise ArgumentError(argument, f"{name}an animation of {frames} frames", "one picture, such as a copy of one")
    if straight is None:
        allowed = "8 bits a channel or 16-bit gray, such as the modes L, RGB and I;16"
        raise ArgumentError(argument, f"{name}pixels of mode {picture.mode}", allowed)
    return _turned(straight, orientation)


def _turned(picture: "Image", orientation: object) -> "Image":
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    turn = turns.get(orientation) if isinstance(orientation, int) else None
    return picture if turn is None else picture.transpose(turn)


def _is_deep(picture: "Image") -> bool:
    """Whether it is gray of 16 bits."""
    return picture.mode in SIXTEEN_BITS or (picture.mode == "I" and picture.format == "PNG")  # as PIL before 11.3


def _bits(picture: "Image") -> str | None:
    """How a PNG's file stores its pixels, in PIL's words; None once they are loaded, and for any other picture."""
    tile = getattr(picture, "tile", None) if picture.format == "PNG" else None
    return str(tile[0][3]) if tile else None


def _key(picture: "Image", bits: str | None = None) -> Any:
    """The one shade or colour that is transparent, as the picture's loaded pixels have it; None where there is none.

    PIL gives it in the bits of the file, and the pixels in 8, or 16 of gray. Of 16 bits a channel of RGB it keeps the
    upper 8, so all are transparent that 8 bits do not tell from the key.
    """
    key: Any = picture.info.get("transparency")
    if picture.mode == "1" and isinstance(key, int):
        return WHITE if key else 0
    if picture.mode == "RGB" and isinstance(key, tuple):
        return tuple(part >> 8 for part in key) if bits == "RGB;16B" or max(key) > WHITE else key
    if picture.mode != "L" or picture.format != "PNG" or not isinstance(key, int):
        return key
    if bits is not None:
        return key * SCALES.get(bits, 1)
    # Of a PNG that its owner has loaded its shades tell: none is the key, and all are of so many bits.
    shades = np.unique(np.asarray(picture))
    fitting = (scale for scale in SCALES.values() if key * scale <= WHITE and not (shades % scale).any())
    return key if key in shades else key * next(fitting, 1)


def _with_alpha(picture: "Image", mode: str, key: Any) -> "Image":
    """A picture of mode L or RGB with that one shade or colour transparent, of mode LA or RGBA."""
    from PIL import Image

    plain = picture.convert(mode)
    same = np.asarray(plain) == np.asarray(key)
    alpha = np.where(same.all(axis=2) if mode == "RGB" else same, 0, WHITE).astype(np.uint8)
    return Image.merge(f"{mode}A", [*plain.split(), Image.fromarray(alpha)])


def _converted(picture: "Image", key: Any) -> "Image | None":
    """None for a mode that means no colours."""
    mode, transparent = picture.mode, "transparency" in picture.info
    if _is_deep(picture):
        return _of_16_bits(picture, key)
    if mode == "P":
        return _as_gray(picture.convert("RGBA" if transparent else "RGB"))
    if mode in ALPHA:
        return picture.convert(ALPHA[mode])
    if mode not in PLAIN:
        return None
    if transparent and mode in ("1", "L", "RGB"):
        return _with_alpha(picture, PLAIN[mode], key)
    return picture.convert(PLAIN[mode])


def _of_16_bits(picture: "Image", key: Any) -> "Image":
    from PIL import Image

    raw = np.asarray(picture)
    shades = np.multiply(raw, np.float32(WHITE / 65535), dtype=np.float32)
    if isinstance(key, int):
        shades[raw == key] = WHITE
    return Image.fromarray(shades)


def _on_white(picture: "Image") -> "Image":
    from PIL import Image

    if picture.mode not in ALPHA:
        return picture
    mode = picture.mode[:-1]
    paper = Image.new(mode, picture.size, "white")
    paper.paste(picture.convert(mode), mask=picture.getchannel("A"))
    return paper


def _as_gray(picture: "Image") -> "Image":
    """RGB or RGBA as L or LA where all colours are gray."""
    from PIL import Image

    red, green, blue, *alpha = picture.split()
    if not red.tobytes() == green.tobytes() == blue.tobytes():
        return picture
    return Image.merge("LA", [red, *alpha]) if alpha else red


def _darkest(channel: "Image") -> int:
    return int(np.asarray(channel).min())
