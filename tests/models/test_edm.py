"""Networks of EDM and FastGen predict what their own code predicts, for every kind; the rest is refused by name."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from fewstep import Engine, Model
from fewstep.diffusion.forward import network
from fewstep.diffusion.schedules import from_config
from fewstep.models.load import load_model, save_model
from fewstep.models.net.unet import FlowMapUNet, UNet
from fewstep.models.spec import ModelSpec
from support.edm_case import CASES, configured, golden, weight, weights, written
from support.loading_case import refusal


def image(unet: UNet, spec: ModelSpec, given: dict[str, Tensor]) -> Tensor:
    """x_0 = k_x x + k_m m by the terms of a plan's row; what a flow predicts, as it is."""
    others = {"labels": given["labels"].long()} if "labels" in given else {}
    if spec.prediction == "flow":
        return unet(given["x"], given["sigma"], **others, r=given["r"])
    schedule, sigma = from_config(spec.schedule), given["sigma"].numpy()
    signal, noise = np.ones_like(sigma), sigma
    if schedule.kind == "vp":
        t = given["t"].numpy().astype(int)
        signal, noise = schedule.signal_scale[t], schedule.noise_scale[t]
    else:
        t = schedule.exact_time(sigma)
    if "r" in given:
        others["r"] = torch.from_numpy(schedule.exact_time(given["r"].numpy()))
    of = {name: torch.from_numpy(each) for name, each in (("t", np.asarray(t)), ("signal", signal))}
    n = network(spec.prediction, signal, noise, schedule.sigma_data)
    c_in, k_x, k_m = (torch.from_numpy(np.asarray(each)).reshape(-1, 1, 1, 1) for each in (n.c_in, n.k_x, n.k_m))
    x = given["x"] * of["signal"].reshape(-1, 1, 1, 1)  # Karras time is x / signal
    return k_x * x + k_m * unet(c_in * x, of["t"].double(), **others)[:, : x.shape[1]]


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_a_network_makes_of_an_image_what_its_own_code_makes(case: str, tmp_path: Path) -> None:
    given, folder = golden(case), written(tmp_path / "m", case, "model.")
    for dtype, allowed in ((torch.float64, 1e-13), (torch.float32, 5e-6)):
        unet, spec = load_model(folder, dtype=dtype)
        assert isinstance(unet, FlowMapUNet) == ("r" in given)
        moved = {name: tensor.to(dtype) for name, tensor in given.items()}
        error = (image(unet, spec, moved).double() - given["image"]).flatten(1).abs().amax(1)
        size = given["image"].flatten(1).abs().amax(1)
        assert (error / size).max() <= allowed, f"{dtype}: {(error / size).tolist()}"


@pytest.mark.parametrize(
    "prefix", ["", "model.", "net.model.", "model.net.model."], ids=["none", "edm", "fastgen", "whole"]
)
def test_what_precedes_the_names_is_taken_away(prefix: str, tmp_path: Path) -> None:
    plain, _ = load_model(written(tmp_path / "plain", "ncsn++, classes"))
    unet, _ = load_model(written(tmp_path / "m", "ncsn++, classes", prefix))
    assert all(torch.equal(p, q) for p, q in zip(unet.parameters(), plain.parameters(), strict=True))


@pytest.mark.parametrize("case", ["ddpm++", "adm, second time"])
@torch.no_grad()
def test_a_network_is_kept_in_a_folder_of_ours(case: str, tmp_path: Path) -> None:
    unet, spec = load_model(written(tmp_path / "theirs", case))
    save_model(tmp_path / "ours", unet, spec)
    again, read = load_model(tmp_path / "ours")
    assert read == spec
    assert type(again) is type(unet)
    assert all(torch.equal(p, q) for p, q in zip(again.parameters(), unet.parameters(), strict=True))


def test_the_null_class_is_there_where_labels_were_dropped(tmp_path: Path) -> None:
    folder = written(tmp_path / "m", "ddpm++")
    unet, spec = load_model(folder)
    assert spec.labels == {"kind": "classes", "count": 5, "null": 5}
    assert torch.equal(unet.label.weight[5], weight("map_label.bias", [16], {}))
    unet, spec = load_model(written(folder, "ddpm++", label_dropout=0))
    assert spec.labels == {"kind": "classes", "count": 5, "null": None}
    assert len(unet.label.weight) == 5
    unet, spec = load_model(written(tmp_path / "adm", "adm"))
    assert not unet.label.weight[5].any()


@pytest.mark.parametrize("case", ["ddpm++", "adm", "improved ddpm", "flow with a second time"])
def test_a_folder_is_sampled(case: str, tmp_path: Path) -> None:
    model = Model.from_pretrained(written(tmp_path / "m", case))
    steps = {"improved ddpm": ("ddim", 18), "flow with a second time": ("flow_map", 2)}
    assert (model.defaults["sampler"], model.defaults["steps"]) == steps.get(case, ("heun", 35))
    engine = Engine(model)
    (sample,) = engine.sample(labels=[2], steps=3).images
    assert sample.isfinite().all()


