"""A model folder whose writer was killed: never read as a mixture, never in the way of the next save."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from fewstep.errors import OutputError, UnfinishedWriteWarning
from fewstep.models.load import load_model, save_model
from fewstep.models.net.unet import UNet
from support.killed import killed_while_writing
from support.loading_case import CONFIG, SPEC, refusal

NAMES = ("model.safetensors", "fewstep.json")


def test_new_weights_beside_an_old_spec_are_not_loaded(tmp_path: Path) -> None:
    unet = UNet(CONFIG)
    save_model(tmp_path, unet, SPEC)
    killed_while_writing(tmp_path, NAMES, "replace", 2)
    said = (
        f"{tmp_path}: its writer was killed before fewstep.json came into place beside the rest; save the model again"
    )
    assert refusal(lambda: load_model(tmp_path)) == said
    with pytest.warns(UnfinishedWriteWarning, match="killed while it put files"):
        save_model(tmp_path, unet, SPEC, overwrite=True)
    loaded, _ = load_model(tmp_path)
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in unet.state_dict().items())


def test_what_a_killed_writer_left_does_not_make_a_folder_full(tmp_path: Path) -> None:
    killed_while_writing(tmp_path, NAMES, "fsync", 2)
    assert any(tmp_path.iterdir())
    save_model(tmp_path, UNet(CONFIG), SPEC)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(NAMES)
    with pytest.raises(OutputError, match="exists already"):
        save_model(tmp_path, UNet(CONFIG), SPEC)


def test_what_another_user_left_is_named_to_be_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(tmp_path, UNet(CONFIG), SPEC)
    killed_while_writing(tmp_path, NAMES, "replace", 2)
    (left,) = tmp_path.glob(".fewstep-*.placing")
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    save_model(tmp_path, UNet(CONFIG), SPEC, overwrite=True)
    said = f"save the model again, and remove {left.name} there, which another user left"
    assert refusal(lambda: load_model(tmp_path)).endswith(said)
    shutil.rmtree(left)
    load_model(tmp_path)


def test_pictures_that_were_cut_off_do_not_hold_up_the_model_beside_them(tmp_path: Path) -> None:
    save_model(tmp_path, UNet(CONFIG), SPEC)
    killed_while_writing(tmp_path, ("a.png", "a-001.png"), "replace", 2)
    assert list(tmp_path.glob(".fewstep-*.placing/new/a-001.png"))
    load_model(tmp_path)
