"""/admin: there only where it was asked for and there is a key; it reads from one folder and nothing else."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from fewstep.errors import ArgumentError
from fewstep.serve.http.routes.admin import in_folder
from fewstep.serve.settings import Settings
from support.serving import running_server, tiny_engine

KEY = {"x-api-key": "k"}


@pytest.mark.parametrize(
    "settings", [Settings(), Settings(admin=True), Settings(api_key="k")], ids=["neither", "no key", "not asked for"]
)
def test_without_a_key_or_unless_it_was_asked_for_there_is_no_admin(settings: Settings) -> None:
    with running_server(settings=settings) as remote:
        assert remote.get("/admin/lora", headers=KEY).status == 404
        assert remote.post("/admin/lora", {"model": "tiny", "file": "a.safetensors"}, headers=KEY).status == 404


def test_admin_needs_the_key_and_refuses_paths_that_leave_the_folder(tmp_path: Path) -> None:
    (tmp_path / "loras").mkdir()
    (tmp_path / "secret.safetensors").write_bytes(b"x")
    settings = Settings(api_key="k", admin=True, lora_folder=str(tmp_path / "loras"))
    with running_server(settings=settings) as remote:
        assert remote.get("/admin/lora").status == 401
        for file in ("../secret.safetensors", str(tmp_path / "secret.safetensors"), "none.safetensors", "a\0b"):
            answer = remote.post("/admin/lora", {"model": "tiny", "file": file}, headers=KEY)
            assert (answer.status, answer.error["param"]) == (400, "file")


def test_adapters_come_and_go_while_requests_run(tmp_path: Path) -> None:
    net = tiny_engine().module
    weight = dict(net.named_parameters())["conv.weight"]
    save_file(adapter(weight), tmp_path / "style.safetensors")
    settings = Settings(api_key="k", admin=True, lora_folder=str(tmp_path))
    with running_server(settings=settings) as remote:
        loaded = remote.post("/admin/lora", {"model": "tiny", "file": "style.safetensors"}, headers=KEY)
        assert (loaded.status, loaded.json) == (200, {"model": "tiny", "name": "style"}), loaded.body
        assert remote.get("/admin/lora", headers=KEY).json == {"data": [{"model": "tiny", "names": ["style"]}]}
        again = remote.post("/admin/lora", {"model": "tiny", "file": "style.safetensors"}, headers=KEY)
        assert again.status == 400
        gone = remote.call("DELETE", "/admin/lora?model=tiny&name=style", headers=KEY)
        assert (gone.status, gone.json["deleted"]) == (200, True)
        assert remote.call("DELETE", "/admin/lora?model=tiny&name=style", headers=KEY).status == 400
        assert remote.call("DELETE", "/admin/lora?model=other&name=style", headers=KEY).status == 404
        assert remote.get("/admin/lora", headers=KEY).json == {"data": [{"model": "tiny", "names": []}]}


def adapter(weight: Tensor) -> dict[str, Tensor]:
    """A LoRA of rank 1 of the tiny network's conv, in PEFT's words."""
    out, into, height, width = weight.shape
    return {
        "base_model.model.conv.lora_A.weight": torch.ones(1, into, height, width) / 10,
        "base_model.model.conv.lora_B.weight": torch.ones(out, 1, 1, 1) / 10,
    }


def test_a_file_is_one_of_the_folder_and_safetensors(tmp_path: Path) -> None:
    folder = tmp_path / "loras"
    (folder / "styles").mkdir(parents=True)
    for name in ("loras/a.safetensors", "loras/styles/b.safetensors", "loras/c.pt", "out.safetensors"):
        (tmp_path / name).write_bytes(b"x")
    os.symlink(tmp_path / "out.safetensors", folder / "link.safetensors")
    assert in_folder(str(folder), "a.safetensors") == (folder / "a.safetensors").resolve()
    assert in_folder(str(folder), "styles/b.safetensors").name == "b.safetensors"
    for name in (
        "c.pt",
        "link.safetensors",
        "../out.safetensors",
        "styles",
        "",
        ".",
        "x" * 5000,
        "styles/../../out.safetensors",
    ):
        with pytest.raises(ArgumentError, match="file"):
            in_folder(str(folder), name)
    with pytest.raises(ArgumentError, match="lora-folder"):
        in_folder(None, "a.safetensors")
