"""U-Nets with a second time r: who takes it, what it changes, and that a flow map begins as its teacher."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fewstep.errors import ArgumentError, ModelError
from fewstep.models.load import load_model, save_model
from fewstep.models.net.build import build_unet
from fewstep.models.net.unet import FlowMapUNet, UNet
from fewstep.run.inputs import Inputs
from support.loading_case import SPEC
from support.unet_case import CONFIGS, arguments, random_unet

WITHOUT = {name: config for name, config in CONFIGS.items() if not config.second_time}
WITH = {name: config for name, config in CONFIGS.items() if config.second_time}
TIMES = {"sinusoidal": {}, "fourier": {"time_embedding": "fourier_of_t", "time_channels": 8}}


def test_only_a_network_with_a_second_time_names_it() -> None:
    assert [Inputs.of(build_unet(config)).second_time for config in WITHOUT.values()] == [False] * len(WITHOUT)
    assert [Inputs.of(build_unet(config)).second_time for config in WITH.values()] == [True] * len(WITH)
    with pytest.raises(ArgumentError, match="second_time: got 'added'; allowed: None, or a FlowMapUNet"):
        UNet(WITH["flow-map"])
    unet, values = build_unet(WITHOUT["no-labels"]), arguments(WITHOUT["no-labels"])
    with pytest.raises(ArgumentError, match="r: got a tensor; allowed: None: the model has no second time"):
        unet.modulation(values["t"], r=values["t"])


@pytest.mark.parametrize("name", [name for name, config in WITHOUT.items() if config.time_embedding != "fourier"])
@torch.no_grad()
def test_a_flow_map_begins_as_its_teacher_at_every_second_time(name: str) -> None:
    teacher, values = random_unet(CONFIGS[name]), arguments(CONFIGS[name])
    student = build_unet(replace(CONFIGS[name], second_time="added")).eval()
    missing, unexpected = student.load_state_dict(teacher.state_dict(), strict=False)
    assert not unexpected
    assert {key.split(".")[0] for key in missing} == {"second"}
    for r in (None, torch.tensor([0.0, 1.0, 900.0]), torch.full((3,), 17.5, dtype=torch.float64)):
        assert torch.equal(student(**values, r=r), teacher(**values))


@pytest.mark.parametrize("time", TIMES.values(), ids=TIMES)
@pytest.mark.parametrize("config", WITH.values(), ids=WITH)
@torch.no_grad()
def test_the_second_time_steers_sample_by_sample(config, time) -> None:
    config = replace(config, **time)
    unet, values = random_unet(config), arguments(config)
    del values["r"]
    one, other = (unet(**values, r=torch.tensor(r)) for r in ([1.0, 2.0, 3.0], [1.0, 2.5, 3.0]))
    assert ((one - other).abs().amax(dim=(1, 2, 3)) > 1e-5).tolist() == [False, True, False]
    ahead = unet.modulation(values["t"], values["labels"], r=torch.tensor([1.0, 2.0, 3.0]))
    assert torch.equal(unet(values["x"], values["t"], modulation=ahead), one)
    assert torch.equal(unet(**values), unet(**values, r=values["t"]))  # the instantaneous velocity, unless told
    with pytest.raises(ArgumentError, match=r"r: got \[1\]; allowed: \[3\], one for each t"):
        unet(**values, r=torch.zeros(1))


def test_a_seed_gives_the_weights_it_gives_without_a_second_time() -> None:
    torch.manual_seed(5)
    plain = build_unet(CONFIGS["classes"]).state_dict()
    torch.manual_seed(5)
    student = build_unet(replace(CONFIGS["classes"], second_time="added")).state_dict()
    assert all(torch.equal(student[name], tensor) for name, tensor in plain.items())
    assert student["second.linear_1.weight"].any()


@pytest.mark.parametrize("time", TIMES.values(), ids=TIMES)
@pytest.mark.parametrize("config", WITH.values(), ids=WITH)
@torch.no_grad()
def test_a_folder_keeps_a_second_time(config, time, tmp_path: Path) -> None:
    config = replace(config, **time)
    unet, values = random_unet(config), arguments(config)
    labels = {"kind": "classes", "count": 5, "null": None}
    spec = replace(SPEC, unet=config, shape=(2, 8, 12), labels=labels)
    save_model(tmp_path / "m", copy.deepcopy(unet), spec)
    again, read = load_model(tmp_path / "m")
    assert isinstance(again, FlowMapUNet)
    assert read == spec
    assert torch.equal(again(**values), unet(**values))
    half, _ = load_model(tmp_path / "m", dtype=torch.bfloat16)
    kept = {name: p.dtype for name, p in half.named_parameters() if "frequencies" in name}
    assert set(kept.values()) <= {torch.float32}
    assert len(kept) == (2 if time else 0)


def test_a_network_without_a_second_time_is_not_saved_as_a_flow_map(tmp_path: Path) -> None:
    config = CONFIGS["classes"]
    said = {"schedule": {"name": "flow"}, "prediction": "flow", "plan": {"sampler": "flow_map", "steps": 2}}
    labels = {"kind": "classes", "count": 5, "null": None}
    with pytest.raises(ModelError, match="plan: sampler: got 'flow_map'; allowed: one whose r is t, such as ddim"):
        replace(SPEC, unet=config, shape=(2, 8, 12), labels=labels, **said)
    mapped = replace(config, second_time="added")
    assert replace(SPEC, unet=mapped, shape=(2, 8, 12), labels=labels, **said).plan["sampler"] == "flow_map"
