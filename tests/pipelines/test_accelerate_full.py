"""Stable Diffusion 1.5 and 2.1 in full: whole pipelines of random weights at 128x128 pixels, before and after."""

from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel

import fewstep
from support.conditional_case import error
from support.conditional_configs import FULL
from support.pipelines_case import SCHEDULERS, text_encoder, tokenizer

pytestmark = pytest.mark.long


def pipeline(name: str) -> Any:
    """With an autoencoder that halves a picture three times, as theirs does, and is narrow."""
    words = tokenizer()
    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 16, 16),
        norm_num_groups=4,
        layers_per_block=1,
    )
    settings = {"prediction_type": "v_prediction"} if name == "sd2.1" else {}
    made = StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=text_encoder(words),
        tokenizer=words,
        unet=UNet2DConditionModel(**FULL[name]).eval(),
        scheduler=SCHEDULERS["ddim"](**settings),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    made.set_progress_bar_config(disable=True)
    return made


@pytest.mark.parametrize("name", ["sd1.5", "sd2.1"])
def test_four_steps_end_in_the_latents_of_the_untouched_pipeline(name: str) -> None:
    pipe, width = pipeline(name), FULL[name]["cross_attention_dim"]
    drawn = torch.Generator().manual_seed(1)
    call = {
        "prompt_embeds": torch.randn(1, 77, width, generator=drawn),
        "negative_prompt_embeds": torch.randn(1, 77, width, generator=drawn),
        "latents": torch.randn(1, 4, 16, 16, generator=drawn),
        "num_inference_steps": 4,
        "guidance_scale": 7.5,
        "output_type": "latent",
    }
    before = pipe(**call).images
    after = fewstep.accelerate(pipe)(**call).images
    difference = error(after, before)
    print(f"{name}: 4 guided steps off by {difference:.1e} of their norm")
    assert difference <= 1e-4
    assert torch.equal(fewstep.restore(pipe)(**call).images, before)
