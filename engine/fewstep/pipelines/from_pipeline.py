"""A pipeline of diffusers as a `Model`: its U-Net, its prompts, its scheduler as a plan, its autoencoder as the end."""

from collections.abc import Mapping
from typing import Any, Final

from torch import Tensor, nn

from fewstep.checks import integer, only
from fewstep.diffusion.schedules import from_config
from fewstep.diffusion.trained import Trained, trained_from_config
from fewstep.errors import ArgumentError, ModelError, NoSamplerError
from fewstep.models.given import spec_fields
from fewstep.models.layouts.diffusers_folder import GUIDANCE
from fewstep.models.layouts.diffusers_pipelines import PIPELINES, UNET
from fewstep.models.layouts.diffusers_plans import SCHEDULERS
from fewstep.models.layouts.diffusers_scheduler import SAMPLING, Sampling, sampling_from_scheduler
from fewstep.models.model import FIELDS, Model
from fewstep.models.net.conditional import ConditionalUNet
from fewstep.models.net.embeddings import Sinusoid
from fewstep.models.recognise import recognised
from fewstep.pipelines.controlled import ControlledUNet, check_controlnet
from fewstep.pipelines.latents import LatentDecoder, LatentEncoder
from fewstep.pipelines.network import Network, kind_of
from fewstep.pipelines.prompts import PromptEncoder
from fewstep.pipelines.unet import View
from fewstep.request.conditions import Classes, ControlledPrompts, Prompts

SIZES: Final = 6  # numbers that SDXL is told

CONTROLLED: Final = ("StableDiffusionControlNetPipeline", "StableDiffusionXLControlNetPipeline")
"""Those of KINDS that draw after a picture too."""

KINDS: Final = (
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionXLPipeline",
    "StableDiffusionXLImg2ImgPipeline",
    *CONTROLLED,
    "LatentConsistencyModelPipeline",
    "LatentConsistencyModelImg2ImgPipeline",
    "DDPMPipeline",
    "DDIMPipeline",
    "ConsistencyModelPipeline",
)
"""The pipelines that an engine runs whole; what each does unless it is told is in `PIPELINES`."""


