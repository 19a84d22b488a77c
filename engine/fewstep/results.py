"""What a run returns: the images, and all that is needed to make each of them again."""

import io
import json
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewstep.checks import as_python, whole
from fewstep.colormaps import painter
from fewstep.errors import ArgumentError, FewstepError, NonFiniteWarning, printable, shown
from fewstep.files import AtomicFiles
from fewstep.run.decode import finite_samples, to_pixels

if TYPE_CHECKING:
    from PIL.Image import Image

    from fewstep.diffusion.plan import Plan

TEXTS = ("prompt", "negative_prompt")
SUFFIXES = (".png", ".npy")
MAX_PARAMETERS = 8 << 20  # characters in a PNG; the seeds and labels of 100,000 samples take 3 million
MAX_KEY = 79  # of PNG
GAP = 2  # pixels between the pictures of a sheet
MAX_NAMED = 8  # samples in a message


@dataclass(frozen=True, eq=False)
class Samples:
    """B finished images and how they came to be.

    `len(samples)` is B; `.numpy()`, `.pil()`, `.grid()` and `.save()` convert. A notebook shows the sheet.

    Attributes:
        images: [B, C, H, W] float32 (float64 of a float64 network), as the model leaves them: -1 is black and 1 is
            white, and what lies beyond is cut off only in bytes, unless a clip keeps it within. Or uint8 [B, H, W, C].
            NaN for what never ran.
        seeds: one per sample.
        plan: one for all, or one per sample; `plans` always is one per sample.
        labels: one per sample, in numbers; None where none were asked for.
        label_names: the names of those classes, one per sample, None for a label without; empty where they have none.
        model_calls: of the network, over all batches.
        seconds: the request took, from its first batch to its last, but for `ready_seconds`.
        ready_seconds: that making the network ready for a backend took, at the first call of its kind.
        cancelled: whether a sample was stopped early, so that its image is unfinished, or NaN; empty for none.
        parameters: what else made them, such as model and strength: one mapping for all, or one per sample.
        finite: beside uint8 images, whether a sample was finite before it became bytes: what was NaN is gray in them.
        guidance_scales: one per sample where the network takes the scale; else the plans have it.
        log_prob: [B, N] log p(x' | x) of each step in nats, where it was asked for, N the most calls that a sample
            made. NaN where a step added no noise, was not taken, or is not in the sample's plan. Under a mask the
            elements count whose mask is 1, and no others.
    """

    images: Tensor
    seeds: Sequence[int]
    plan: "Plan | Sequence[Plan]"
    labels: Sequence[float] | Tensor | None = None
    model_calls: int = 0
    seconds: float = 0.0
    cancelled: Sequence[bool] = ()
    parameters: Mapping[str, object] | Sequence[Mapping[str, object]] = field(default_factory=dict)
    finite: Sequence[bool] = ()
    guidance_scales: Sequence[float] | None = None
    label_names: Sequence[str | None] = ()
    log_prob: Tensor | None = None
    ready_seconds: float = 0.0

    def __len__(self) -> int:
        return int(self.images.shape[0])

    def __repr__(self) -> str:
        size = " x ".join(str(side) for side in self.images.shape)
        plans = ", ".join(dict.fromkeys(f"{plan.sampler}, {len(plan)} steps" for plan in self.plans))
        return f"Samples({size}; {plans}; {self.model_calls} model calls in {self.seconds:.3g} s)"

    def _repr_png_(self) -> bytes | None:
        return _png(self.grid(), {}) if self.channels in (1, 3) else None

    @property
    def plans(self) -> "list[Plan]":
        """One per sample."""
        from fewstep.diffusion.plan import Plan

        return [self.plan] * len(self) if isinstance(self.plan, Plan) else list(self.plan)

    @property
    def channels(self) -> int:
        """C of an image."""
        return int(self.images.shape[3 if self._bytes else 1])

    @property
    def _bytes(self) -> bool:
        return self.images.dtype == torch.uint8

    def numpy(self) -> NDArray[np.uint8]:
        """uint8 [B, H, W, C]: round((x + 1) * 127.5), clamped to 0..255.

        Raises FewstepError naming the samples that are not finite: a NaN would otherwise be shown as gray.
        """
        self._require_finite(range(len(self)))
        pixels = self.images if self._bytes else to_pixels(self.images.detach())
        return pixels.cpu().contiguous().numpy()

    def pil(self, colormap: str = "gray") -> "list[Image]":
        """One PIL image per sample: RGB for 3 channels; for 1 channel L, or RGB through a colormap.

        colormap: "gray"; "terrain" (heights as an atlas shows them); with the plot extra, matplotlib's names.
        """
        from PIL import Image

        channels = self.channels
        check_channels(channels, colormap)
        if self._bytes and colormap != "gray":
            raise ArgumentError("colormap", colormap, 'gray: a colormap is for the numbers of output="float"')
        pixels = self.numpy()
        if channels == 3:
            return [Image.fromarray(rgb) for rgb in pixels]
        if colormap == "gray":
            return [Image.fromarray(gray[:, :, 0]) for gray in pixels]
        paint = painter(colormap)
        return [Image.fromarray(paint(plane[0].float().cpu().numpy())) for plane in self.images.detach()]

    def grid(self, columns: int | None = None, colormap: str = "gray") -> "Image":
        """One PIL image with all samples, `columns` in a row; by default as square as it gets."""
        return _sheet(self.pil(colormap), columns)

    def parameters_of(self, index: int) -> dict[str, str]:
        """What regenerates sample `index`, as text: seed, label, sampler, steps, guidance_scale, ..."""
        parameters = {"seed": str(int(self.seeds[index]))}
        if self.labels is not None:
            parameters["label"] = self._label(index)
        return parameters | self._shared_parameters([index])

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        singles: bool = True,
        columns: int | None = None,
        colormap: str = "gray",
        parameters: Mapping[str, object] | None = None,
    ) -> list[Path]:
        """Write `out.png`: one sample as itself; several as a sheet, with `out-000.png` ... if `singles`.

        The pictures carry their parameters as PNG text (`parameters_of`, and what `parameters` adds), to be
        read with `read_parameters`. `out.npy` takes `images` as they are. Cancelled samples are left out. All
        files appear or none; an OutputError names the path and the reason.
        Returns the paths written, the sheet first.

        Raises FewstepError naming the samples that are not finite, since bytes cannot say so. The floats of `out.npy`
        can, and are written with a `NonFiniteWarning`.
        """
        path = Path(path)
        check_suffix(path)
        kept = [i for i in range(len(self)) if not (self.cancelled and self.cancelled[i])]
        if not kept:
            raise FewstepError(f"{path}: not written, as every sample was cancelled before it was finished")
        if path.suffix.lower() == ".npy":
            if self._bytes:
                self._require_finite(kept)
            self._warn_unless_finite(kept, f"{path} holds NaN or infinity", stacklevel=3)
            contents = {path: _npy(self.images[kept])}
        else:
            contents = self._png_files(path, kept, singles, columns, colormap, parameters or {})
        with AtomicFiles() as files:
            for target, content in contents.items():
                files.open(target).write(content)
        return list(contents)

    def warn_of_bytes(self, stacklevel: int) -> None:
        """`NonFiniteWarning` where a sample that became bytes was not finite; `stacklevel` as of `warnings.warn`."""
        if self._bytes:
            ran = [i for i in range(len(self)) if not (self.cancelled and self.cancelled[i])]
            self._warn_unless_finite(ran, "what was NaN is gray in the bytes", stacklevel + 1)

    def _warn_unless_finite(self, indices: Sequence[int], fact: str, stacklevel: int) -> None:
        bad = self._not_finite(indices)
        if bad:
            warnings.warn(f"{self._overflowed(bad)}; {fact}", NonFiniteWarning, stacklevel=stacklevel + 1)

    def _not_finite(self, indices: Sequence[int]) -> list[int]:
        finite = self.finite or finite_samples(self.images).tolist()
        return [index for index in indices if not finite[index]]

    def _overflowed(self, indices: Sequence[int]) -> str:
        several, more = "s" * (len(indices) > 1), ", ..." * (len(indices) > MAX_NAMED)
        named = indices[:MAX_NAMED]
        samples, seeds = (", ".join(map(str, each)) + more for each in (named, [int(self.seeds[i]) for i in named]))
        images = "the images are" if several else "the image is"
        return (
            f"sample{several} {samples} (seed{several} {seeds}): {images} not finite, "
            "so the model overflowed; try dtype float32, a lower guidance_scale or another seed"
        )

    def _require_finite(self, indices: Sequence[int]) -> None:
        bad = self._not_finite(indices)
        cancelled = [index for index in bad if self.cancelled and self.cancelled[index]]
        if cancelled:
            index = cancelled[0]
            raise FewstepError(f"sample {index} (seed {self.seeds[index]}): there is no image, as it was cancelled")
        if bad:
            raise FewstepError(self._overflowed(bad))

    def _png_files(
        self,
        path: Path,
        kept: list[int],
        singles: bool,
        columns: int | None,
        colormap: str,
        parameters: Mapping[str, object],
    ) -> dict[Path, bytes]:
        self._require_finite(kept)
        more = _as_text({**parameters, "colormap": None if colormap == "gray" else colormap})
        every = Samples(
            images=self.images[kept],
            seeds=[self.seeds[i] for i in kept],
            plan=[self.plans[i] for i in kept],
            labels=None if self.labels is None else [float(self.labels[i]) for i in kept],
            finite=[self.finite[i] for i in kept] if self.finite else (),
            label_names=[self.label_names[i] for i in kept] if self.label_names else (),
        )
        pictures = every.pil(colormap)
        if len(pictures) == 1:
            return {path: _png(pictures[0], self.parameters_of(kept[0]) | more)}
        about = {"seeds": ",".join(str(int(seed)) for seed in every.seeds)}
        if every.labels is not None:
            about["labels"] = ",".join(every._label(i) for i in range(len(every)))
        about |= self._shared_parameters(kept) | more | _as_text({"columns": columns})
        contents = {path: _png(_sheet(pictures, columns), about)}
        if singles:
            for index, picture in zip(kept, pictures, strict=True):
                single = path.with_name(f"{path.stem}-{index:03d}{path.suffix}")
                contents[single] = _png(picture, self.parameters_of(index) | more)
        return contents

    def guidance_scale_of(self, indices: Sequence[int] | None = None) -> float | list[float]:
        """The guidance scale of these samples, or of all: one number if it is one, else one per sample or per step."""
        indices = range(len(self)) if indices is None else indices
        if self.guidance_scales is not None:
            scales = [float(self.guidance_scales[i]) for i in indices]
        else:
            plans = [self.plans[i] for i in indices]
            one = len({id(plan) for plan in plans}) == 1
            columns = [plans[0].column("w")] if one else [plan.column("w")[:1] for plan in plans]
            scales = [float(w) for column in columns for w in column]
        return scales[0] if len(set(scales)) == 1 else scales

    def _shared_parameters(self, indices: Sequence[int]) -> dict[str, str]:
        """What these samples have in common, and where they differ, each one's, in their order."""
        from fewstep.version import __version__

        each = [self._plan_parameters(i) | _as_text(self._more(i)) for i in indices]
        names = dict.fromkeys(name for parameters in each for name in parameters)
        columns = {name: [parameters.get(name, "") for parameters in each] for name in names}
        shared = {}
        for name, values in columns.items():
            if len(set(values)) == 1:
                shared[name] = values[0]
            elif name in TEXTS:  # which have commas themselves
                shared[f"{name}s"] = json.dumps(values, ensure_ascii=False)
            else:
                shared[name] = ",".join(values)
        return shared | {"Software": f"fewstep {__version__}"}

    def _plan_parameters(self, index: int) -> dict[str, str]:
        plan, scale = self.plans[index], self.guidance_scale_of([index])
        text = {"sampler": plan.sampler, "steps": str(len(plan))} | ({"plan": plan.preset} if plan.preset else {})
        text["guidance_scale"] = ",".join(map(_number, scale if isinstance(scale, list) else [scale]))
        return text | ({"guidance_rescale": _column(plan, "phi")} if _column(plan, "phi") != "0" else {})

    def texts(self, index: int) -> dict[str, object]:
        """The prompts of a sample, where it has any: {"prompt": ..., "negative_prompt": ...}."""
        more = self._more(index)
        return {name: more[name] for name in TEXTS if more.get(name) is not None}

    def _label(self, index: int) -> str:
        """A sample's label as `fewstep generate --labels` takes it: the name of its class, or a number."""
        assert self.labels is not None
        name = self.label_names[index] if self.label_names else None
        return label_text(self.labels[index]) if name is None else label_word(name)

    def _more(self, index: int) -> Mapping[str, object]:
        return self.parameters if isinstance(self.parameters, Mapping) else self.parameters[index]


