"""LoRA files as diffusers' own pipelines load them, beside ours: U-Nets with cross-attention, and text encoders."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import Tensor, nn

from fewstep.models.layouts import diffusers_condition, ldm
from fewstep.models.lora import Adapters, read_lora, tables_of
from fewstep.models.lora.formats import Name
from fewstep.models.lora.names import Places
from fewstep.models.net.build import empty_unet
from support.conditional_case import as_ours, call_ours, call_theirs, error
from support.conditional_configs import REDUCED, SD15, SDXL, condition_inputs
from support.lora_case import random_lora, random_text_lora, with_alpha
from support.pipelines_case import KINDS, pipeline

FORMS = ["text to image", "xl text to image"]


def predictions(pipe: Any, ours: Any, kind: str) -> tuple[Tensor, Tensor]:
    arguments = condition_inputs(REDUCED[KINDS[kind].unet])
    return call_ours(ours, arguments), call_theirs(pipe.unet, arguments)


def by_layer(unet: nn.Module) -> dict[str, dict[str, Tensor]]:
    """Factors with an alpha for every layer of a U-Net of diffusers, by its name there."""
    generator = torch.Generator().manual_seed(0)
    found: dict[str, dict[str, Tensor]] = {}
    for name, layer in unet.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            rows, *sizes = layer.weight.shape
            down = 0.1 * torch.randn(2, *sizes, generator=generator)
            up = 0.1 * torch.randn(rows, 2, *(1,) * (len(sizes) - 1), generator=generator)
            found[name] = {"lora_down.weight": down, "lora_up.weight": up, "alpha": torch.tensor(1.0)}
    return found


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
def test_kohyas_names_of_sdxl_are_those_of_latent_diffusion() -> None:
    kind = "xl text to image"
    pipe, plain = pipeline(kind), pipeline(kind)
    modules = {there: here for here, there in ldm.modules_of(2, 2, ldm.ADDED).items()}
    lora: dict[str, Tensor] = {}
    for layer, tensors in by_layer(plain.unet).items():
        parts = layer.split(".")
        end = next(end for end in range(len(parts), 0, -1) if ".".join(parts[:end]) in modules)
        name = "_".join([modules[".".join(parts[:end])], *parts[end:]]).replace(".", "_")
        lora |= {f"lora_unet_{name}.{kind}": tensor for kind, tensor in tensors.items()}
    assert {"lora_unet_input_blocks_3_0_op.alpha", "lora_unet_output_blocks_2_2_conv.alpha"} < lora.keys()
    assert {"lora_unet_label_emb_0_2.alpha", "lora_unet_middle_block_1_proj_in.alpha"} < lora.keys()
    pipe.load_lora_weights(dict(lora))
    unet = as_ours(plain.unet)
    loaded = Adapters(unet).load(lora)
    assert loaded.layers == {"unet": len(lora) // 3}
    found, expected = predictions(pipe, unet, kind)
    print(f"{loaded.layers['unet']} layers, off by {error(found, expected):.1e}")
    assert error(found, expected) <= 1e-5


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


IN_FULL: dict[str, tuple[dict[str, Any], dict[str, tuple[str, int]]]] = {
    "sdxl": (
        SDXL,
        {
            "input_blocks_1_0_emb_layers_1": ("project.weight", 0),
            "input_blocks_4_1_transformer_blocks_1_attn2_to_v": (
                "down.1.stages.0.transformer.blocks.1.cross.kv.weight",
                640,
            ),
            "middle_block_1_transformer_blocks_9_attn1_to_k": (
                "mid_transformer.blocks.9.attention.qkv.weight",
                1280,
            ),
            "output_blocks_5_2_conv": ("up.1.resample.conv.weight", 0),
            "output_blocks_8_0_skip_connection": ("up.2.stages.2.block.skip.weight", 0),
        },
    ),
    "sd1.5": (
        SD15,
        {
            "up_blocks_3_attentions_2_transformer_blocks_0_ff_net_2": (
                "up.3.stages.2.transformer.blocks.0.ff_out.weight",
                0,
            ),
            "down_blocks_3_resnets_1_time_emb_proj": ("project.weight", 2 * 320 + 2 * 640 + 3 * 1280),
        },
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(("config", "layers"), IN_FULL.values(), ids=IN_FULL.keys())
def test_names_of_full_models_are_found(config: dict[str, Any], layers: dict[str, tuple[str, int]]) -> None:
    data = {"_class_name": "UNet2DConditionModel", **json.loads(json.dumps(config))}
    unet = empty_unet(diffusers_condition.config_from_diffusers_condition(data, "config.json"))
    places = Places(tables_of(unet))
    for layer, (parameter, start) in layers.items():
        rows = places.find(Name("unet", layer, flat=True))
        assert rows is not None
        assert (rows.parameter, rows.start) == (parameter, start)
