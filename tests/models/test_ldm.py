"""Single files of Stable Diffusion: told by their shapes, read by latent diffusion's names or by diffusers'."""

import json
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from safetensors.torch import save_file
from torch import Tensor

from fewstep import Model, UntrainedPlanWarning
from fewstep.cli import main
from fewstep.models.layouts import diffusers_condition
from fewstep.models.layouts.condition_shapes import config_from_shapes
from fewstep.models.layouts.keys import Keys
from fewstep.models.layouts.single_file import open_file
from fewstep.models.layouts.stable_diffusion import completed, family_of
from fewstep.models.load import load_model, open_folder
from fewstep.models.net.build import empty_unet
from fewstep.models.safe_load import TensorDict, fill
from fewstep.presets import PRESETS
from fewstep.request.guidance import ClassifierFree
from support.conditional_configs import FULL, SD15, SD21, SDXL, random_unet
from support.ldm_case import as_ldm
from support.loading_case import refusal

REFINER: dict[str, Any] = {
    "sample_size": 128,
    "block_out_channels": (384, 768, 1536, 1536),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": 1280,
    "attention_head_dim": (6, 12, 24, 24),
    "transformer_layers_per_block": 4,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2560,
    "layers_per_block": 2,
}
UNCLIP = {**SD21, "class_embed_type": "projection", "projection_class_embeddings_input_dim": 2048}
WHOLE: dict[str, dict[str, Any]] = {
    **{name: config for name, config in FULL.items() if name != "lcm"},
    "refiner": REFINER,
    "inpainting": {**SD15, "in_channels": 9},
    "instructions": {**SD15, "in_channels": 8},
    "sd2 inpainting": {**SD21, "in_channels": 9},
    "sd2 unclip": UNCLIP,
}
# Of the same form, and narrow; as wide as their family's are the text embeddings, which tell it, and pooled texts.
NARROW: dict[str, dict[str, Any]] = {
    "sd1": {**SD15, "block_out_channels": (32, 64), "layers_per_block": 1}
    | {"down_block_types": SD15["down_block_types"][2:], "up_block_types": SD15["up_block_types"][:2]},
    "sd2": {**SD21, "block_out_channels": (64, 128), "layers_per_block": 1, "attention_head_dim": (1, 2)}
    | {"down_block_types": SD21["down_block_types"][2:], "up_block_types": SD21["up_block_types"][:2]},
    "sdxl": {**SDXL, "block_out_channels": (64, 64), "layers_per_block": 1, "attention_head_dim": (1, 1)}
    | {"down_block_types": SDXL["down_block_types"][:2], "up_block_types": SDXL["up_block_types"][1:]}
    | {"transformer_layers_per_block": (1, 2)},
}


@cache
def made(name: str) -> UNet2DConditionModel:
    """Made once: no test changes it."""
    return random_unet(NARROW[name])


@pytest.fixture(scope="module", params=NARROW)
def narrow(request: pytest.FixtureRequest) -> UNet2DConditionModel:
    return made(request.param)


@pytest.fixture(scope="module")
def sd1() -> UNet2DConditionModel:
    return made("sd1")


def plain(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in state.items()}