def test_a_run_is_that_of_edm(tmp_path: Path) -> None:
    """Algorithm 1 of Karras et al. at sigma_i = (80^(1/7) + i/4 (0.002^(1/7) - 80^(1/7)))^7, i = 0 .. 4, then 0."""
    engine = Engine(Model.from_pretrained(written(tmp_path / "m", "ddpm++, blurred"), dtype=torch.float64))
    unet, spec = load_model(tmp_path / "m", dtype=torch.float64)
    ends = 80 ** (1 / 7), 0.002 ** (1 / 7)
    sigmas = np.append((ends[0] + np.arange(5) / 4 * (ends[1] - ends[0])) ** 7, 0.0)
    z = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def slope(x: Tensor, sigma: float) -> Tensor:
        return (x - image(unet, spec, {"x": x, "sigma": torch.full((2,), sigma, dtype=torch.float64)})) / sigma

    x = 80 * z
    with torch.no_grad():
        for sigma, below in pairwise(sigmas):
            d = slope(x, sigma)
            euler = x + (below - sigma) * d
            x = euler if below == 0 else x + (below - sigma) * (d + slope(euler, below)) / 2
    torch.testing.assert_close(engine.sample(n=2, steps=9, noise=z).images, x, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_a_flow_map_of_fastgen_is_told_where_it_goes(tmp_path: Path) -> None:
    """x_r = x_t - (t - r) u(x_t, t, r), FastGen's loop for an ODE."""
    case = "flow with a second time"
    engine = Engine(Model.from_pretrained(written(tmp_path / "m", case), dtype=torch.float64))
    unet, _ = load_model(tmp_path / "m", dtype=torch.float64)
    x = z = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for t, r in ((1.0, 0.5), (0.5, 0.0)):
        at, to = (torch.full((2,), each, dtype=torch.float64) for each in (t, r))
        x = x - (t - r) * unet(x, at, torch.tensor([1, 4]), r=to)
    torch.testing.assert_close(engine.sample(labels=[1, 4], noise=z).images, x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "UNet"}, "model_type: got 'UNet'; supported: SongUNet, DhariwalUNet"),
        ({"_class_name": "VPPrecond"}, "_class_name: got 'VPPrecond', which is told its time by a formula of its own"),
        ({"_class_name": "VEPrecond"}, "_class_name: got 'VEPrecond', which is told ln(sigma / 2) and predicts -eps"),
        ({"_class_name": "EDM2Precond"}, "_class_name: got 'EDM2Precond'; supported: EDMPrecond, iDDPMPrecond"),
        ({"encoder_type": "skip"}, "encoder_type: got 'skip'; supported: standard, residual"),
        ({"decoder_type": "skip"}, "decoder_type: got 'skip'; supported: 'standard'"),
        ({"embedding_type": "learned"}, "embedding_type: got 'learned'; supported: positional, fourier"),
        ({"resample_filter": [1, 2, 1]}, "resample_filter: got [1, 2, 1]; allowed: [1, 1] or [1, 3, 3, 1]"),
        ({"channel_mult": []}, "channel_mult: has 0 levels; allowed: 1 to 10"),
        ({"channel_mult": [1, 0.5]}, "channel_mult[1]: got 0.5; allowed: an integer from 1 to 64"),
        ({"num_blocks": 0}, "num_blocks: got 0; allowed: an integer from 1 to 32"),
        ({"img_resolution": 9}, "img_resolution: got 9; allowed: multiples of 2, as it is halved between 2 levels"),
        (
            {"model_channels": 9, "channel_mult_noise": 1},
            "channel_mult_noise: makes 9 features of time; allowed: an even",
        ),
        ({"model_channels": 34}, "groups: got 32, of which 8 are left; allowed: a divisor of stem = 34"),
        ({"sigma_data": 0}, "sigma_data: got 0; allowed: a number from 1e-06"),
        ({"sigma_min": 90}, "sigma_max: got 80; allowed: more than 90, where sampling ends"),
        ({"sigma_shift": 0.003}, "sigma_shift: got 0.003; supported: 0.0"),
        ({"drop_precond": "input"}, "drop_precond: got 'input'; supported: both"),
        ({"net_pred_type": "flow"}, "net_pred_type: got 'flow'; supported: x0"),
        ({"drop_precond": "both", "net_pred_type": "flow"}, "schedule_type: got 'edm' beside a flow; supported: rf"),
        ({"logvar_channels": 128}, "unknown field 'logvar_channels'; allowed: "),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_is_not_supported_is_refused_by_name(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = configured(tmp_path / "m", "ncsn++, classes", **changes)
    assert refusal(lambda: load_model(folder)).startswith(f"{folder / 'config.json'}: {message}")


def test_arguments_of_adm_are_its_own(tmp_path: Path) -> None:
    folder = configured(tmp_path / "m", "adm", channel_mult=[3, 4])
    assert "channel_mult: makes a level of 96 channels with attention; allowed: multiples of 64" in refusal(
        lambda: load_model(folder)
    )
    folder = configured(tmp_path / "m", "adm", encoder_type="residual")
    assert "unknown field 'encoder_type'" in refusal(lambda: load_model(folder))


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("map_label.weight", [32, 4], "has shape [32, 4]; the config says [32, 3]"),
        ("map_label.bias", None, "is missing"),
        ("enc.4x4_down.conv0.resample_filter", [1, 1, 4, 4], "has no place in the model of the config"),
        ("enc.8x8_block9.conv0.weight", [3], "has no place in the model of the config"),
        ("enc.4x4_aux_residual.weight", [32, 3, 1, 1], "has shape [32, 3, 1, 1]; the config says [32, 3, 3, 3]"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(name: str, shape: list[int] | None, message: str, tmp_path: Path) -> None:
    folder = written(tmp_path / "m", "ncsn++, classes")
    state = dict(weights("ncsn++, classes"))
    if shape is None:
        del state[name]
    else:
        state[name] = torch.zeros(shape)
    save_file(state, folder / "model.safetensors")
    assert refusal(lambda: load_model(folder)).endswith(f"tensor {name!r} {message}")
