"""Whole pipelines of diffusers, made from configs with random weights and a vocabulary of bytes: nothing is downloaded.

    pipe = pipeline("text to image")
    latents = pipe(**call("text to image"), output_type="latent").images

Pictures are 32x32, latents 16x16, a step takes a few milliseconds.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import diffusers
import torch
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from support.conditional_configs import REDUCED, TOKENS, condition_inputs, random_unet, roughened
from support.diffusers_case import SMALL as PIXELS
from support.diffusers_case import random_model

SIZE = 32
PROMPTS = ("a red fox in the snow", "Ein Haus am See, 1890", "three cats")
NEGATIVES = ("blurry", "dark, noisy", "text")


def write_tokenizer(folder: Path) -> None:
    """The files of a CLIP tokenizer whose tokens are single bytes, so that any prompt has its tokens."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    rest = [byte for byte in range(256) if byte not in printable]
    alphabet = [chr(byte) for byte in printable] + [chr(256 + place) for place in range(len(rest))]
    words = [*alphabet, *(letter + "</w>" for letter in alphabet), "t h", "th e</w>"]
    tokens = [word.replace(" ", "") for word in words] + ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: place for place, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(words[-2:]) + "\n")
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": TOKENS}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def tokenizer() -> CLIPTokenizer:
    with TemporaryDirectory() as folder:
        write_tokenizer(Path(folder))
        return CLIPTokenizer.from_pretrained(folder)


def text_encoder(words: CLIPTokenizer, projection: bool = False, seed: int = 0) -> Any:
    """[B, 77] tokens -> [B, 77, 32]; with the pooled [B, 32] of a projection where that is asked for."""
    torch.manual_seed(seed)
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        projection_dim=32,
        initializer_factor=2.0,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    return roughened((CLIPTextModelWithProjection if projection else CLIPTextModel)(config).eval())


def small_vae() -> diffusers.AutoencoderKL:
    """Halves each side once, to 4 channels."""
    torch.manual_seed(2)
    vae = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(16, 32),
        norm_num_groups=8,
        layers_per_block=1,
        latent_channels=4,
        sample_size=SIZE,
    )
    return roughened(vae.eval())


def conditional_unet(name: str, **changes: Any) -> diffusers.UNet2DConditionModel:
    """The reduced one of that name; what it predicts is about as large as noise is."""
    config = REDUCED[name] | changes
    unet = random_unet(config)
    with torch.no_grad():
        spread = unet(**condition_inputs(config)).sample.std()
        unet.conv_out.weight.div_(spread)
        unet.conv_out.bias.div_(spread)
    return unet


def controlnet(unet: diffusers.UNet2DConditionModel) -> diffusers.ControlNetModel:
    """One whose residuals are not zero, as they are before training."""
    torch.manual_seed(3)
    changes = {"conditioning_embedding_out_channels": (8, 8)}  # halves a picture once, as the autoencoder does
    made = roughened(diffusers.ControlNetModel.from_unet(unet, **changes).eval())
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if ".to_q." in name or ".to_k." in name:
                parameter /= 3  # they were the U-Net's: made larger twice, attention would turn on the last bit
    return made


def picture(seed: int = 0, mode: str = "RGB") -> Image.Image:
    """A smooth random picture of 32x32."""
    generator = torch.Generator().manual_seed(seed)
    coarse = (255 * torch.rand(4, 4, len(mode), generator=generator)).byte().squeeze(-1).numpy()
    return Image.fromarray(coarse).resize((SIZE, SIZE), Image.Resampling.BICUBIC)


def mask() -> Image.Image:
    """White, which is drawn anew, on the right."""
    white = Image.new("L", (SIZE, SIZE))
    white.paste(255, (SIZE // 2, 0, SIZE, SIZE))
    return white


DDIM = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False}
SCHEDULERS: dict[str, Callable[..., Any]] = {
    "ddim": lambda **options: diffusers.DDIMScheduler(
        **(DDIM | {"steps_offset": 1, "set_alpha_to_one": False}), **options
    ),
    "euler": lambda **options: diffusers.EulerDiscreteScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1, **options
    ),
    "lcm": lambda **options: diffusers.LCMScheduler(**options),
}


def stable_diffusion(kind: "Kind") -> Any:
    words, unet = tokenizer(), conditional_unet(kind.unet)
    parts: dict[str, Any] = {
        "vae": small_vae(),
        "text_encoder": text_encoder(words),
        "tokenizer": words,
        "unet": unet,
        "scheduler": SCHEDULERS[kind.scheduler](**kind.settings),
    }
    if "XL" in kind.pipeline:
        parts |= {"text_encoder_2": text_encoder(words, projection=True, seed=1), "tokenizer_2": tokenizer()}
    else:
        parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    if "ControlNet" in kind.pipeline:
        parts["controlnet"] = controlnet(unet)
    return getattr(diffusers, kind.pipeline)(**parts)


