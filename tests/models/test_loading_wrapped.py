"""Weights inside something else, and files that are something else."""

import gzip
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from safetensors.torch import load_file, save_file

from fewstep.fields import read_json
from fewstep.mistaken import mistaken
from fewstep.models import safe_load
from fewstep.models.load import load_adm, load_model, save_model
from fewstep.models.net.unet import UNet
from fewstep.models.safe_load import open_weights
from support.diffusers_case import SMALL, random_model, same
from support.loading_case import CONFIG, SPEC, refusal


@pytest.fixture(scope="module")
def model() -> UNet2DModel:
    return random_model(SMALL)


WRAPPED = {
    "DataParallel": ["module."],
    "torch.compile": ["_orig_mod."],
    "both": ["module._orig_mod."],
    "a latent model's U-Net": ["model.diffusion_model."],
    "a training script's": ["state_dict.model."],
}


@pytest.mark.parametrize("prefixes", WRAPPED.values(), ids=WRAPPED)
def test_a_prefix_before_all_names_is_taken_away(prefixes: list[str], model: UNet2DModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    state = {prefix + name: tensor.clone() for name, tensor in load_file(file).items() for prefix in prefixes}
    beside = {"first_stage_model.conv_in.weight": torch.ones(1)} if "." in prefixes[0][:-1] else {}
    save_file(state | beside, file)
    assert same(tmp_path, model)


def test_the_network_twice_or_in_parts_is_refused(model: UNet2DModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    twice = {prefix + name: tensor.clone() for name, tensor in state.items() for prefix in ("model.", "ema.")}
    save_file(twice, file)
    assert refusal(lambda: load_model(tmp_path)) == (
        f"{file}: holds the network 2 times, as 'ema.', 'model.'; allowed: one of them alone"
    )
    many = {f"{letter}.{name}": tensor.clone() for name, tensor in state.items() for letter in "abcdef"}
    save_file(many, file)
    assert "the network 6 times, as 'a.', 'b.', 'c.', 'd.' and 2 more; allowed" in refusal(lambda: load_model(tmp_path))
    del twice["model.conv_in.bias"]
    save_file(twice, file)
    assert same(tmp_path, model)
    del twice["ema.conv_in.bias"]
    save_file(twice, file)
    assert "holds parts of networks as 'ema.', 'model.'; allowed: a whole one" in refusal(lambda: load_model(tmp_path))
    save_file({name: twice[name] for name in twice if name.startswith("ema.")}, file)
    assert "tensor 'conv_in.bias' is missing" in refusal(lambda: load_model(tmp_path))
    save_file(state | {"conv_in.bias": torch.ones(8), "module.conv_in.weight": state.pop("conv_in.weight")}, file)
    assert refusal(lambda: load_model(tmp_path)).endswith(
        "tensor 'conv_in.weight' is missing; there is 'module.conv_in.weight', while others have no prefix"
    ), state.keys()
    save_file({"blocks.0.weight": torch.ones(1)}, file)
    assert refusal(lambda: load_model(tmp_path)).endswith("is missing; the file's first is 'blocks.0.weight'")


NESTS: dict[str, Any] = {
    "flat": lambda state: {**state, "epoch": 3, "lr": 1e-4, "note": "best", "history": [1.0], 7: None},
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model and optimizer": lambda state: {
        "model": {f"module.{name}": tensor for name, tensor in state.items()},
        "optimizer": {"state": {0: {"step": torch.tensor(3), "exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1.0}]},
    },
    "ema alone": lambda state: {"ema": {"shadow": state}, "step": torch.tensor(1)},
}


@pytest.mark.parametrize("nest", NESTS.values(), ids=NESTS)
def test_a_checkpoint_of_several_parts_is_read_for_the_network(nest: Any, model: UNet2DModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path, safe_serialization=False)
    file = tmp_path / "diffusion_pytorch_model.bin"
    torch.save(nest(torch.load(file, weights_only=True)), file)
    assert same(tmp_path, model, allow_pickle=True)


def test_a_pickle_of_a_whole_module_says_what_to_save(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pt")
    assert refusal(lambda: open_weights(tmp_path / "whole.pt", allow_pickle=True)) == (
        f"{tmp_path / 'whole.pt'}: cannot be read as weights: it holds more than tensors, a "
        "torch.nn.modules.linear.Linear; allowed: a state_dict() by itself"
    )


def test_a_checkpoint_of_too_many_parts_is_refused(
    model: UNet2DModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.save_pretrained(tmp_path, safe_serialization=False)
    file = tmp_path / "diffusion_pytorch_model.bin"
    deep: dict[str, Any] = torch.load(file, weights_only=True)
    torch.save({"a": dict.fromkeys(range(1300), 1)}, file)
    monkeypatch.setattr(safe_load, "MAX_TENSORS", 300)
    assert "holds over 1,200 entries" in refusal(lambda: load_model(tmp_path, allow_pickle=True))
    for _ in range(50):
        deep = {"a": deep}
    torch.save(deep, file)
    assert "tensor 'time_embedding.linear_1.weight' is missing" in refusal(
        lambda: load_model(tmp_path, allow_pickle=True)
    )


def test_an_adm_checkpoint_may_be_wrapped_too(tmp_path: Path) -> None:
    from fewstep.models.layouts.adm import naming

    torch.manual_seed(0)
    unet = UNet(CONFIG)
    keys, state = naming(CONFIG).keys(unet), {}
    for name, pieces in keys.items():
        rows = unet.get_parameter(name).detach()
        for piece, part in zip(pieces, rows.split([piece.shape[0] for piece in pieces]), strict=True):
            state[f"module.{piece.name}"] = part.clone()
    torch.save({"state_dict": state}, tmp_path / "adm.pt")
    loaded = load_adm(tmp_path / "adm.pt", CONFIG, allow_pickle=True)
    assert torch.equal(loaded.conv_in.weight, unet.conv_in.weight)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
MISTAKEN = {
    "git lfs": (POINTER, "a Git LFS pointer, not the file itself; fetch that with git lfs pull"),
    "html": (b"\n <!DOCTYPE html>\n<html><title>Log in</title>", "an HTML page, not the file itself"),
    "html in capitals": (b"\xef\xbb\xbf<HTML>", "an HTML page"),
    "xml": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "an XML document"),
    "gzip": (gzip.compress(b"{}"), "compressed with gzip; unpack it first"),
    "zip": (b"PK\x03\x04" + bytes(40), "a zip archive"),
    "zeros": (bytes(4096), "zeros at its beginning: a download or a copy was not finished"),
    "a picture": (b"\x89PNG\r\n\x1a\n", "a PNG picture"),
}


@pytest.mark.parametrize(("content", "what"), MISTAKEN.values(), ids=MISTAKEN)
def test_a_file_that_is_something_else_says_what_it_is(content: bytes, what: str, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    torch.manual_seed(0)
    save_model(folder, UNet(CONFIG), SPEC)
    weights, spec = folder / "model.safetensors", folder / "fewstep.json"
    weights.write_bytes(content)
    no_header = "is not a safetensors file, as it has no header in JSON"
    assert refusal(lambda: load_model(folder)).startswith(f"{weights}: {no_header}: it is {what}")
    spec.write_bytes(content)
    assert refusal(lambda: load_model(folder)).startswith(f"{spec}: is not valid JSON: it is {what}")
    pickle = tmp_path / "weights.bin"
    pickle.write_bytes(content)
    message = refusal(lambda: open_weights(pickle, allow_pickle=True))
    assert message.startswith(f"{pickle}: cannot be read as weights: ")
    assert what in message or what == "a zip archive"
    without_leave = refusal(lambda: open_weights(pickle))
    assert what in without_leave or "is a pickle, which may run code" in without_leave


def test_an_empty_file_says_so(tmp_path: Path) -> None:
    for name in ("a.json", "a.safetensors", "a.pt"):
        (tmp_path / name).touch()
    assert "it is empty: a download or a copy was not finished" in refusal(lambda: read_json(tmp_path / "a.json"))
    assert "truncated: 0 bytes" in refusal(lambda: open_weights(tmp_path / "a.safetensors"))
    assert "it is empty" in refusal(lambda: open_weights(tmp_path / "a.pt", allow_pickle=True))


def test_a_header_whose_length_looks_like_gzip_is_a_header(tmp_path: Path) -> None:
    """559,903 bytes of header begin with 1f 8b 08, as a gzip file does."""
    file = tmp_path / "a.safetensors"
    header = b"{" + b" " * (0x088B1F - 2) + b"}"
    file.write_bytes(len(header).to_bytes(8, "little") + header)
    assert mistaken(file.read_bytes()[:512]) is not None
    assert open_weights(file).shapes == {}
