"""Weights of something else, or of part of a U-Net: refused in a line that names what is wrong and what it is."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from fewstep.models.layouts.diffusers_condition import ONLY, config_from_diffusers_condition
from fewstep.models.load import load_model
from support.conditional_configs import REDUCED, random_unet
from support.ldm_case import as_ldm
from support.loading_case import refusal

ONE = torch.ones(1)
STEM = "diffusion_pytorch_model.safetensors"
# What each repository's files name, of which one name is enough.
FOREIGN: dict[str, tuple[str, str]] = {
    "kohya LoRA": ("lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight", "a LoRA"),
    "kohya LoRA of the text": ("lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha", "a LoRA"),
    "diffusers LoRA": ("unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_k.lora_A.weight", "a LoRA"),
    "old diffusers LoRA": ("down_blocks.0.attentions.0.processor.to_q_lora.down.weight", "a LoRA"),
    "LoRA of Flux": ("transformer.single_transformer_blocks.0.attn.to_k.lora_A.weight", "a LoRA"),
    "Flux": ("double_blocks.0.img_attn.norm.key_norm.scale", "the transformer of Flux"),
    "Flux in ComfyUI's": ("model.diffusion_model.double_blocks.0.img_attn.qkv.weight", "the transformer of Flux"),
    "Flux of diffusers": ("single_transformer_blocks.0.attn.norm_k.weight", "the transformer of Flux"),
    "SD3": (
        "model.diffusion_model.joint_blocks.0.context_block.attn.qkv.weight",
        "the transformer of Stable Diffusion 3",
    ),
    "SD3 of diffusers": ("transformer_blocks.0.attn.add_k_proj.weight", "the transformer of Stable Diffusion 3"),
    "PixArt": ("transformer_blocks.0.scale_shift_table", "a diffusion transformer"),
    "Sana": ("blocks.0.cross_attn.q_linear.weight", "a diffusion transformer"),
    "VAE": ("first_stage_model.decoder.up.0.block.0.conv1.weight", "an autoencoder"),
    "VAE of diffusers": ("decoder.up_blocks.0.resnets.0.conv1.weight", "an autoencoder"),
    "TAESD": ("decoder.layers.0.weight", "an autoencoder"),
    "CLIP": ("text_model.encoder.layers.0.mlp.fc1.weight", "a text encoder"),
    "OpenCLIP": ("transformer.resblocks.0.attn.in_proj_weight", "a text encoder"),
    "T5": ("encoder.block.0.layer.0.SelfAttention.k.weight", "a text encoder"),
    "ControlNet": ("control_model.input_hint_block.0.weight", "a ControlNet"),
    "ControlNet of diffusers": ("controlnet_cond_embedding.conv_in.weight", "a ControlNet"),
    "IP-Adapter": ("image_proj.proj.weight", "an IP-Adapter"),
    "textual inversion": ("emb_params", "a textual inversion"),
    "AnimateDiff": ("down_blocks.0.motion_modules.0.proj_in.weight", "a motion module of AnimateDiff"),
    "Cascade": ("down_blocks.0.0.channelwise.0.weight", "a network of Stable Cascade"),
}


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    return random_unet(REDUCED["sd1"])


@pytest.fixture
def folder(unet: UNet2DConditionModel, tmp_path: Path) -> Path:
    unet.save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("name", "what"), FOREIGN.values(), ids=FOREIGN)
def test_a_file_of_something_else_says_what_it_is(name: str, what: str, folder: Path) -> None:
    file = folder / "file.safetensors"
    save_file({name: ONE}, file)
    assert refusal(lambda: load_model(file)) == (
        f"{file}: holds no U-Net that is known: it is {what}; allowed: a checkpoint of Stable Diffusion, or the "
        "weights of a UNet2DConditionModel"
    )
    save_file({name: ONE}, folder / STEM)  # beside the config of a U-Net
    assert refusal(lambda: load_model(folder)).endswith(f"is missing; the file is {what}")


def test_files_that_tell_nothing_are_refused_too(folder: Path) -> None:
    file = folder / "file.safetensors"
    save_file({"blocks.0.weight": ONE}, file)
    assert "it is" not in refusal(lambda: load_model(file))
    assert "known: its first tensor is 'blocks.0.weight'; allowed" in refusal(lambda: load_model(file))
    save_file({}, file)
    assert "its first tensor is None" in refusal(lambda: load_model(file))
    (folder / "notes.txt").write_text("hello")
    assert "notes.txt: is of no known kind; allowed: .safetensors" in refusal(lambda: load_model(folder / "notes.txt"))
    (folder / "config.json").unlink()
    assert refusal(lambda: load_model(folder)).endswith(
        f"expected fewstep.json, model_index.json or config.json; a file in it may be one by itself: {STEM}, "
        "file.safetensors"
    )


def test_folders_of_other_networks_name_their_class(folder: Path) -> None:
    file = folder / "config.json"
    for said, name in (
        ({"_class_name": "AutoencoderKL"}, "AutoencoderKL"),
        ({"_class_name": "FluxTransformer2DModel"}, "FluxTransformer2DModel"),
        ({"architectures": ["CLIPTextModel"], "model_type": "clip_text_model"}, "CLIPTextModel"),
        ({"_class_name": ["UNet2DModel"]}, "['UNet2DModel']"),
    ):
        file.write_text(json.dumps(said))
        message = refusal(lambda: load_model(folder))
        assert message.startswith(
            f"{file}: _class_name: got {name if name[0] == '[' else repr(name)}; supported: UNet2DM"
        )
    index = folder / "model_index.json"
    index.write_text(
        json.dumps({"_class_name": "FluxPipeline", "transformer": ["diffusers", "FluxTransformer2DModel"]})
    )
    assert "got 'FluxPipeline', which has no U-Net; supported: DDPMPipeline" in refusal(lambda: load_model(folder))
    index.write_text(json.dumps({"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DModel"]}))
    assert "unet: got ['diffusers', 'UNet2DModel']; supported: diffusers' UNet2DConditionModel" in refusal(
        lambda: load_model(folder)
    )


def test_parts_of_another_network_are_told_beside_what_is_missing(unet: UNet2DConditionModel, folder: Path) -> None:
    ControlNetModel.from_unet(unet).save_pretrained(folder / "control")
    (folder / "control" / STEM).rename(folder / STEM)
    message = refusal(lambda: load_model(folder))
    assert "tensors are missing: " in message
    assert "as a ControlNet has them" in message
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, layers_per_block=1)
    save_file(vae.state_dict(), folder / STEM)
    assert refusal(lambda: load_model(folder)).endswith("is missing; the file is an autoencoder")


def changed(change: Callable[[dict[str, Tensor]], Any], file: Path) -> None:
    state = load_file(file)
    change(state)
    save_file(state, file)


def without(state: dict[str, Tensor], end: str) -> list[str]:
    """Take all tensors away whose names end so."""
    gone = [name for name in state if name.endswith(end)]
    for name in gone:
        del state[name]
    return gone


def test_what_is_missing_or_too_much_is_named_five_of_it(folder: Path) -> None:
    file = folder / STEM
    state = load_file(file)
    gone = without(state, "attn2.to_k.weight")
    save_file(state, file)
    assert len(gone) == 4
    message = refusal(lambda: load_model(folder))
    assert message.startswith(f"{file}: 4 tensors are missing: '")
    assert all(repr(name) in message for name in gone)
    gone += without(state, "attn2.to_v.weight")
    save_file(state | {f"extra.{index}": torch.ones(1) for index in range(7)}, file)
    message = refusal(lambda: load_model(folder))
    assert message.startswith(f"{file}: 8 tensors are missing: '")
    assert sum(repr(name) in message for name in gone) == 5
    assert message.endswith(
        " and 3 more; 7 tensors have no place in the model of the config: 'extra.0', 'extra.1' and 5 more"
    )


def test_surplus_and_shapes_are_told(folder: Path) -> None:
    file = folder / STEM
    changed(lambda state: state.update({f"extra.{index}": torch.ones(1) for index in range(6)}), file)
    assert refusal(lambda: load_model(folder)) == (
        f"{file}: 6 tensors have no place in the model of the config: 'extra.0', 'extra.1', 'extra.2', 'extra.3', "
        "'extra.4' and 1 more"
    )
    changed(lambda state: [state.pop(f"extra.{index}") for index in range(6)], file)
    key = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    changed(lambda state: state.update({key: torch.ones(32, 31)}), file)
    assert refusal(lambda: load_model(folder)) == (
        f"{file}: tensor {key!r} has shape [32, 31]; the config says [32, 32]"
    )
    changed(lambda state: state.update({"conv_in.weight": torch.ones(32, 9, 3, 3)}), file)
    assert refusal(lambda: load_model(folder)).endswith("; 1 more do not fit")


def test_a_truncated_file_says_so(folder: Path) -> None:
    file = folder / STEM
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    assert "ends 100 bytes past the end of the file, which is truncated" in refusal(lambda: load_model(folder))
    single = folder / "single.safetensors"
    single.write_bytes(whole[:1000])
    assert "header of" in refusal(lambda: load_model(single))


def test_the_names_in_messages_of_a_single_file_are_its_own(tmp_path: Path) -> None:
    config = {**REDUCED["sd1"], "cross_attention_dim": 768}
    state = as_ldm(random_unet(config).state_dict(), config)
    file = tmp_path / "file.safetensors"
    name = "model.diffusion_model.output_blocks.2.1.transformer_blocks.0.attn1.to_q.weight"

    def said(changes: dict[str, Tensor]) -> str:
        save_file({key: value.clone() for key, value in changes.items()}, file)
        return refusal(lambda: load_model(file))

    for missing in (name, "model.diffusion_model.input_blocks.1.0.in_layers.2.bias"):
        rest = {key: tensor for key, tensor in state.items() if key != missing}
        assert said(rest) == f"{file}: tensor {missing!r} is missing"
    extra = "model.diffusion_model.input_blocks.1.0.in_layers.7.bias"
    assert said(state | {extra: ONE}) == f"{file}: tensor {extra!r} has no place in the model of the config"
    assert said(state | {name: torch.ones(1, 2)}).startswith(
        f"{file}: tensor {name!r} has shape [1, 2]; the config says"
    )
    assert said(state | {name: state[name].to(torch.float8_e4m3fn)}) == (
        f"{file}: tensor {name!r} is of dtype F8_E4M3; supported: F64, F32, F16, BF16"
    )
    twice = state | {"other." + key: tensor for key, tensor in state.items()}
    assert "holds the network 2 times, as 'model.diffusion_model.', 'other.model.diff" in said(twice)
    bare = {key.removeprefix("model.diffusion_model."): tensor for key, tensor in state.items() if ".1." not in key}
    assert "holds a U-Net without cross-attention, whose config shapes do not tell; allowed: a folder" in said(bare)
    many = "model.diffusion_model.input_blocks.900.0.op.weight"
    assert said(state | {many: ONE}).endswith(f"tensor {many!r} has no place in the model of the config")


@pytest.mark.parametrize("field", ONLY)
def test_a_field_that_is_not_here_is_named_with_what_is_supported(field: str) -> None:
    config = {**REDUCED["sd1"], "_class_name": "UNet2DConditionModel", field: "something"}
    message = refusal(lambda: config_from_diffusers_condition(config, "config.json"))
    assert message.startswith(f"config.json: {field}: got 'something'; supported: ")
