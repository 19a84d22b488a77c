"""LoRA files of every family on a U-Net of ours: what it then predicts is what peft's merged model predicts."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor, nn

from fewstep.models.lora import Adapters, read_lora
from support.diffusers_case import SMALL, as_ours, inputs, ours, random_model, relative_difference, theirs
from support.lora_case import ATTENTION, as_diffusers, as_kohya, bare, tuned

CONFIG = SMALL | {"resnet_time_scale_shift": "scale_shift", "num_class_embeds": 3}


@pytest.fixture(scope="module")
def model() -> UNet2DModel:
    return random_model(CONFIG)


def difference(adapted: Any, merged: Any, model: UNet2DModel) -> float:
    """Of our prediction from peft's, after it was found that the LoRA makes one at all."""
    arguments = inputs(model)
    expected = theirs(merged, arguments)
    assert relative_difference(theirs(model, arguments), expected) > 0.01
    return relative_difference(ours(adapted, arguments), expected)


def in_a_folder(folder: Path, tensors: dict[str, Tensor], config: LoraConfig) -> Path:
    """As peft's save_pretrained writes it."""
    save_file(tensors, folder / "adapter_model.safetensors")
    said = {name: sorted(value) if isinstance(value, set) else value for name, value in config.to_dict().items()}
    (folder / "adapter_config.json").write_text(json.dumps(said))
    return folder


def with_metadata(folder: Path, tensors: dict[str, Tensor], config: LoraConfig) -> Path:
    """As diffusers' save_lora_weights writes it."""
    said = {f"unet.{name}": sorted(v) if isinstance(v, set) else v for name, v in config.to_dict().items()}
    path = folder / "pytorch_lora_weights.safetensors"
    named = {f"unet.{name}": tensor for name, tensor in bare(tensors).items()}
    save_file(named, path, metadata={"lora_adapter_metadata": json.dumps(said)})
    return path


CONFIGS: dict[str, dict[str, Any]] = {
    "attention alone": {"target_modules": ATTENTION},
    "every layer": {},
    "another rank and alpha in places": {
        "rank_pattern": {"conv1": 2, "mid_block.attentions.0.to_q": 1},
        "alpha_pattern": {"^down_blocks.1.attentions.0.to_k": 3, "to_v": 1},
    },
    "rank stabilized": {"use_rslora": True},
    "rank above the layer's width": {"r": 24},
}


@pytest.mark.slow
@pytest.mark.parametrize("options", CONFIGS.values(), ids=CONFIGS.keys())
def test_a_file_with_a_config_predicts_as_pefts_merged_model(
    options: dict[str, Any], model: UNet2DModel, tmp_path: Path
) -> None:
    tensors, config, merged = tuned(model, **options)
    unet = as_ours(model)
    adapters = Adapters(unet)
    for name, write in (("peft's folder", in_a_folder), ("diffusers' file", with_metadata)):
        (tmp_path / name).mkdir()
        adapters.load(write(tmp_path / name, tensors, config), name)
        found = difference(unet, merged, model)
        print(f"{name}: off by {found:.1e}")
        assert found <= 1e-5
        adapters.unload(name)


FAMILIES: dict[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]] = {
    "peft": lambda tensors: tensors,
    "peft without its prefix": bare,
    "peft in a pipeline": lambda tensors: {f"unet.{name}": tensor for name, tensor in bare(tensors).items()},
    "peft with the adapter's name": lambda tensors: {
        name.replace(".weight", ".default.weight"): tensor for name, tensor in tensors.items()
    },
    "diffusers": as_diffusers,
    "kohya": as_kohya,
    "kohya, alpha 0": lambda tensors: as_kohya(tensors, alpha=0.0),
}


Tuned = tuple[dict[str, Tensor], Any]


@pytest.fixture(scope="module")
def plain(model: UNet2DModel) -> Tuned:
    """Tensors whose alpha is their rank, and peft's model with them."""
    tensors, _, merged = tuned(model, lora_alpha=4)
    return tensors, merged


@pytest.mark.parametrize("named", FAMILIES.values(), ids=FAMILIES.keys())
def test_without_an_alpha_it_is_the_rank(
    named: Callable[..., dict[str, Tensor]], model: UNet2DModel, plain: Tuned
) -> None:
    tensors, merged = plain
    unet = as_ours(model)
    Adapters(unet).load(named(tensors))
    assert difference(unet, merged, model) <= 1e-5


@pytest.mark.parametrize("named", [as_diffusers, as_kohya], ids=["diffusers", "kohya"])
def test_an_alpha_of_its_own_scales_each_layer(
    named: Callable[..., dict[str, Tensor]], model: UNet2DModel, plain: Tuned
) -> None:
    tensors, merged = plain
    unet = as_ours(model)
    Adapters(unet).load(named(tensors, 1.0), weight=4.0)  # alpha / r is a quarter
    assert difference(unet, merged, model) <= 1e-5


def test_linear_layers_and_one_by_one_convolutions_stand_for_each_other(model: UNet2DModel, plain: Tuned) -> None:
    tensors, merged = plain
    other = {}
    for name, tensor in as_kohya(tensors).items():
        if tensor.ndim == 2:
            other[name] = tensor[:, :, None, None]
        else:
            other[name] = tensor[:, :, 0, 0] if tensor.shape[2:] == (1, 1) else tensor
    unet = as_ours(model)
    Adapters(unet).load(other)
    assert difference(unet, merged, model) <= 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_in_16_bits_a_merged_weight_is_at_most_twice_as_far_off_as_pefts(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(48, 40), nn.Conv2d(16, 24, 3)).to(dtype)
    exact = copy.deepcopy(net).double()
    # An alpha far below the rank, as many files have it: the scaled factor alone would be next to nothing in fp16.
    tensors, _, merged = tuned(net, target_modules=["0", "1"], r=16, lora_alpha=0.5)
    Adapters(net).load(as_kohya(tensors, alpha=0.5))
    Adapters(exact).load(as_kohya(tensors, alpha=0.5))
    weights = (each.state_dict().values() for each in (net, merged, exact))
    for mine, pefts, double in zip(*weights, strict=True):
        own, others = (float((each.double() - double).abs().max()) for each in (mine, pefts))
        print(f"off by {own:.2e}, peft by {others:.2e}")
        assert own <= 2 * others + torch.finfo(dtype).eps * float(double.abs().max())


def test_a_module_that_is_not_ours_has_its_own_names(model: UNet2DModel, plain: Tuned) -> None:
    tensors, merged = plain
    opaque = random_model(CONFIG)
    Adapters(opaque).load(as_kohya(tensors))
    arguments = inputs(model)
    assert relative_difference(theirs(opaque, arguments), theirs(merged, arguments)) <= 1e-5


def test_the_files_name_is_the_adapters(plain: Tuned, tmp_path: Path) -> None:
    tensors, config = plain[0], LoraConfig(r=4)
    (tmp_path / "style").mkdir()
    assert read_lora(with_metadata(tmp_path / "style", tensors, config)).name == "style"
    save_file(tensors, tmp_path / "ink.safetensors")
    assert read_lora(tmp_path / "ink.safetensors").name == "ink"
