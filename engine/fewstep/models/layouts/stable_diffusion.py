"""The Stable Diffusion models by what tells them apart, with what their weights do not say of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from fewstep.errors import ModelError

EXTRA: Final = {4: "", 5: "depth", 8: "instructions", 9: "inpainting"}  # input channels, and what those beyond 4 are
HEAD_CHANNELS: Final = 64


@dataclass(frozen=True)
class Family:
    """Models of one config.json.

    Attributes:
        title: what they are called.
        context: how wide their text embeddings are, which tells them apart.
        size: of their latents.
        guidance_scale: what they are sampled with unless told.
        heads: of every attention; None: as many as its channels have 64.
        prediction: what they predict.
        added: how wide the pooled text and the embedded sizes are side by side.
        scheduler: the class of diffusers' scheduler that they came with; PNDM's place is DDIM's.
    """

    title: str
    context: int
    size: int
    guidance_scale: float
    heads: int | None = None
    prediction: str = "eps"
    added: int | None = None
    scheduler: str = "DDIMScheduler"


# https://github.com/CompVis/stable-diffusion, https://github.com/Stability-AI/stablediffusion and
# https://github.com/Stability-AI/generative-models: configs of v1-inference, v2-inference-v, sd_xl_base, sd_xl_refiner.
V2: Final = Family("Stable Diffusion 2", 1024, 96, 7.5, prediction="v")
FAMILIES: Final = (
    Family("Stable Diffusion 1", 768, 64, 7.5, heads=8),
    V2,
    Family("Stable Diffusion XL", 2048, 128, 5.0, added=2816, scheduler="EulerDiscreteScheduler"),
    Family("the refiner of Stable Diffusion XL", 1280, 128, 5.0, added=2560, scheduler="EulerDiscreteScheduler"),
)
SIZE_OF_BASE: Final = 64  # of the latents of those Stable Diffusion 2 that predict eps, and of SDXL-Turbo
TURBO: Final = "sdxl-turbo"
SIZE_CHANNELS: Final = 256  # of each embedded size


def family_of(config: Mapping[str, Any], where: str) -> Family:
    """The family of a U-Net with this config.json, which tells widths alone.

    Raises:
        ModelError: one that is none of them.
    """
    context, channels = config["cross_attention_dim"], config["in_channels"]
    added = config.get("projection_class_embeddings_input_dim") if "addition_embed_type" in config else None
    found = next((each for each in FAMILIES if (each.context, each.added) == (context, added)), None)
    folder = "; or the folder that diffusers saves, whose config.json says what shapes do not"
    if found is None:
        beside = f" beside pooled text of {added}" if added is not None else ""
        known = ", ".join(f"{each.context} ({each.title})" for each in FAMILIES)
        raise ModelError(f"{where}: its text embeddings are {context} wide{beside}; supported: {known}{folder}")
    if channels not in EXTRA:
        known = ", ".join(f"{count} ({kind})" if kind else str(count) for count, kind in EXTRA.items())
        raise ModelError(f"{where}: its U-Net takes {channels} channels; supported: {known}{folder}")
    return found


def completed(config: Mapping[str, Any], family: Family, where: str) -> dict[str, Any]:
    """The config.json with the heads and the embedded sizes of the family."""
    widths = config["block_out_channels"]
    if family.heads is None and any(width % HEAD_CHANNELS for width in widths):
        problem = f"block_out_channels {widths}; allowed: multiples of {HEAD_CHANNELS}, the channels of a head"
        raise ModelError(f"{where}: is {family.title} by its text embeddings, with {problem}")
    heads = [family.heads or width // HEAD_CHANNELS for width in widths]
    sizes = {} if family.added is None else {"addition_time_embed_dim": SIZE_CHANNELS}
    return {**config, "attention_head_dim": heads, **sizes}


def predicted(config: Mapping[str, Any], family: Family) -> str:
    """What such a model predicts, as far as its family tells."""
    with_image = config["in_channels"] in (5, 9)  # both of Stable Diffusion 2's predict eps
    return "eps" if family is V2 and with_image else family.prediction
