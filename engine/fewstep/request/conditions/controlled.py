"""A text and a picture for each sample: what a ControlNet is told beside the U-Net (Zhang et al., 2302.05543)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from fewstep.checks import integer, real
from fewstep.errors import ArgumentError
from fewstep.request.conditions.prompts import MAX_SIDE, Prompts
from fewstep.request.conditions.words import Rows, Words
from fewstep.request.images import as_images

SCALES: Final = "a finite number, or one for each sample: what the ControlNet's residuals are multiplied by"


@dataclass(frozen=True, eq=False)
class ControlledPrompts(Prompts):
    """Texts and pictures, for a network that is called with control [B, C, H, W] and control_scale [B] too.

    Attributes:
        picture: (C, H, W) of a control picture.
    """

    picture: tuple[int, int, int] = (3, 512, 512)

    def __post_init__(self) -> None:
        super().__post_init__()
        for side in self.picture:
            integer("prompts.picture", side, 1, MAX_SIDE)

    @property
    def taken(self) -> tuple[str, ...]:
        """The words that are taken."""
        return (*super().taken, "control_image", "control_scale")

    @property
    def inputs(self) -> tuple[str, ...]:
        """What a text needs, the picture, and how much it counts."""
        return (*super().inputs, "control", "control_scale")

    def blank(self, samples: int) -> dict[str, Any]:
        """An empty text and a gray picture."""
        return super().blank(samples) | {"control_image": torch.zeros(self.picture)}

    def rows(self, words: Words, samples: int, guided: bool, by_hand: Sequence[str] = ()) -> Rows:
        """Those of the texts, with control [samples, C, H, W] in [0, 1] and control_scale [samples].

        Both are the same in the null, as in diffusers' pipelines: guidance does not work on them.
        """
        said = super().rows(words, samples, guided, by_hand)
        if words.control_image is None:
            channels, height, width = self.picture
            allowed = f"a picture of {width}x{height} pixels and {channels} channels: this model has a ControlNet"
            raise ArgumentError("control_image", None, allowed)
        scales = self._scales(words.control_scale, samples)
        control = {
            "control": as_images("control_image", words.control_image, samples, self.picture) / 2 + 0.5,
            "control_scale": torch.tensor(scales, dtype=torch.float64),
        }
        recorded = said.recorded
        if words.control_scale is not None:
            recorded = [{**row, "control_scale": f"{scale:g}"} for row, scale in zip(recorded, scales, strict=True)]
        null = {**said.null, **control} if guided else said.null
        return Rows({**said.condition, **control}, null, (*said.numbers, "control_scale"), recorded)

    def _scales(self, said: Any, samples: int) -> list[float]:
        """One for each sample; 1 where nothing is said."""
        each = said if isinstance(said, list) else [1.0 if said is None else said] * samples
        found = [real(scale) for scale in each]
        if not all(scale is not None and math.isfinite(scale) for scale in found):
            raise ArgumentError("control_scale", said, SCALES)
        return [scale for scale in found if scale is not None]
