"""Damaged and hostile model files: each is refused in one line that names the file and the reason."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fewstep.fields import read_json
from fewstep.models import safetensors_header
from fewstep.models.load import load_adm, load_model, save_model
from fewstep.models.net.unet import UNet
from fewstep.models.safe_load import SafetensorsFile, inside, open_weights
from support.loading_case import CONFIG, SPEC, refusal


def write_safetensors(path: Path, header: dict[str, Any] | bytes, data: bytes, length: int | None = None) -> None:
    """A safetensors file of any content; `length` is what it says of its header's."""
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded) if length is None else length) + encoded + data)


def entry(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_model(tmp_path / "tiny", UNet(CONFIG), SPEC)
    return tmp_path / "tiny"


HEADERS: dict[str, tuple[Any, bytes, int | None, str]] = {
    "truncated": ({"a": entry(0, 16, [4])}, bytes(12), None, "tensor 'a': ends 4 bytes past the end of the file"),
    "overlap": (
        {"a": entry(0, 16, [4]), "b": entry(12, 28, [4])},
        bytes(28),
        None,
        "tensor 'b' overlaps 'a'",
    ),
    "same-bytes-twice": ({"a": entry(0, 16, [4]), "b": entry(0, 16, [4])}, bytes(16), None, "overlaps"),
    "hole": ({"a": entry(0, 16, [4]), "b": entry(20, 36, [4])}, bytes(36), None, "a hole of 4 bytes before tensor 'b'"),
    "hole-at-the-start": ({"a": entry(4, 20, [4])}, bytes(20), None, "a hole of 4 bytes before tensor 'a'"),
    "trailing-bytes": ({"a": entry(0, 16, [4])}, bytes(20), None, "a hole of 4 bytes after the last tensor"),
    "size-unlike-shape": ({"a": entry(0, 16, [5])}, bytes(16), None, "span 16 bytes; its shape and dtype take 20"),
    "backwards": ({"a": entry(16, 0, [4])}, bytes(16), None, "span -16 bytes"),
    "negative-offset": ({"a": entry(-16, 0, [4])}, bytes(16), None, "data_offsets[0]: got -16"),
    "absurd-shape": ({"a": entry(0, 16, [1 << 31, 1 << 31])}, bytes(16), None, "its shape and dtype take"),
    "dimension-past-the-bound": ({"a": entry(0, 16, [1 << 40])}, bytes(16), None, "shape[0]: got 1099511627776"),
    "nine-dimensions": ({"a": entry(0, 4, [1] * 9)}, bytes(4), None, "allowed: at most eight dimensions"),
    "three-offsets": (
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 8]}},
        bytes(4),
        None,
        "allowed: a begin and an end",
    ),
    "integer-dtype": ({"a": entry(0, 16, [2], "I64")}, bytes(16), None, "dtype: got 'I64'; supported: F64, F32"),
    "unknown-dtype": ({"a": entry(0, 16, [4], "F31")}, bytes(16), None, "dtype: got 'F31'"),
    "unknown-entry-field": ({"a": entry(0, 16, [4]) | {"code": "x"}}, bytes(16), None, "unknown field 'code'"),
    "missing-entry-field": ({"a": {"dtype": "F32"}}, b"", None, "shape: is missing"),
    "entry-not-an-object": ({"a": 7}, b"", None, "tensor 'a': got 7; allowed: an object"),
    "newline-in-a-name": ({"a\nb": 7}, b"", None, r"tensor 'a\nb': got 7"),
    "metadata-not-text": ({"__metadata__": {"a": 1}}, b"", None, "__metadata__: got {'a': 1}"),
    "header-longer-than-the-file": (b"{}", b"", 1000, "header of 1,000 bytes; allowed: at most the file's 2"),
    "header-of-2-to-the-63": (b"{}", b"", (1 << 63) + 5, "header of 9,223,372,036,854,775,813 bytes"),
    "not-json": (b"{'a'", b"", None, "header: is not valid JSON"),
    "not-utf-8": (b"\xff\xfe{}", b"", None, "header: is not valid JSON"),
    "not-an-object": (b"[1]", b"", None, "header: got [1]; allowed: a JSON object"),
    "nested-deeply": (b"[" * 100_000, b"", None, "is not valid JSON: nested too deeply"),
    "name-twice": (b'{"a": 1, "a": 2}', b"", None, "field 'a' is given twice"),
}