def of_pixels(kind: "Kind") -> Any:
    """Without text: a UNet2DModel and a scheduler."""
    if kind.pipeline == "ConsistencyModelPipeline":
        unet = random_model(PIXELS | {"num_class_embeds": 5, "time_embedding_type": "positional"})
        return diffusers.ConsistencyModelPipeline(unet, diffusers.CMStochasticIterativeScheduler(40))
    schedulers = {"DDPMPipeline": diffusers.DDPMScheduler, "DDIMPipeline": diffusers.DDIMScheduler}
    return getattr(diffusers, kind.pipeline)(random_model(PIXELS), schedulers[kind.pipeline]())


@dataclass(frozen=True)
class Kind:
    """A pipeline and how it is called."""

    pipeline: str
    unet: str = "sd1"
    scheduler: str = "ddim"
    settings: dict[str, Any] = field(default_factory=dict)  # of the scheduler
    images: tuple[str, ...] = ()  # the arguments that are pictures
    arguments: dict[str, Any] = field(default_factory=dict)
    make: Callable[["Kind"], Any] = stable_diffusion

    @property
    def takes_text(self) -> bool:
        """Whether it is called with prompts."""
        return self.make is stable_diffusion


_AGAIN = {"strength": 0.99, "num_inference_steps": 5}  # of which 4 are taken
KINDS: dict[str, Kind] = {
    "text to image": Kind("StableDiffusionPipeline"),
    "text to image, v": Kind("StableDiffusionPipeline", "sd2", settings={"prediction_type": "v_prediction"}),
    "xl text to image": Kind("StableDiffusionXLPipeline", "sdxl", "euler"),
    "image to image": Kind("StableDiffusionImg2ImgPipeline", images=("image",), arguments=_AGAIN),
    "xl image to image": Kind("StableDiffusionXLImg2ImgPipeline", "sdxl", "euler", images=("image",), arguments=_AGAIN),
    "inpainting, 9 channels": Kind("StableDiffusionInpaintPipeline", "inpainting", images=("image", "mask_image")),
    "inpainting, 4 channels": Kind("StableDiffusionInpaintPipeline", images=("image", "mask_image"), arguments=_AGAIN),
    "xl inpainting": Kind(
        "StableDiffusionXLInpaintPipeline", "sdxl", "euler", images=("image", "mask_image"), arguments=_AGAIN
    ),
    "controlnet": Kind("StableDiffusionControlNetPipeline", images=("image",)),
    "controlnet image to image": Kind(
        "StableDiffusionControlNetImg2ImgPipeline", images=("image", "control_image"), arguments=_AGAIN
    ),
    "controlnet inpainting": Kind(
        "StableDiffusionControlNetInpaintPipeline",
        images=("image", "mask_image", "control_image"),
        arguments=_AGAIN,
    ),
    "xl controlnet": Kind("StableDiffusionXLControlNetPipeline", "sdxl", "euler", images=("image",)),
    "latent consistency": Kind("LatentConsistencyModelPipeline", "lcm", "lcm"),
    "latent consistency image to image": Kind(
        "LatentConsistencyModelImg2ImgPipeline", "lcm", "lcm", images=("image",), arguments={"strength": 0.9}
    ),
    "instructions": Kind("StableDiffusionInstructPix2PixPipeline", "instructions", images=("image",)),
    "ddpm": Kind("DDPMPipeline", make=of_pixels),
    "ddim": Kind("DDIMPipeline", make=of_pixels),
    "consistency": Kind("ConsistencyModelPipeline", make=of_pixels),
}


def pipeline(kind: str) -> Any:
    """The pipeline of a kind of KINDS, the same weights each time, silent."""
    made = KINDS[kind].make(KINDS[kind])
    made.set_progress_bar_config(disable=True)
    return made


def call(kind: str, batch: int = 1, seed: int = 0, steps: int = 4, negative: bool = True) -> dict[str, Any]:
    """The arguments of a call, with a generator of its own, so that a call with each of two gives the same images.

    batch: prompts, or images where there are none. Whether there are negative prompts makes no difference where a
    pipeline takes none.
    """
    of, generator = KINDS[kind], torch.Generator().manual_seed(seed)
    arguments: dict[str, Any] = {"num_inference_steps": steps, "generator": generator} | of.arguments
    if not of.takes_text:
        classes = {"class_labels": list(range(batch))} if "Consistency" in of.pipeline else {}
        return arguments | classes | {"batch_size": batch}
    images = {name: mask() if name == "mask_image" else picture(place) for place, name in enumerate(of.images)}
    if batch > 1:
        images = {name: [each] * batch for name, each in images.items()}
    arguments |= images | {"prompt": list(PROMPTS[:batch]), "guidance_scale": 2.0}
    if negative and "LatentConsistency" not in of.pipeline:
        arguments["negative_prompt"] = list(NEGATIVES[:batch])
    return arguments


def saved(kind: str, folder: Path) -> Path:
    """The folder, where the pipeline of that kind now is."""
    pipeline(kind).save_pretrained(folder)
    return folder
