"""Pictures that a user hands in: checked before they are decoded, and cut to the model's size."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from fewstep.errors import ArgumentError

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 64 * 1024**2  # decoded, 256 MB; a small file can claim far more


def read_picture(argument: str, path: Path, height: int, width: int) -> "Image":
    """The picture upright, its middle cut to the aspect and scaled to [height, width].

    Raises:
        ArgumentError: no such file, another format, or too many pixels.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    allowed = f"a PNG, JPEG or WebP file of at most {MAX_PIXELS} pixels"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the bound below is tighter
            picture = Image.open(path, formats=FORMATS)
        with picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise ArgumentError(argument, f"{path} of {picture.width}x{picture.height} pixels", allowed)
            picture.load()
            upright = ImageOps.exif_transpose(picture)
    except FileNotFoundError:
        raise ArgumentError(argument, str(path), f"{allowed}; there is no such file") from None
    except (UnidentifiedImageError, Image.DecompressionBombError):
        raise ArgumentError(argument, str(path), allowed) from None
    except (OSError, SyntaxError, EOFError) as error:
        raise ArgumentError(argument, str(path), f"{allowed}; {getattr(error, 'strerror', None) or error}") from None
    if upright.mode not in ("L", "RGB"):
        upright = upright.convert("RGB")
    if upright.size == (width, height):
        return upright
    return ImageOps.fit(upright, (width, height), Image.Resampling.LANCZOS)
