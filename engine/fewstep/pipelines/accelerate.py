"""One line that makes a pipeline of diffusers faster, and one that takes it back."""

from typing import Any, Final, TypeVar

from torch import nn

from fewstep.checks import named
from fewstep.errors import ArgumentError
from fewstep.pipelines.network import LAYOUTS, kind_of
from fewstep.pipelines.unet import View, accelerated_unet
from fewstep.pipelines.vae import accelerated_vae

T = TypeVar("T")
VAES: Final = ("AutoencoderKL", "AutoencoderTiny")
VAE_SWITCHES: Final = ("use_", "tile_")  # how the names of an autoencoder's settings of tiling and slicing begin
ORIGINAL: Final = "_fewstep_original"

PIPELINES: Final = (
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionInstructPix2PixPipeline",
    "StableDiffusionControlNetPipeline",
    "StableDiffusionControlNetImg2ImgPipeline",
    "StableDiffusionControlNetInpaintPipeline",
    "StableDiffusionXLPipeline",
    "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionXLInpaintPipeline",
    "StableDiffusionXLControlNetPipeline",
    "StableDiffusionXLControlNetImg2ImgPipeline",
    "StableDiffusionXLControlNetInpaintPipeline",
    "LatentConsistencyModelPipeline",
    "LatentConsistencyModelImg2ImgPipeline",
    "DDPMPipeline",
    "DDIMPipeline",
    "ConsistencyModelPipeline",
)


def accelerate(pipe_or_unet: T) -> T:
    """Run the U-Net and the autoencoder of a diffusers pipeline as fewstep runs them: the same call, the same outputs.

        pipe = StableDiffusionPipeline.from_pretrained(...)
        fewstep.accelerate(pipe)
        pipe("a red fox in the snow", num_inference_steps=4)

    A pipeline is changed in place: its `unet` and `vae` become views of the same classes, over the same weights, and
    all else stays the pipeline's. Nothing in diffusers or torch is patched. What the steps of a call share (keys and
    values of the prompt, pooled text) is computed in the first of them. What is accelerated already stays as it is; an
    autoencoder of another class than AutoencoderKL or AutoencoderTiny is left alone, and so is a ControlNet.

    Args:
        pipe_or_unet: a pipeline of a class in PIPELINES, or a UNet2DConditionModel or UNet2DModel.

    Returns:
        The pipeline itself; of a U-Net a view, while the U-Net stays as it is.

    Raises:
        ArgumentError: a class that is not known, or a U-Net with what our network does not do: LoRA layers of peft,
            an IP-Adapter, FreeU, offloading and other hooks, compiled code, quantized weights, each by its name. What
            is asked for later, of the pipeline or its U-Net, is refused by its name then.
        ModelError: a field of the U-Net's config that fewstep has no layers for.
    """
    if isinstance(pipe_or_unet, View) or kind_of(pipe_or_unet) is not None:
        return accelerated_unet(pipe_or_unet, "pipe_or_unet")  # type: ignore[arg-type, return-value]
    pipe: Any = pipe_or_unet
    if not _is_pipeline(pipe):
        kind = type(pipe).__name__
        known = f"{' or '.join(LAYOUTS)}, or one of the pipelines {named(PIPELINES, kind)}"
        raise ArgumentError("pipe_or_unet", kind, known)
    vae = _accelerated_vae(pipe)
    unet = accelerated_unet(pipe.unet, "pipe.unet")
    if unet is not pipe.unet:
        pipe.unet = unet
    if vae is not None:
        pipe.vae = vae
    return pipe_or_unet


def restore(pipe_or_unet: T) -> T:
    """Take `accelerate` back: a pipeline has the very modules again that it had, with weights of their own.

    Args:
        pipe_or_unet: what `accelerate` gave. What is not accelerated stays as it is.

    Returns:
        The pipeline itself; of an accelerated U-Net the U-Net that it is a view of.

    Raises:
        ArgumentError: neither a pipeline nor a U-Net of a class that `accelerate` takes; or one that is offloaded.
    """
    if isinstance(pipe_or_unet, View):
        return _restored(pipe_or_unet)  # type: ignore[no-any-return]
    if kind_of(pipe_or_unet) is not None:
        return pipe_or_unet
    pipe: Any = pipe_or_unet
    if not _is_pipeline(pipe):
        raise ArgumentError("pipe_or_unet", type(pipe).__name__, "what fewstep.accelerate gave")
    if isinstance(pipe.unet, View):
        pipe.unet = _restored(pipe.unet)
    vae = getattr(pipe, "vae", None)
    if (original := _original_vae(vae)) is not None:
        switched = {name: value for name, value in vars(vae).items() if name.startswith(VAE_SWITCHES)}
        vars(original).update(switched)  # tiling that was asked for meanwhile is the pipeline's
        pipe.vae = original
    return pipe_or_unet


def _restored(view: View) -> Any:
    if view.fewstep_hooks:
        raise ArgumentError("pipe_or_unet", "one that is offloaded", "one that is not: pipe.remove_all_hooks() first")
    view.fewstep_network.release()
    return view.fewstep_network.original


def _is_pipeline(pipe: object) -> bool:
    """Whether it is one of PIPELINES, or of a class made of one."""
    kinds = type(pipe).__mro__
    return any(kind.__module__.startswith("diffusers.") and kind.__name__ in PIPELINES for kind in kinds)


class Original:
    """The module that a view stands for. A copy of the view, or one from a pickle, stands for none."""

    def __init__(self, module: nn.Module | None = None) -> None:
        self.module = module

    def __deepcopy__(self, memo: object) -> "Original":
        return Original()

    def __reduce__(self) -> tuple[object, ...]:
        return Original, ()


def _accelerated_vae(pipe: Any) -> nn.Module | None:
    """A view of the pipeline's autoencoder; None where there is none, or one that stays as it is."""
    vae: Any = getattr(pipe, "vae", None)
    if type(vae).__name__ not in VAES or _original_vae(vae) is not None:
        return None
    view = accelerated_vae(vae)
    vars(view)[ORIGINAL] = Original(vae)  # not as an attribute: it is no part of the view
    return view


def _original_vae(vae: object) -> nn.Module | None:
    """What an accelerated autoencoder stands for; None for any other."""
    return vars(vae)[ORIGINAL].module if isinstance(vae, nn.Module) and ORIGINAL in vars(vae) else None
