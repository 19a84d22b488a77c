"""LoRA files as diffusers' own pipelines load them, beside ours: U-Nets with cross-attention, and text encoders."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import Tensor

from fewstep.models.lora import Adapters, read_lora
from support.conditional_case import as_ours, call_ours, call_theirs, error
from support.conditional_configs import REDUCED, condition_inputs
from support.lora_case import random_lora, random_text_lora, with_alpha
from support.pipelines_case import KINDS, pipeline

FORMS = ["text to image", "xl text to image"]


def predictions(pipe: Any, ours: Any, kind: str) -> tuple[Tensor, Tensor]:
    arguments = condition_inputs(REDUCED[KINDS[kind].unet])
    return call_ours(ours, arguments), call_theirs(pipe.unet, arguments)


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMS)
def test_kohyas_files_give_what_diffusers_pipelines_make_of_them(kind: str) -> None:
    pipe, plain = pipeline(kind), pipeline(kind)
    unet = as_ours(plain.unet)
    before = call_ours(unet, condition_inputs(REDUCED[KINDS[kind].unet]))
    # Of the added embedding diffusers knows the name in kohya's files for SDXL alone, which is another.
    every = {name: tensor for name, tensor in random_lora(plain.unet, "").items() if "add_embedding" not in name}
    first, second = with_alpha(every, 3.0), with_alpha(random_lora(plain.unet, "attn", seed=1, rank=2), 1.0)
    for name, lora in (("first", first), ("second", second)):
        pipe.load_lora_weights(dict(lora), adapter_name=name)
    adapters = Adapters(unet)
    adapters.load(first, "first", weight=0.0)
    adapters.load(second, "second")
    adapters.set({"first": 0.8, "second": -0.5})
    pipe.set_adapters(["first", "second"], [0.8, -0.5])
    found, expected = predictions(pipe, unet, kind)
    print(f"off by {error(found, expected):.1e}; the LoRA's own share is {error(before, expected):.2f}")
    assert error(before, expected) > 0.05
    assert error(found, expected) <= 1e-5
    adapters.unload()
    assert torch.equal(call_ours(unet, condition_inputs(REDUCED[KINDS[kind].unet])), before)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "prefixes"),
    [
        ("text to image", {"text_encoder": "lora_te_text_model_"}),
        (
            "xl text to image",
            {"text_encoder": "lora_te1_text_model_", "text_encoder_2": "lora_te2_text_model_"},
        ),
    ],
    ids=["sd", "sdxl"],
)
def test_the_parts_of_text_encoders_go_to_the_encoders_that_are_given(kind: str, prefixes: dict[str, str]) -> None:
    pipe, plain = pipeline(kind), pipeline(kind)
    unet = as_ours(plain.unet)
    lora = random_lora(plain.unet, "attn")
    for seed, (part, prefix) in enumerate(prefixes.items()):
        lora |= random_text_lora(getattr(plain, part), prefix, seed)
    lora = with_alpha(lora, 2.0)
    pipe.load_lora_weights(dict(lora))
    encoders = {part: getattr(plain, part) for part in prefixes}
    places = [tensor.data_ptr() for each in encoders.values() for tensor in each.parameters()]
    before = {part: [t.detach().clone() for t in each.parameters()] for part, each in encoders.items()}
    adapters = Adapters(unet, text_encoders=encoders)
    loaded = adapters.load(lora)
    assert loaded.unused == {}
    assert loaded.layers == {"unet": loaded.layers["unet"], **dict.fromkeys(prefixes, 12)}
    tokens = torch.arange(77)[None]
    for part, encoder in encoders.items():
        with torch.no_grad():
            found, expected = encoder(tokens)[0], getattr(pipe, part)(tokens)[0]
        print(f"{part}: off by {error(found, expected):.1e}")
        assert error(found, expected) <= 1e-5
    found, expected = predictions(pipe, unet, kind)
    assert error(found, expected) <= 1e-5
    adapters.unload()
    assert places == [tensor.data_ptr() for each in encoders.values() for tensor in each.parameters()]
    for part, each in encoders.items():
        assert all(torch.equal(now, then) for now, then in zip(each.parameters(), before[part], strict=True))


@pytest.mark.slow
def test_what_diffusers_saves_is_read_with_its_own_scales(tmp_path: Path) -> None:
    pipe, plain = pipeline("text to image"), pipeline("text to image")
    options: dict[str, Any] = {"init_lora_weights": False, "r": 3, "lora_alpha": 2}
    config = LoraConfig(
        target_modules=["to_q", "to_v", "ff.net.0.proj", "proj_in", "conv1"], alpha_pattern={"conv1": 6}, **options
    )
    pipe.unet.add_adapter(config)
    pipe.save_lora_weights(
        tmp_path,
        unet_lora_layers=get_peft_model_state_dict(pipe.unet),
        unet_lora_adapter_metadata=config.to_dict(),
    )
    unet = as_ours(plain.unet)
    lora = read_lora(tmp_path)
    assert lora.only("unet") == lora
    Adapters(unet).load(lora)
    found, expected = predictions(pipe, unet, "text to image")
    assert error(found, expected) <= 1e-5
