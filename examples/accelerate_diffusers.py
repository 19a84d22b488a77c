"""A pipeline of diffusers, run by fewstep: one line, the same call, the same images, and one line back.

python examples/accelerate_diffusers.py                               a tiny one with random weights, offline
python examples/accelerate_diffusers.py FOLDER_OR_HUB_ID "a prompt"   Stable Diffusion, SDXL or an LCM of yours
"""

import sys
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, StableDiffusionPipeline, UNet2DConditionModel
from torch.utils._python_dispatch import TorchDispatchMode

import fewstep


class Ops(TorchDispatchMode):
    """Counts the ops that torch runs."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return function(*args, **(kwargs or {}))


def tiny_pipeline() -> Any:
    """Stable Diffusion without its text encoder, a few channels wide."""
    torch.manual_seed(0)
    levels = ("CrossAttnDownBlock2D", "DownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")
    unet = UNet2DConditionModel(
        sample_size=16,
        down_block_types=levels[0],
        up_block_types=levels[1],
        block_out_channels=(32, 64),
        attention_head_dim=2,
        cross_attention_dim=32,
    )
    vae = AutoencoderKL(block_out_channels=(32,), norm_num_groups=8)
    parts = {"unet": unet.eval(), "vae": vae.eval(), "scheduler": DDIMScheduler(steps_offset=1, clip_sample=False)}
    nothing = dict.fromkeys(("text_encoder", "tokenizer", "safety_checker", "feature_extractor"))
    return StableDiffusionPipeline(**parts, **nothing, requires_safety_checker=False)


def draw(pipe: Any, asked: dict[str, Any]) -> tuple[torch.Tensor, int]:
    """The latents of 4 steps from one seed, and how many ops they took."""
    noise = torch.Generator().manual_seed(0)
    with Ops() as ops:
        latents = pipe(**asked, num_inference_steps=4, generator=noise, output_type="latent").images
    return latents.float().cpu(), ops.count


def main(source: str | None = None, prompt: str = "a red fox in the snow") -> None:
    pipe = tiny_pipeline() if source is None else DiffusionPipeline.from_pretrained(source)
    pipe.set_progress_bar_config(disable=True)
    if source is not None and torch.cuda.is_available():
        pipe.to("cuda")
    embeddings = torch.randn(2, 1, 77, 32, generator=torch.Generator().manual_seed(1))
    prompts = {"prompt_embeds": embeddings[0], "negative_prompt_embeds": embeddings[1]}
    asked = prompts if source is None else {"prompt": prompt}

    untouched, unet, vae = draw(pipe, asked), pipe.unet, pipe.vae
    fewstep.accelerate(pipe)
    accelerated = draw(pipe, asked)
    off = float((accelerated[0] - untouched[0]).abs().max() / untouched[0].abs().max())
    assert off < 1e-4, off
    print(f"4 steps of {type(pipe).__name__}: {untouched[1]} ops by diffusers, {accelerated[1]} by fewstep")
    print(f"largest difference of the latents: {off:.0e} of the largest")

    fewstep.restore(pipe)
    assert pipe.unet is unet
    assert pipe.vae is vae
    print("restored: the pipeline has its own modules again")


if __name__ == "__main__":
    main(*sys.argv[1:])
