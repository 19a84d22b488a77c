"""Pictures that come and go: bounded before they are decoded, and encoded off the event loop."""

import base64
import binascii
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
import torch
from anyio import CapacityLimiter, to_thread
from numpy.typing import NDArray
from torch import Tensor

from fewstep import pictures
from fewstep.errors import ArgumentError, reason_of
from fewstep.request.images import as_images
from fewstep.serve.http.wire.fields import Sampling

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")
QUALITY: Final = 90  # of a jpeg or webp that says none
SIZES: Final = 'or fit: "resize", for the middle of it, scaled'


class Desk:
    """The threads that encode and decode pictures: so many at once, and the others wait.

    Args:
        threads: at once.
    """

    def __init__(self, threads: int = 2) -> None:
        self._limiter = CapacityLimiter(threads)

    async def __call__(self, work: Callable[..., T], *arguments: Any) -> T:
        """What some work returns."""
        return await to_thread.run_sync(work, *arguments, limiter=self._limiter)


@dataclass(frozen=True)
class Encoding:
    """How pictures are written.

    Attributes:
        format: "png", "jpeg" or "webp".
        quality: of the last two; None for `QUALITY`.
    """

    format: str = "png"
    quality: int | None = None

    @classmethod
    def of(cls, body: Sampling, channels: int) -> "Encoding":
        """What a request asks for. ArgumentError for a model whose images are no pictures."""
        if channels not in (1, 3, 4):
            raise ArgumentError("model", f"one of {channels} channels", "one of 1, 3 or 4, which pictures have")
        return cls(body.output_format or "png", body.output_compression)

    def __call__(self, image: NDArray[np.uint8]) -> str:
        """[H, W, C] as base64 of a file."""
        from PIL import Image

        picture, file = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image), io.BytesIO()
        if self.format == "png":
            picture.save(file, "PNG")
        else:
            opaque = picture.convert("RGB") if picture.mode == "RGBA" and self.format == "jpeg" else picture
            opaque.save(file, self.format.upper(), quality=QUALITY if self.quality is None else self.quality)
        return base64.b64encode(file.getvalue()).decode()


@dataclass(frozen=True)
class Opening:
    """How pictures of a request are read.

    Attributes:
        shape: (C, H, W) of the model's images.
        most: pixels of a picture, at most.
        resize: cut to the model's aspect and scale; else another size is refused.
    """

    shape: tuple[int, int, int]
    most: int
    resize: bool = False

    def image(self, argument: str, file: bytes) -> Tensor:
        """[C, H, W] floats in [-1, 1] of a PNG, JPEG or WebP file."""
        with self._opened(argument, file) as opened:
            picture = pictures.with_alpha(argument, opened) if self.shape[0] == 4 else pictures.plain(argument, opened)
        return as_images(argument, self._fitted(argument, picture), 1, self.shape)[0].clone()

    def mask(self, argument: str, file: bytes) -> Tensor:
        """[1, H, W], 1 where the picture is transparent, so generated, and 0 where it is opaque: as OpenAI has it."""
        with self._opened(argument, file) as opened:
            if not opened.has_transparency_data:
                allowed = "a picture with an alpha channel: transparent where it is generated, opaque where it is kept"
                raise ArgumentError(argument, "one without", allowed)
            alpha = pictures.with_alpha(argument, opened).getchannel("A")
        shades = np.asarray(self._fitted(argument, alpha, by_nearest=True), dtype=np.float32)
        return torch.from_numpy(1 - shades / pictures.WHITE)[None]

    def _fitted(self, argument: str, picture: "Image", *, by_nearest: bool = False) -> "Image":
        from PIL import Image, ImageOps

        _, height, width = self.shape
        if picture.size == (width, height):
            return picture
        if not self.resize:
            found = f"{picture.width}x{picture.height} pixels"
            raise ArgumentError(argument, found, f"{width}x{height}, as the model draws, {SIZES}")
        if by_nearest:  # what is kept stays kept to the bit
            return ImageOps.fit(picture, (width, height), Image.Resampling.NEAREST)
        return pictures.fitted(picture, width, height)

    def _opened(self, argument: str, file: bytes) -> "Image":
        from PIL import Image, UnidentifiedImageError

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the bound below is tighter
                picture = Image.open(io.BytesIO(file), formats=pictures.FORMATS)
        except Exception as error:  # whatever PIL meets in a damaged file
            what = "no such file" if isinstance(error, UnidentifiedImageError) else reason_of(error)
            raise ArgumentError(argument, f"{len(file)} bytes", f"{pictures.ALLOWED}; it is {what}") from None
        if picture.width * picture.height > self.most:
            found = f"{picture.width}x{picture.height} pixels"
            raise ArgumentError(argument, found, f"at most {self.most} pixels")
        return picture


def of_data_url(argument: str, url: str) -> bytes:
    """The file in a data: URL of base64. ArgumentError for any other URL: nothing is fetched."""
    head, comma, text = url.partition(",")
    if not comma or not head.lower().startswith("data:image/") or not head.lower().endswith(";base64"):
        raise ArgumentError(argument, url[:40], "data:image/png;base64,... (no other URL is read)")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ArgumentError(argument, f"{url[:40]}...", "base64 after the comma") from None