class OpaqueUNet(nn.Module):
    """A UNet2DConditionModel of diffusers called as a model of fewstep is; its own code runs."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet
        width = unet.config.time_cond_proj_dim
        self.features = None if width is None else Sinusoid(width, cos_first=False, freq_shift=1)

    def forward(
        self,
        x: Tensor,  # [B, C, H, W]
        t: Tensor,  # [B]
        context: Tensor,  # [B, L, W]
        pooled: Tensor | None = None,  # [B, P]
        sizes: Tensor | None = None,  # [B, 6]
        guidance: Tensor | None = None,  # [B]
    ) -> Tensor:  # [B, C, H, W]
        """What the U-Net predicts; of guidance it is told sinusoid(1000 (w - 1)), as its pipelines do."""
        beside: dict[str, Any] = {}
        if pooled is not None:
            beside["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": sizes}
        if self.features is not None:
            assert isinstance(guidance, Tensor)  # `EmbeddedGuidance` gives it to a model that takes it
            beside["timestep_cond"] = self.features(1000 * (guidance - 1)).to(x.dtype)
        answer: Tensor = self.unet(x, t, encoder_hidden_states=context, return_dict=False, **beside)[0]
        return answer


def model_from_pipeline(
    pipe: Any, *, height: int | None = None, width: int | None = None, opaque: bool = False, **overrides: Any
) -> Model:
    """The model that a pipeline of diffusers runs, over its own weights. The pipeline goes on working.

    Args:
        pipe: of a class in KINDS, or of a subclass.
        height, width: of the images in pixels; what its U-Net was trained for unless given.
        opaque: run diffusers' code of the U-Net in place of ours.
        overrides: attributes of `Model` to have in place of what the pipeline says, such as decoder=None for a run that
            ends in latents. What defaults does not name, of sampler, steps and guidance_scale, is the pipeline's.

    Raises:
        ArgumentError: another pipeline, by its name, or one with parts that fewstep does not run.
        ModelError: a scheduler or a U-Net with a field that fewstep does not read, by its name.

    Warns:
        UntrainedPlanWarning: the pipeline has the name of a distilled model, and another scheduler than that needs.
    """
    only("from_pipeline", overrides, FIELDS)
    name = kind_of_pipeline(pipe)
    of_text, controlled = PIPELINES[name].unet != UNET, name in CONTROLLED
    for part in ("unet", "scheduler", *("vae",) * of_text, *("controlnet",) * controlled):
        if getattr(pipe, part, None) is None:
            raise ArgumentError("pipe", f"a {name} whose {part} is None", f"one with its {part}")
    unet = pipe.unet
    plan, sampling, trained = _plan(pipe, name, overrides)
    said: dict[str, Any] = {
        "schedule": from_config(sampling.schedule),
        "prediction": sampling.prediction,
        "trained": trained,
        "name": str(getattr(pipe, "name_or_path", "") or "") or name,
    }
    own = {argument: value for argument, value in overrides.items() if argument != "defaults" or isinstance(value, str)}
    config = unet.config
    if PIPELINES[name].unet == UNET:
        for argument, value in {"height": height, "width": width}.items():
            if value is not None:
                raise ArgumentError(argument, value, f"None: a {name} draws at the size of its U-Net")
        classes = config.get("num_class_embeds")
        said |= {"shape": (config.in_channels, *_pair(config.sample_size)), "defaults": plan}
        said |= {"conditions": None if classes is None else Classes(classes)}
        return Model(_network(unet, opaque), **(said | own))
    size = _size(pipe, height, width)
    said["shape"] = (config.in_channels, *(side // pipe.vae_scale_factor for side in size))
    said["conditions"] = _prompts(pipe, size, controlled)
    scale = PIPELINES[name].guidance_scale
    if config.time_cond_proj_dim is not None:
        said["guidance"] = GUIDANCE | {"default": scale}
    elif trained is None and "defaults" not in own:
        plan = {"guidance_scale": scale} | plan
    said["defaults"] = plan
    if "decoder" not in overrides:
        said |= {"decoder": LatentDecoder(pipe.vae)}
        said |= {} if "encoder" in overrides else {"encoder": LatentEncoder(pipe.vae)}
    if controlled and opaque:
        raise ArgumentError("opaque", opaque, "False: a ControlNet runs beside fewstep's own U-Net")
    module = OpaqueUNet(_plain(unet)) if opaque else _network(unet, opaque=False)
    if isinstance(module, ConditionalUNet) and controlled:
        module = ControlledUNet.of(module, pipe.controlnet)
    return Model(module, **(said | own))


def kind_of_pipeline(pipe: object) -> str:
    """The class in KINDS that a pipeline is of. ArgumentError, naming its own, for another."""
    for cls in type(pipe).__mro__:
        if cls.__module__.startswith("diffusers.") and cls.__name__ in KINDS:
            return cls.__name__
    allowed = f"{', '.join(KINDS)}; its U-Net alone: fewstep.Model(pipe.unet, ...)"
    raise ArgumentError("pipe", f"a {type(pipe).__name__}", allowed)


def _network(unet: Any, opaque: bool) -> nn.Module:
    """Our network over the weights of a U-Net of diffusers, or that U-Net itself.

    One of its own, also where the U-Net is accelerated: `restore` takes that network's weights away.
    """
    unet = _plain(unet)
    if opaque:
        return unet  # type: ignore[no-any-return]
    kind = kind_of(unet)
    if kind is None:
        raise ArgumentError("pipe.unet", f"a {type(unet).__name__}", "one of diffusers' own, or opaque=True for any")
    return Network(unet, kind, "pipe.unet").current()


def _plain(unet: Any) -> nn.Module:
    """The U-Net of diffusers, also where it is accelerated."""
    module: nn.Module = unet.fewstep_network.original if isinstance(unet, View) else unet
    return module


def _plan(pipe: Any, name: str, overrides: Mapping[str, Any]) -> tuple[dict[str, Any], Sampling, Trained | None]:
    """The default plan, what else the scheduler says, and what the model was trained for where its name is known."""
    own = overrides.get("defaults")
    partly = own is None or (isinstance(own, Mapping) and "sampler" not in own)
    read = {argument: value for argument, value in overrides.items() if argument != "defaults" or not partly}
    sampling, trained = _sampling(pipe, name, spec_fields(read))
    plan = {**sampling.plan, **(own if isinstance(own, Mapping) else {})}
    taught = trained_from_config(trained)
    if taught is not None and partly and not taught.lists(plan["sampler"], plan["steps"]):
        allowed = f"{taught}, which the model was trained for, or trained=None beside it for any plan"
        raise ArgumentError("defaults", f"{plan['sampler']} with {plan['steps']} steps", allowed)
    return plan, sampling, taught


def _sampling(pipe: Any, name: str, given: Mapping[str, Any]) -> tuple[Sampling, Any]:
    """What the scheduler says, and what a preset adds that the pipeline's name is known by: what it was trained for."""
    scheduler = type(pipe.scheduler).__name__
    data = {field: value for field, value in pipe.scheduler.config.items() if not field.startswith("_")}
    # What betas mean is the same in every scheduler that has them; its steps are said otherwise then.
    read = "DDIMScheduler" if "plan" in given and scheduler not in SCHEDULERS and "beta_schedule" in data else scheduler
    try:
        sampling = sampling_from_scheduler({"_class_name": read, **data}, "pipe.scheduler", given)
    except ModelError as error:  # whose advice is of folders
        said = str(error).removesuffix(error.in_python).partition("; or ")[0]
        advice = (
            ": from_pipeline(pipe, defaults={'sampler': 'ddim', 'steps': 20}); "
            "and for its own steps sample(plan=fewstep.Plan.from_diffusers(pipe.scheduler, steps=20))"
        )
        what = "; or say what to sample with, a sampler and its steps such as ddim and 20"
        raise NoSamplerError(said + what, advice) from None
    if {"plan", "trained"} & set(given):
        return sampling, None
    names = {
        "the pipeline's name": str(getattr(pipe, "name_or_path", "") or ""),
        "the name in the U-Net's config": str(pipe.unet.config.get("_name_or_path", "") or ""),
    }
    found = recognised(names, scheduler, pipe.unet.config)
    if found is None:
        return sampling, None
    spec = {"name": name, **{field: getattr(sampling, field) for field in SAMPLING}}
    spec = found.applied(spec, "from_pipeline(pipe")
    return Sampling(spec["schedule"], spec["prediction"], spec["plan"]), spec.get("trained")