@pytest.mark.parametrize(("header", "data", "length", "reason"), HEADERS.values(), ids=HEADERS)
def test_a_header_that_lies_is_refused(
    header: Any, data: bytes, length: int | None, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "evil.safetensors"
    write_safetensors(path, header, data, length)
    message = refusal(lambda: SafetensorsFile(path))
    assert message.startswith(str(path))
    assert reason in message


def test_a_sound_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "good.safetensors"
    data = struct.pack("<6f", *range(6))
    write_safetensors(path, {"a": entry(0, 16, [2, 2]), "b": entry(16, 24, [2]), "e": entry(24, 24, [0])}, data)
    file = SafetensorsFile(path)
    assert file.shapes == {"a": (2, 2), "b": (2,), "e": (0,)}
    assert file.read("a").tolist() == [[0.0, 1.0], [2.0, 3.0]]


def test_too_many_tensors_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safetensors_header, "MAX_TENSORS", 2)
    path = tmp_path / "many.safetensors"
    write_safetensors(path, {name: entry(0, 0, [0]) for name in "abc"}, b"")
    assert "header lists 3 tensors; allowed: at most 2" in refusal(lambda: SafetensorsFile(path))


def test_a_header_past_the_bound_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safetensors_header, "MAX_HEADER_BYTES", 100)
    path = tmp_path / "long.safetensors"
    write_safetensors(path, b" " * 200 + b"{}", b"")
    assert "header of 202 bytes; allowed: at most the file's 202 and 100" in refusal(lambda: SafetensorsFile(path))


@pytest.mark.parametrize("cut", [0, 7, 8, 60, -4], ids=["empty", "no-length", "no-header", "in-header", "in-data"])
def test_a_truncated_model_is_refused(folder: Path, cut: int) -> None:
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:cut])
    message = refusal(lambda: load_model(folder))
    assert message.startswith(f"{weights}: ")
    assert "truncated" in message or "header of" in message


def edit(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors")


WEIGHTS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], Any], str]] = {
    "nan": (lambda s: s["conv_in.weight"].view(-1)[3:4].fill_(torch.nan), "tensor 'conv_in.weight' holds NaN or inf"),
    "infinity": (lambda s: s["project.bias"][-1:].fill_(-torch.inf), "tensor 'project.bias' holds NaN or infinity"),
    "missing-tensor": (lambda s: s.pop("mid_1.conv_2.bias"), "tensor 'mid_1.conv_2.bias' is missing"),
    "surplus-tensor": (lambda s: s.update(extra=torch.zeros(1)), "tensor 'extra' has no place in the model"),
    "wrong-shape": (
        lambda s: s.update({"conv_in.weight": torch.zeros(8, 1, 3, 2)}),
        "tensor 'conv_in.weight' has shape [8, 1, 3, 2]; the config says [8, 1, 3, 3]",
    ),
    "wrong-dtype": (lambda s: s.update({"conv_in.bias": torch.zeros(8, dtype=torch.int32)}), "dtype: got 'I32'"),
}


@pytest.mark.parametrize(("change", "reason"), WEIGHTS.values(), ids=WEIGHTS)
def test_weights_that_do_not_fit_are_refused(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], Any], reason: str
) -> None:
    edit(folder, change)
    message = refusal(lambda: load_model(folder))
    assert message.startswith(f"{folder / 'model.safetensors'}: ")
    assert reason in message


def test_a_weight_too_large_for_half_precision_is_refused(folder: Path) -> None:
    edit(folder, lambda state: state["conv_in.bias"].fill_(1e6))
    load_model(folder)
    message = refusal(lambda: load_model(folder, dtype=torch.float16))
    assert "tensor 'conv_in.bias' holds NaN or infinity as float16" in message


