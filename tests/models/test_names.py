"""Names that are none: a line that names them, whoever is asked to read or to write there."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fewstep import Engine
from fewstep.errors import FewstepError, printable
from fewstep.evaluate.report import Curve
from fewstep.models.load import load_adm, open_folder, save_model
from fewstep.models.net.unet import UNet
from fewstep.request import manifest
from fewstep.results import read_parameters
from fewstep.train.config import TrainConfig
from fewstep.train.data import load_data
from fewstep.train.run import saved_config
from support.loading_case import CONFIG, SPEC

NAMES = {
    "longer than a name": "x" * 300,
    "longer than a path": "x/" * 3000,
    "with a NUL": "a\0b",
    "no text": "odd\udcff\nname",
    "below a file": "/etc/passwd/x",
    "a device": "/dev/zero",
    "a NUL at a name's end": "model\0",
}
READERS: dict[str, Callable[[str], Any]] = {
    "an engine": lambda name: Engine.from_pretrained(name, device="cpu"),
    "a folder": open_folder,
    "a checkpoint of ADM": lambda name: load_adm(f"{name}.safetensors", CONFIG),
    "a pickle": lambda name: load_adm(f"{name}.pt", CONFIG, allow_pickle=True),
    "data": load_data,
    "an archive": lambda name: load_data(f"{name}.npz"),
    "settings": lambda name: TrainConfig.from_toml(Path(name)),
    "a manifest": manifest.read,
    "a picture's text": read_parameters,
    "a result": lambda name: Curve.read(Path(name), {}),
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("reader", READERS)
def test_a_name_that_is_none_is_said_in_a_line(reader: str, name: str) -> None:
    with pytest.raises(FewstepError) as caught:
        READERS[reader](name)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert printable(name)[:40] in message


def test_a_folder_that_cannot_be_is_no_run() -> None:
    assert saved_config(Path("x" * 300)) is None


def test_a_model_is_not_saved_under_a_name_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(FewstepError, match="cannot be written: file name too long"):
        save_model(tmp_path / ("x" * 300) / "y", UNet(CONFIG), SPEC)
    assert list(tmp_path.iterdir()) == []