def _size(pipe: Any, height: int | None, width: int | None) -> tuple[int, int]:
    """Height and width of the images in pixels."""
    factor = pipe.vae_scale_factor
    usual = [side * factor for side in _pair(pipe.unet.config.sample_size)]
    sides = []
    for argument, value, default in (("height", height, usual[0]), ("width", width, usual[1])):
        side = default if value is None else integer(argument, value, factor, 2**20)
        if side % factor:
            raise ArgumentError(argument, value, f"a multiple of {factor}, which is a latent's side in pixels")
        sides.append(side)
    return sides[0], sides[1]


def _pair(size: Any) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    height, width = size
    return int(height), int(width)


def _prompts(pipe: Any, size: tuple[int, int], controlled: bool) -> Prompts:
    """What its texts are, of the widths that its U-Net takes, and its pictures where it has a ControlNet."""
    config, latents = pipe.unet.config, pipe.vae.config.latent_channels
    if config.in_channels != latents:
        found = f"a U-Net of {config.in_channels} input channels beside latents of {latents}"
        raise ArgumentError("pipe.unet", found, f"{latents}: one that draws from a text alone")
    pooled, encoder = None, getattr(pipe, "text_encoder_2", None)
    if config.addition_embed_type == "text_time":
        pooled = config.projection_class_embeddings_input_dim - SIZES * config.addition_time_embed_dim
        if encoder is not None and encoder.config.projection_dim != pooled:
            allowed = f"the one that its U-Net takes beside {SIZES} numbers, {pooled}: SDXL's refiner is told others"
            raise ArgumentError("pipe", f"a pooled text of {encoder.config.projection_dim} numbers", allowed)
    wide = config.encoder_hid_dim if config.encoder_hid_dim_type == "text_proj" else config.cross_attention_dim
    context = wide if isinstance(wide, int) else wide[0]
    told = size if pooled is not None else None
    if not controlled:
        return Prompts(PromptEncoder(pipe), context, pooled, told)
    check_controlnet(pipe)
    picture = (pipe.controlnet.config.conditioning_channels, *size)
    return ControlledPrompts(PromptEncoder(pipe), context, pooled, told, picture)