JSON: dict[str, tuple[dict[str, Any], str]] = {
    "unknown-field": ({"hook": "os.system"}, "unknown field 'hook'; allowed: description, family"),
    "unknown-unet-field": ({"unet": CONFIG.to_dict() | {"target": "x.Y"}}, "unet: unknown field 'target'"),
    "a-billion-channels": (
        {"unet": CONFIG.to_dict() | {"channels": [10**9, 8]}},
        "unet: channels[0]: got 1000000000; allowed: an integer from 1 to 16384",
    ),
    "unknown-format": ({"format": 2}, "format: got 2; supported: 1"),
    "unknown-family": ({"family": "os"}, "family: got 'os'; supported: ddpm, adm"),
    "unknown-prediction": ({"prediction": "z"}, "prediction: got 'z'; supported: eps, x_0"),
    "wrong-channels": ({"shape": [3, 8, 8]}, "shape: got [3, 8, 8]; allowed: [1, H, W] with H and W multiples of 2"),
    "odd-height": ({"shape": [1, 9, 8]}, "shape: got [1, 9, 8]"),
    "huge-image": ({"shape": [1, 10**9, 8]}, "shape[1]: got 1000000000; allowed: an integer from 1 to 16384"),
    "unknown-schedule": ({"schedule": {"name": "magic"}}, "schedule: schedule name: got 'magic'"),
    "huge-schedule": ({"schedule": {"name": "linear", "num_timesteps": 10**9}}, "schedule: num_timesteps: got 1000000"),
    "unknown-sampler": ({"plan": {"sampler": "ddin", "steps": 4}}, "plan: sampler: got 'ddin'"),
    "sampler-not-text": ({"plan": {"sampler": ["ddim"], "steps": 4}}, "plan: sampler: got ['ddim']"),
    "no-steps": ({"plan": {"sampler": "ddim", "steps": 0}}, "plan: steps: got 0; allowed: an integer from 1"),
    "too-many-steps": ({"plan": {"sampler": "ddim", "steps": 101}}, "plan: steps: got 101"),
    "unknown-plan-field": ({"plan": {"sampler": "ddim", "steps": 4, "run": 1}}, "plan: option of ddim: got 'run'"),
    "number-past-floats": ({"plan": {"sampler": "ddim", "steps": 4, "clip": 10**400}}, "plan: clip limit: got 1000"),
    "list-for-a-number": ({"plan": {"sampler": "ddim", "steps": 4, "eta": [0]}}, "plan: eta: got [0]"),
    "schedule-of-text": (
        {"schedule": {"name": "betas", "betas": "0.1"}},
        "schedule: betas: got '0.1'; allowed: a list",
    ),
    "plan-overrides-the-schedule": (
        {"plan": {"sampler": "ddim", "steps": 4, "schedule": {}}},
        "plan: schedule: belongs beside the plan",
    ),
    "learned-variance-without-channels": (
        {"plan": {"sampler": "ddpm", "steps": 4, "variance": "learned_range"}},
        "unet: out_channels: got 1; allowed: 2 (the variance is learned)",
    ),
    "labels-unlike-the-unet": (
        {"labels": {"kind": "classes", "count": 9, "null": None}},
        "labels: got {'kind': 'classes', 'count': 9, 'null': None}; allowed: what the U-Net has, num_classes 4",
    ),
    "label-field": ({"labels": {"kind": "classes", "count": 3, "null": 3, "x": 1}}, "labels: unknown field 'x'"),
    "null-out-of-range": ({"labels": {"kind": "classes", "count": 3, "null": 4}}, "labels: null: got 4"),
    "no-labels": ({"labels": None}, "labels: got None; allowed: what the U-Net has"),
    "name-not-text": ({"name": 5}, "name: got 5; allowed: a text"),
    "name-too-long": ({"name": "x" * 1000}, "allowed: a text of at most 255 characters"),
}


@pytest.mark.parametrize(("changes", "reason"), JSON.values(), ids=JSON)
def test_a_spec_that_lies_is_refused(folder: Path, changes: dict[str, Any], reason: str) -> None:
    path = folder / "fewstep.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    message = refusal(lambda: load_model(folder))
    assert message.startswith(f"{path}: ")
    assert reason in message


