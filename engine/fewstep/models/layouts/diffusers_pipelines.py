"""The pipelines of diffusers whose U-Net and scheduler are read here, and what each of them does unless it is told."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

UNET: Final = "UNet2DModel"
CONDITIONED: Final = "UNet2DConditionModel"


@dataclass(frozen=True)
class Pipeline:
    """A class of pipelines.

    Attributes:
        unet: the class of its U-Net.
        guidance_scale: of a call that names none; None where it is not guided.
        set_right: what it writes over its scheduler's config, which files of before have otherwise.
    """

    unet: str = CONDITIONED
    guidance_scale: float | None = 7.5
    set_right: Mapping[str, Any] = field(default_factory=dict)


_OFFSET: Final = {"steps_offset": 1}
_OFFSET_AND_CLIP: Final = {"steps_offset": 1, "clip_sample": False}
_XL: Final = Pipeline(guidance_scale=5.0)
_LCM: Final = Pipeline(guidance_scale=8.5)
_PIXELS: Final = Pipeline(UNET, None)

PIPELINES: Final[Mapping[str, Pipeline]] = {
    "DDPMPipeline": _PIXELS,
    "DDIMPipeline": _PIXELS,
    "ConsistencyModelPipeline": _PIXELS,
    "StableDiffusionPipeline": Pipeline(set_right=_OFFSET_AND_CLIP),
    "StableDiffusionXLPipeline": _XL,
    "LatentConsistencyModelPipeline": _LCM,
    "StableDiffusionImg2ImgPipeline": Pipeline(set_right=_OFFSET_AND_CLIP),
    "StableDiffusionInpaintPipeline": Pipeline(set_right=_OFFSET),
    "StableDiffusionControlNetPipeline": Pipeline(),
    "StableDiffusionControlNetImg2ImgPipeline": Pipeline(),
    "StableDiffusionControlNetInpaintPipeline": Pipeline(),
    "StableDiffusionInstructPix2PixPipeline": Pipeline(),
    "StableDiffusionXLImg2ImgPipeline": _XL,
    "StableDiffusionXLInpaintPipeline": Pipeline(),
    "StableDiffusionXLControlNetPipeline": _XL,
    "StableDiffusionXLControlNetImg2ImgPipeline": _XL,
    "StableDiffusionXLControlNetInpaintPipeline": _XL,
    "LatentConsistencyModelImg2ImgPipeline": _LCM,
}