def check_suffix(path: str | os.PathLike[str], argument: str = "path") -> None:
    """ArgumentError unless `save` knows the file type of `path`."""
    if Path(path).suffix.lower() not in SUFFIXES:
        raise ArgumentError(argument, str(path), f"a file name that ends in {' or '.join(SUFFIXES)}")


def check_channels(channels: int, colormap: str = "gray") -> None:
    """FewstepError unless images with so many channels can be pictures, in this colormap."""
    if channels not in (1, 3):
        raise FewstepError(f"images have {channels} channels and pictures 1 or 3; save them as .npy")
    if channels == 3 and colormap != "gray":
        raise ArgumentError("colormap", colormap, "gray: the images have 3 channels, a colormap is for 1")


def read_parameters(path: str | os.PathLike[str]) -> dict[str, str]:
    """The parameters that `save` wrote into a PNG; empty for a picture made elsewhere."""
    from PIL import Image

    if os.path.exists(path) and not os.path.isfile(path):  # a pipe would be waited for
        raise FewstepError(f"{path}: cannot be read as a PNG: it is not a file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # nothing of the picture is decoded, so PIL's advice on that is of no use
            with Image.open(path, formats=["PNG"]) as picture:
                found = {key: value for key, value in picture.info.items() if isinstance(value, str)}
    except OSError as error:
        reason = error.strerror or "it is not one"
        raise FewstepError(f"{path}: cannot be read as a PNG: {reason}") from error
    # What PIL raises for a damaged chunk is of many kinds: ValueError for a text or a colour profile of over 1 MB,
    # SyntaxError, EOFError, struct.error, zlib.error, IndexError.
    except Exception as error:
        why = "it is damaged, or too large" + (f": {shown(str(error))}" if str(error) else "")
        raise FewstepError(f"{path}: cannot be read as a PNG: {why}") from error
    if sum(len(key) + len(value) for key, value in found.items()) > MAX_PARAMETERS:
        raise FewstepError(f"{path}: holds more than {MAX_PARAMETERS:,} characters of text, which fewstep never writes")
    return {str(key): str(value) for key, value in found.items() if len(key) <= MAX_KEY}


def label_text(label: Any) -> str:
    """The shortest number that is the same label to a model, which takes it as float32."""
    short = np.float32(label)
    return _number(label) if float(short) != float(label) or short.is_integer() else str(short)


def label_word(name: str) -> str:
    """The name of a class as an entry of a list with commas: in quotes where it would not be one without."""
    plain_word = name == name.strip() and not set(name) & set(',"')
    return name if plain_word else '"' + name.replace('"', '""') + '"'


def _column(plan: "Plan", name: str) -> str:
    """A column of the plan in as few numbers as say it: one if it is constant, else one a step."""
    values = [_number(value) for value in plan.column(name)]
    return values[0] if len(set(values)) == 1 else ",".join(values)


def _number(value: Any) -> str:
    """The shortest text that reads back as the same number; whole numbers without a point."""
    number = float(value)
    return str(int(number)) if number.is_integer() else repr(number)


def _as_text(parameters: Mapping[str, object]) -> dict[str, str]:
    given = {key: as_python(value) for key, value in parameters.items()}
    return {
        key: _number(value) if isinstance(value, float) else str(value)
        for key, value in given.items()
        if value is not None
    }


def _png(picture: "Image", text: Mapping[str, str]) -> bytes:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, value in text.items():
        lines = value.split("\n") if key in TEXTS else [value]  # a prompt may have several, a name has one
        info.add_text(key, "\n".join(map(printable, lines)))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", pnginfo=info)
    return buffer.getvalue()


def _npy(images: Tensor) -> bytes:
    buffer = io.BytesIO()
    numpys = images.dtype in (torch.uint8, torch.float32, torch.float64)  # it has no bfloat16
    plain = images if numpys else images.float()
    np.save(buffer, plain.detach().cpu().numpy(), allow_pickle=False)
    return buffer.getvalue()


def _sheet(pictures: "Sequence[Image]", columns: int | None) -> "Image":
    from PIL import Image

    count = len(pictures)
    wanted = math.ceil(math.sqrt(count)) if columns is None else whole(columns)
    if wanted is None or wanted < 1:
        raise ArgumentError("columns", columns, "an integer from 1 up")
    columns = min(wanted, count)
    rows = math.ceil(count / columns)
    width, height = pictures[0].size
    sheet = Image.new(pictures[0].mode, (columns * (width + GAP) - GAP, rows * (height + GAP) - GAP), color="white")
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        sheet.paste(picture, (column * (width + GAP), row * (height + GAP)))
    return sheet
