"""Settings: what a file and flags may say, and how what they may not is named."""

import json
import os
import re
from pathlib import Path

import pytest

from fewstep.errors import ArgumentError, ModelError
from fewstep.models.net.unet import UNet, count_parameters
from fewstep.train.config import FitConfig, TrainConfig, unet_config
from fewstep.train.data import load_data
from fewstep.train.fit import learning_rate
from fewstep.train.run import build
from support.train_case import SETTINGS, settings_file


def test_a_config_survives_json(tmp_path: Path) -> None:
    config = TrainConfig.from_toml(settings_file(tmp_path))
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert config.unet["channels"] == [8, 8]
    assert (config.steps, config.learning_rate) == (24, 3e-3)
    assert config.prediction == TrainConfig().prediction


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps = 0", "steps: got 0; allowed: an integer from 1"),
        ("steps = 2.5", "steps: got 2.5; allowed: an integer"),
        ("steps = true", "steps: got True; allowed: an integer"),
        ("batch = '8'", "batch: got '8'; allowed: an integer"),
        ("learning_rate = 0", r"learning_rate: got 0; allowed: a number in \(0"),
        ("learning_rate = nan", "learning_rate: got nan; allowed"),
        ("ema = 1", r"ema: got 1; allowed: a number in \[0, 1\)"),
        ("label_dropout = -0.1", "label_dropout: got -0.1; allowed"),
        ("prediction = 'noise'", "prediction: got 'noise'; allowed: eps or x_0 or v or flow"),
        ("dtype = 'float16'", "dtype: got 'float16'; allowed: float32 or bfloat16"),
        ("learned_range = 1", "learned_range: got 1; allowed: true or false"),
        ("data = 3", "data: got 3; allowed: a text"),
        ("schedule = 'cosine'", "schedule: got 'cosine'; allowed: an object"),
        ("schedule = {name = 'cosinus'}", "schedule name: got 'cosinus'; allowed: linear"),
        ("schedule = {name = 'flow'}", "schedule: got 'flow'; allowed: for v, one of kind 'vp'"),
        ("schedule = {name = 'cosine', num_timesteps = 1}", "schedule: .* at least two timesteps"),
        (
            "schedule = {name = 'linear', zero_terminal_snr = true}",
            r"min_snr_gamma: got 5.0; allowed: 0, where",
        ),
        (
            "prediction = 'eps'\nschedule = {name = 'linear', zero_terminal_snr = true}",
            "prediction: got 'eps'; allowed: x_0 or v, where the last timestep has no signal",
        ),
        ("unet = 3", "unet: got 3; allowed: a table"),
        ("learning_rat = 1", "learning_rat: got an unknown setting; allowed: did you mean learning_rate?"),
        ("steps =", "config: got '.*settings.toml'; allowed: a TOML file; "),
    ],
)
def test_a_setting_that_is_wrong_is_named_with_its_file(tmp_path: Path, text: str, message: str) -> None:
    path = settings_file(tmp_path, text)
    prefix = "" if message.startswith("config:") else re.escape(f"{path}: ")
    with pytest.raises(ArgumentError, match=f"^{prefix}{message}") as error:
        TrainConfig.from_toml(path)
    assert "\n" not in str(error.value)


def test_a_config_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "odd.toml").write_bytes(b"steps = '\xff'")
    with pytest.raises(ArgumentError, match=r"config: got '.*odd\.toml'; allowed: a TOML file; .*utf-8"):
        TrainConfig.from_toml(tmp_path / "odd.toml")


def test_a_config_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"config: got '.*no\.toml'; allowed: a TOML file; no such file"):
        TrainConfig.from_toml(tmp_path / "no.toml")