def write(path: Path, *states: dict[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    """A file of all of these, in which each tensor has memory of its own."""
    save_file({name: tensor.clone() for state in states for name, tensor in plain(state).items()}, path, metadata)
    return path


BESIDE = {
    "first_stage_model.decoder.conv_in.weight": torch.ones(1),
    "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(4)[None],
    "cond_stage_model.transformer.text_model.final_layer_norm.bias": torch.ones(2),
    "alphas_cumprod": torch.ones(3),
}


def as_converted(unet: UNet2DConditionModel) -> dict[str, Tensor]:
    """What our U-Net's parameters are, with a state of diffusers'."""
    config = diffusers_condition.config_from_diffusers_condition(json.loads(unet.to_json_string()), "config.json")
    ours = empty_unet(config)
    fill(ours, TensorDict(Path("memory"), unet.state_dict()), diffusers_condition.naming(config).keys(ours))
    return dict(ours.named_parameters())


def test_latent_diffusions_names_are_those_that_diffusers_reads(narrow: UNet2DConditionModel, tmp_path: Path) -> None:
    """The file of the test is read by diffusers' own converter and by ours, bit for bit as it was."""
    state = as_ldm(narrow.state_dict(), dict(narrow.config))
    assert set(state) == {name for name in state if name.startswith("model.diffusion_model.")}
    converted = convert_ldm_unet_checkpoint(dict(state), dict(narrow.config))
    assert converted.keys() == narrow.state_dict().keys()
    assert all(torch.equal(converted[name], tensor) for name, tensor in narrow.state_dict().items())
    loaded, spec = load_model(write(tmp_path / "model.safetensors", state, BESIDE))
    expected = as_converted(narrow)
    assert loaded.state_dict().keys() == expected.keys()
    for name, parameter in loaded.named_parameters():
        assert torch.equal(parameter, expected[name]), name
    assert "1 tensors of 'first_stage_model'" in spec.notes[-1]


@pytest.mark.parametrize("prefix", ["", "diffusion_model.", "state_dict.model.diffusion_model."], ids=str)
@pytest.mark.parametrize("naming", ["latent diffusion", "diffusers"])
def test_the_names_may_begin_with_anything(naming: str, prefix: str, sd1: UNet2DConditionModel, tmp_path: Path) -> None:
    state = sd1.state_dict()
    named = {prefix + k: v for k, v in state.items()} if naming == "diffusers" else as_ldm(state, sd1.config, prefix)
    loaded, _ = load_model(write(tmp_path / "unet.safetensors", named, BESIDE if prefix else {}))
    expected = as_converted(sd1)
    assert all(torch.equal(parameter, expected[name]) for name, parameter in loaded.named_parameters())


def test_a_pickle_needs_leave_and_is_read_for_its_tensors(sd1: UNet2DConditionModel, tmp_path: Path) -> None:
    path = tmp_path / "v1-5.ckpt"
    state = as_ldm(sd1.state_dict(), sd1.config) | BESIDE
    torch.save({"state_dict": state, "global_step": 3, "epoch": 1}, path)
    assert refusal(lambda: load_model(path)) == (
        f"{path}: is a pickle, which may run code when read; allowed: .safetensors, or allow_pickle"
    )
    for saved in ({"state_dict": state}, state):
        torch.save({**saved, "global_step": 3, "epoch": 1}, path)
        loaded, spec = load_model(path, allow_pickle=True)
        assert torch.equal(loaded.conv_in.weight, sd1.conv_in.weight)
        assert "1 tensors of 'first_stage_model'" in spec.notes[-1]


def test_averaged_weights_are_taken_where_they_are_asked_for(sd1: UNet2DConditionModel, tmp_path: Path) -> None:
    state = as_ldm(sd1.state_dict(), sd1.config)
    ema = {
        "model_ema." + "".join(name.split(".")[1:]): tensor + 1 if tensor.ndim == 1 else tensor
        for name, tensor in state.items()
    }
    ema["model_ema.num_updates"] = torch.tensor(3)
    path = write(tmp_path / "both.safetensors", state, ema)
    assert "variant='ema' takes the averaged weights" in open_folder(path)[1].notes[-1]
    assert torch.equal(load_model(path)[0].conv_in.bias, sd1.conv_in.bias)
    averaged, spec = load_model(path, variant="ema")
    assert torch.equal(averaged.conv_in.bias, sd1.conv_in.bias + 1)
    assert torch.equal(averaged.conv_in.weight, sd1.conv_in.weight)
    assert "tensors of 'model'" in spec.notes[-1]
    alone = write(tmp_path / "alone.safetensors", state)
    assert "has no averaged weights beside the others" in refusal(lambda: open_folder(alone, "ema"))
    assert "has no variant 'fp16'; allowed: 'ema', or None" in refusal(lambda: open_folder(alone, "fp16"))


def shapes_of(config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """diffusers' U-Net of a config, on the meta device."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
    return json.loads(unet.to_json_string()), unet.state_dict()


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_model_is_told_by_its_shapes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tensor of the full model has its place and its shape, in either naming, and the config is its own."""
    from fewstep.models.layouts import single_file

    config, state = shapes_of(WHOLE[name])
    ours = diffusers_condition.config_from_diffusers_condition({**config, "_class_name": "UNet2DConditionModel"}, "x")
    unet = empty_unet(ours)
    files = {"latent diffusion": as_ldm(state, config), "diffusers": state}
    for naming, tensors in files.items():
        source = TensorDict(Path("model.safetensors"), tensors)
        monkeypatch.setattr(single_file, "open_weights", lambda *args, source=source, **options: source)
        weights, spec = open_file(Path("model.safetensors"), {}, None, allow_pickle=False)
        assert weights.config == ours, naming
        keys: Keys = weights.keys(unet)
        pieces = [piece for group in keys.values() for piece in group]
        assert {piece.name for piece in pieces} == set(tensors), naming
        assert len(pieces) == len(tensors)
        assert all(piece.fits(tuple(tensors[piece.name].shape)) for piece in pieces)
        assert spec.prediction == ("v" if name in ("sd2.1", "sd2 unclip") else "eps")
        side = 64 if name == "sd2 inpainting" else config["sample_size"]
        assert spec.shape == (4, side, side)


def test_the_family_says_the_plan_and_a_note_what_is_assumed(tmp_path: Path, sd1: UNet2DConditionModel) -> None:
    path = write(tmp_path / "model.safetensors", as_ldm(sd1.state_dict(), sd1.config))
    spec = open_folder(path)[1]
    assert (spec.name, spec.family, spec.shape) == ("model", "sd", (4, 64, 64))
    assert spec.notes[0].startswith("the file holds Stable Diffusion 1 by the shapes of its tensors, and no scheduler")
    assert (spec.plan["sampler"], spec.plan["steps"], spec.plan["guidance_scale"]) == ("ddim", 50, 7.5)
    assert spec.schedule["beta_end"] == 0.012
    model = Model.from_pretrained(path, shape=(4, 8, 8), defaults={"sampler": "euler", "steps": 3})
    assert (model.shape, model.defaults["sampler"]) == ((4, 8, 8), "euler")


@pytest.fixture(scope="module")
def sd2() -> dict[str, Tensor]:
    unet = made("sd2")
    return as_ldm(unet.state_dict(), dict(unet.config))


def test_stable_diffusion_2_predicts_v_unless_it_is_told(sd2: dict[str, Tensor], tmp_path: Path) -> None:
    path = write(tmp_path / "model.safetensors", sd2)
    spec = open_folder(path)[1]
    assert (spec.prediction, spec.shape) == ("v", (4, 96, 96))
    assert "v is assumed, as of 2.1 at 768 x 768 pixels; of a base model" in spec.notes[1]
    base = Model.from_pretrained(path, prediction="eps")
    assert (base.prediction, base.shape) == ("eps", (4, 64, 64))
    said = open_folder(write(path, sd2, metadata={"modelspec.prediction_type": "epsilon"}))[1]
    assert (said.prediction, said.shape) == ("eps", (4, 64, 64))
    assert not any("assumed, as of" in note for note in said.notes)


def test_signs_of_other_schedules_are_heeded(tmp_path: Path) -> None:
    unet = made("sdxl")
    state, empty = as_ldm(unet.state_dict(), dict(unet.config)), torch.zeros(0)
    path = write(tmp_path / "noob.safetensors", state, {"v_pred": empty, "ztsnr": empty})
    spec = open_folder(path)[1]
    assert (spec.prediction, spec.schedule["zero_terminal_snr"]) == ("v", True)
    write(path, state, {"edm_mean": torch.zeros(4)})
    message = refusal(lambda: open_folder(path))
    assert message.startswith(f"{path}: holds 'edm_mean': it is sampled as EDM's are")


@pytest.mark.parametrize(
    ("stem", "config", "preset", "side"),
    [
        ("sdxl_lightning_4step", "sdxl", "lightning-4", 128),
        ("sdxl_lightning_1step_x0", "sdxl", "lightning-1", 128),
        ("sd_xl_turbo_1.0_fp16", "sdxl", "sdxl-turbo", 64),
        ("sd_turbo", "sd2", "sd-turbo", 64),
        ("dmd2_sdxl_4step_unet_fp16", "sdxl", "dmd2-4", 128),
        ("Hyper-SDXL-1step-Unet", "sdxl", "hyper-1", 128),
    ],
)
def test_a_distilled_model_is_recognised_by_the_files_name(
    stem: str, config: str, preset: str, side: int, tmp_path: Path
) -> None:
    path = write(tmp_path / f"{stem}.safetensors", made(config).state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error", UntrainedPlanWarning)
        model = Model.from_pretrained(path)
    assert model.trained == PRESETS[preset].trained
    assert json.dumps(dict(model.defaults)) == json.dumps(PRESETS[preset].defaults)
    assert model.prediction == PRESETS[preset].network.prediction
    assert model.shape == (4, side, side)
    assert model.guidance == ClassifierFree(1.0)


def test_info_and_convert_take_a_file(
    sd1: UNet2DConditionModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "model.safetensors", as_ldm(sd1.state_dict(), sd1.config), BESIDE)
    assert main(["info", str(path), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["name"], said["family"], said["shape"]) == ("model", "sd", [4, 64, 64])
    assert main(["convert", str(path), "--out", str(tmp_path / "ours")]) == 0
    ours, spec = load_model(tmp_path / "ours")
    assert spec == open_folder(path)[1]
    assert torch.equal(ours.conv_in.weight, sd1.conv_in.weight)


def test_an_unknown_family_says_which_are_known(sd1: UNet2DConditionModel, tmp_path: Path) -> None:
    def of(config: dict[str, Any]) -> str:
        shapes = {name: tuple(tensor.shape) for name, tensor in shapes_of(config)[1].items()}

        def read() -> None:
            data = config_from_shapes(shapes, "model.safetensors")
            completed(data, family_of(data, "model.safetensors"), "model.safetensors")

        return refusal(read)

    assert of({**NARROW["sd1"], "cross_attention_dim": 512}).startswith(
        "model.safetensors: its text embeddings are 512 wide; supported: 768 (Stable Diffusion 1), 1024 (Stable"
    )
    assert "its U-Net takes 7 channels; supported: 4, 5 (depth), 8" in of({**NARROW["sd1"], "in_channels": 7})
    assert "with block_out_channels [32, 96]; allowed: multiples of 64" in of(
        {**NARROW["sd2"], "block_out_channels": (32, 96)}
    )
    pruned = {**NARROW["sd1"], "mid_block_type": "UNetMidBlock2D"}
    assert "0 transformer blocks in the middle" in of(pruned)