@pytest.mark.slow
def test_absurdly_many_parameters_are_refused_before_weights_are_read(folder: Path) -> None:
    path = folder / "fewstep.json"
    spec = json.loads(path.read_text())
    spec["unet"] |= {"channels": [16384, 16384], "layers": 32, "embed_channels": 32}
    path.write_text(json.dumps(spec))
    assert "parameters; allowed: at most 8,000,000,000" in refusal(lambda: load_model(folder))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is not valid JSON"),
        (b"[]", "allowed: a JSON object"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a": 1, "a": 1}', "field 'a' is given twice"),
        (b"\xff", "is not valid JSON"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "is not valid JSON"),
        (b" " * (5 << 20), "is 5,242,880 bytes; allowed: at most 4,194,304"),
    ],
    ids=["empty", "list", "nan", "key-twice", "not-utf-8", "number-of-10000-digits", "five-megabytes"],
)
def test_json_is_bounded_and_plain(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "fewstep.json"
    path.write_bytes(content)
    assert reason in refusal(lambda: read_json(path))


def test_paths_stay_inside_the_folder(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "secret.safetensors"
    (folder / "model.safetensors").rename(outside)
    (folder / "model.safetensors").symlink_to(outside)
    message = refusal(lambda: load_model(folder))
    assert "model.safetensors: leads out of the model folder" in message
    assert "leads out" in refusal(lambda: inside(folder, "../secret.safetensors"))
    assert "leads out" in refusal(lambda: inside(folder, "/etc/passwd"))
    assert inside(folder, "unet/config.json") == folder / "unet/config.json"


def test_a_link_within_the_folder_is_followed(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    (folder / "model.safetensors").symlink_to("weights.safetensors")
    load_model(folder)


@pytest.mark.parametrize("name", ["fewstep.json", "model.safetensors"])
def test_a_file_that_is_not_a_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert refusal(lambda: load_model(folder)) == f"{folder / name}: is not a regular file"


def test_what_is_missing_is_named(folder: Path, tmp_path: Path) -> None:
    assert refusal(lambda: load_model(tmp_path / "nowhere")).startswith(
        f"{tmp_path / 'nowhere'}: no such folder; in the box"
    )
    (tmp_path / "empty").mkdir()
    assert "holds no model; expected fewstep.json, model_index.json" in refusal(lambda: load_model(tmp_path / "empty"))
    (folder / "model.safetensors").unlink()
    weights = folder / "model.safetensors"
    assert refusal(lambda: load_model(folder)) == f"{weights}: cannot be read: no such file or directory"


class Exploit:
    """Unpickled, it would make a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


def test_pickles_need_leave_and_run_nothing(tmp_path: Path) -> None:
    harmless, hostile, target = tmp_path / "a.pt", tmp_path / "b.bin", tmp_path / "owned"
    torch.save({"a": torch.ones(2)}, harmless)
    torch.save({"a": Exploit(target)}, hostile)
    assert "is a pickle, which may run code when read" in refusal(lambda: open_weights(harmless))
    assert open_weights(harmless, allow_pickle=True).read("a").tolist() == [1.0, 1.0]
    assert f"{hostile}: cannot be read as weights" in refusal(lambda: open_weights(hostile, allow_pickle=True))
    assert not target.exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([torch.ones(1)], "got list; allowed: a dict"),
        ({"a": 1}, "tensor 'a' is not a dense tensor of floats"),
        ({1: torch.ones(1)}, "tensor 1 is not a dense tensor of floats"),
        ({"a": torch.ones(1, dtype=torch.int64)}, "tensor 'a' is not a dense tensor of floats"),
        ({"a": torch.eye(2).to_sparse()}, "tensor 'a' is not a dense tensor of floats"),
    ],
    ids=["list", "number", "name-not-text", "integers", "sparse"],
)
def test_a_pickle_holds_tensors_alone(content: Any, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.ckpt"
    torch.save(content, path)
    assert reason in refusal(lambda: open_weights(path, allow_pickle=True))


def test_an_adm_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    torch.save({"input_blocks.0.0.weight": torch.ones(8, 1, 3, 3)}, tmp_path / "adm.pt")
    message = refusal(lambda: load_adm(tmp_path / "adm.pt", CONFIG, allow_pickle=True))
    assert message.startswith(f"{tmp_path / 'adm.pt'}: 120 tensors are missing: 'time_embed.0.weight', 'time_embed.0.b")


def test_a_file_of_no_known_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.exe").write_bytes(b"MZ")
    assert "is of no known kind; allowed: .safetensors" in refusal(lambda: open_weights(tmp_path / "weights.exe"))