@pytest.mark.parametrize(
    ("unet", "message"),
    [
        ({"channels": [8, 12], "groups": 8}, r"unet: groups: got 8; allowed: a divisor of channels\[1\] = 12"),
        ({"channels": 8}, "unet: channels: got 8; allowed: a list"),
        ({}, "unet: channels: is missing"),
        ({"channels": [8], "widths": 3}, "unet: unknown field 'widths'"),
        ({"channels": [8, 8], "down": []}, "unet: down: has 0 entries; allowed: 1, for 2 levels"),
    ],
    ids=["groups", "no list", "nothing", "unknown", "lengths"],
)
def test_a_network_that_cannot_be_is_named(unet: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        unet_config(unet, 1, None, False)


def test_what_follows_from_the_data_is_not_the_users_to_set() -> None:
    with pytest.raises(ArgumentError, match="unet: num_classes: got 4; allowed: nothing: it follows from the data"):
        unet_config({"channels": [8], "num_classes": 4}, 1, None, False)


def test_the_default_network_is_small() -> None:
    unet = UNet(unet_config(TrainConfig().unet, 1, 11, False))
    assert 1e6 < count_parameters(unet) < 2e6


def test_the_learning_rate_warms_up_and_decays_to_nothing() -> None:
    config = FitConfig(steps=100, warmup=10, learning_rate=1.0)
    rates = [learning_rate(config, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] > 0.97
    assert rates[50] == pytest.approx(0.5)
    assert 0 < rates[99] < 0.001
    constant = FitConfig(steps=100, warmup=10, learning_rate=1.0, decay="constant")
    assert learning_rate(constant, 99) == 1.0


def test_the_test_settings_are_read_whole(tmp_path: Path) -> None:
    names = [line.split(" = ")[0] for line in SETTINGS.split("[")[0].split("\n") if " = " in line]
    config = TrainConfig.from_toml(settings_file(tmp_path))
    assert all(getattr(config, name) != getattr(TrainConfig(), name) for name in names)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (".".join(["a"] * 30_000) + " = 1", "it has more than 1000 dots outside of numbers"),
        (".".join(["1"] * 30_000) + " = 1", "it has more than 1000 dots outside of numbers"),
        ("steps = " + "9" * 5000, "Exceeds the limit"),
        ("steps = " + "[" * 5000, "nested too deeply"),
        ("#" * (1 << 20) + "\n", "a TOML file of at most 1,048,576 bytes"),
    ],
    ids=["dots", "dots and digits", "digits", "nested", "long"],
)
def test_a_file_that_would_take_forever_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    path = settings_file(tmp_path, text)
    with pytest.raises(ArgumentError) as caught:
        TrainConfig.from_toml(path)
    assert str(caught.value).startswith(f"config: got '{path}'; allowed: a TOML file")
    assert reason in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_many_numbers_are_no_dots(tmp_path: Path) -> None:
    betas = ", ".join(["1.5e-3", "0.25", "1_0.5"] * 500)
    text = f'[schedule]\nname = "betas"\nbetas = [{betas.replace("1_0.5", "0.1")}]\n'
    assert len(TrainConfig.from_toml(settings_file(tmp_path, text)).schedule["betas"]) == 1500


def test_values_and_names_are_cut_in_messages(tmp_path: Path) -> None:
    for text, start in (
        ("steps = 0x" + "f" * 5000, "steps: got a int too large to show"),
        ("a" * 100_000 + " = 1", "a" * 50),
        (f"data = '{'x' * 100_000}'", "data: got 'xxx"),
    ):
        with pytest.raises(ArgumentError) as caught:
            TrainConfig.from_toml(settings_file(tmp_path, text))
        message = str(caught.value).removeprefix(f"{tmp_path / 'settings.toml'}: ")
        assert message.startswith(start)
        assert len(message) < 1000


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "own.toml")
    with pytest.raises(ArgumentError, match=r"own\.toml'; allowed: a TOML file; it is not a regular file$"):
        TrainConfig.from_toml(tmp_path / "own.toml")


def test_a_folder_is_no_file_of_settings(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError) as caught:
        TrainConfig.from_toml(tmp_path)
    assert str(caught.value) == f"config: got '{tmp_path}'; allowed: a TOML file; it is not a regular file"


def test_the_plan_of_a_model_fits_a_short_schedule() -> None:
    data = load_data("digits")
    for length, steps in ((4, 4), (1000, 50)):
        config = TrainConfig(schedule={"name": "cosine", "num_timesteps": length})
        assert build(config, data, "short")[1].plan["steps"] == steps
