"""A LoRA in an engine that is made of a pipeline, beside the pipeline in which diffusers has fused it."""

from typing import Any

import pytest
import torch
from torch import Tensor

from fewstep import Engine
from support.lora_case import random_lora, random_text_lora, with_alpha
from support.pipelines_case import pipeline

ASKED: dict[str, Any] = {
    "prompt": "a red fox",
    "negative_prompt": "blurry",
    "steps": 2,
    "seeds": 5,
    "guidance_scale": 2,
}


def drawn(engine: Engine) -> Tensor:
    return engine.sample(**ASKED).images


@pytest.mark.slow
@pytest.mark.parametrize("opaque", [False, True], ids=["our network", "diffusers' network"])
def test_u_net_and_text_encoder_are_those_that_diffusers_fuses(opaque: bool) -> None:
    ours, theirs = pipeline("text to image"), pipeline("text to image")
    unet, encoder = random_lora(ours.unet, "attn"), random_text_lora(ours.text_encoder)
    lora = with_alpha(unet | encoder, 2.0)
    theirs.load_lora_weights(dict(lora))
    theirs.fuse_lora(lora_scale=0.5)
    theirs.unload_lora_weights()
    engine = Engine.from_pipeline(ours, decoder=None, opaque=opaque)
    before, expected = drawn(engine), drawn(Engine.from_pipeline(theirs, decoder=None, opaque=opaque))
    loaded = engine.load_lora(lora, "style", weight=0.5)
    assert loaded.unused == {}
    assert loaded.layers == {"text_encoder": 12, "unet": len(unet) // 2}
    found = drawn(engine)
    off, own = (float((each - expected).abs().max() / expected.abs().max()) for each in (found, before))
    print(f"off by {off:.1e}, by {own:.2f} without it")
    assert own > 0.01
    assert off <= 1e-4
    engine.unload_lora()
    assert torch.equal(drawn(engine), before)
