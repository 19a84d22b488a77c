"""What tools/fuzz.py spoils: of each kind of file that is read a sound one, how it is spoilt, and who reads it."""

import contextlib
import io
import json
import random
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import fuzz_lora
import numpy as np
import torch
from fuzz_models import Table, Target, ended, models
from fuzz_mutators import (
    PLAIN,
    Rng,
    changed,
    extreme,
    json_changed,
    lines_changed,
    npy_changed,
    png_changed,
    safetensors_changed,
    safetensors_parts,
    zip_changed,
)
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import load

from fewstep.cli import main
from fewstep.errors import FewstepError
from fewstep.evaluate.features import BUNDLED, load_classifier
from fewstep.evaluate.report import COMPARABLE, DRAWN, Curve
from fewstep.models import UNet
from fewstep.models.layouts.terrain import MEMBER, _onnx_bytes
from fewstep.pictures import read_mask, read_picture
from fewstep.request import manifest
from fewstep.results import read_parameters
from fewstep.train.checkpoint import Checkpoint, save_checkpoint
from fewstep.train.config import TrainConfig
from fewstep.train.data import Dataset, load_data
from fewstep.train.fit import State, check_fits, last_checkpoint
from fewstep.train.folder import compare, draw_losses, same_run
from fewstep.train.run import FIXED, build, saved_config

SETTINGS = TrainConfig(
    steps=24, batch=4, sheet_every=0, schedule={"name": "cosine", "num_timesteps": 50},
    unet={"channels": [8, 8], "groups": 4, "mid_attention_groups": 4, "heads": 1, "embed_channels": 16},
)  # fmt: skip
TOML = """steps = 24
batch = 8
learning_rate = 3e-3
ema = 0.9
prediction = "v"

[schedule]
name = "cosine"
num_timesteps = 50

[unet]
channels = [8, 8]
groups = 4
"""
LOSSES = "step,loss,grad_norm,learning_rate\n" + "".join(f"{step},0.{step},1.5,0.001\n" for step in range(1, 21))
REQUESTS = {
    "format": 2,
    "requests": [
        {
            "n": 2,
            "steps": 4,
            "sampler": "ddim",
            "guidance_scale": 1.5,
            "options": {"clip": {"limit": 1.0, "ratio": 0.9}},
        },
        {"session": {"slots": 2, "lanes": 5, "steps": 8, "history": 0, "features": ["stochastic"], "output": "float"}},
    ],
}


def targets() -> list[Target]:
    """All of them; making them takes two seconds."""
    torch.manual_seed(0)
    return [*models(), *_data(), *_runs(), *_others()]


def _data() -> list[Target]:
    images = np.arange(40 * 64, dtype=np.uint8).reshape(40, 8, 8)
    page = io.BytesIO()
    np.savez_compressed(page, images=images, labels=np.arange(40) % 2)
    stored = io.BytesIO()
    np.savez(stored, images=images, labels=np.arange(40) % 2)
    pictures = {f"{place}/{i}.png": _png(images[i]) for place, i in (("a", 0), ("a", 1), ("b", 2))}
    pictures |= {f"b/{kind.lower()}.{kind.lower()}": _png(images[3], kind=kind) for kind in ("JPEG", "WebP")}
    member: Table = {".npy": (npy_changed,)}
    made = _png(images[0], {"Software": "fewstep 0.1.0", "seed": "3", "steps": "4", "sampler": "ddim"})
    return [
        Target("an .npz", {"own.npz": page.getvalue()}, {".npz": (zip_changed(member),)}, _npz),
        Target("an .npz, stored", {"own.npz": stored.getvalue()}, {".npz": (zip_changed(member),)}, _npz),
        Target("a folder of pictures", pictures, {".png": (png_changed,)}, lambda f: ended(load_data(str(f)))),
        Target("pictures to be scaled", pictures, {".png": (png_changed,)}, lambda f: ended(load_data(str(f), 8))),
        Target("a start", pictures, {".png": (png_changed,)}, lambda f: _each(f, read_picture)),
        Target("a mask", pictures, {".png": (png_changed,)}, lambda f: _each(f, read_mask)),
        Target(
            "the text of a PNG",
            {"out.png": made},
            {".png": (png_changed,)},
            lambda f: ended(read_parameters(f / "out.png")),
        ),
        Target("info of a PNG", {"out.png": made}, {".png": (png_changed,)}, lambda f: _command("info", f / "out.png")),
    ]


def _png(
    pixels: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]", text: Mapping[str, str] | None = None, kind: str = "PNG"
) -> bytes:
    info = PngInfo()
    for key, value in (text or {}).items():
        info.add_text(key, value)
    page = io.BytesIO()
    Image.fromarray(pixels).save(page, format=kind, pnginfo=info)
    return page.getvalue()


def _each(folder: Path, read: Callable[[str, Path], object]) -> None:
    """All pictures of a folder; the first error where there is one."""
    for path in sorted(folder.glob("*/*")):
        read("image", path)


def _npz(folder: Path) -> None:
    load_data(str(folder / "own.npz"))


def _runs() -> list[Target]:
    data = Dataset(torch.zeros(8, 1, 8, 8, dtype=torch.uint8), torch.arange(8) % 2, "bars")
    module, _ = build(SETTINGS, data, "tiny")
    state = State(module, SETTINGS)
    module(torch.zeros(1, 1, 8, 8), torch.zeros(1), torch.zeros(1, dtype=torch.int64)).sum().backward()
    state.optimiser.step()
    about = {"config": SETTINGS.to_dict(), "digest": data.digest(), "device": "cpu", "threads": 1, "seconds": 1.0,
             "commands": ["fewstep train"]}  # fmt: skip
    files = {}
    with tempfile.TemporaryDirectory() as folder:
        for step in (10, 20):
            path = save_checkpoint(Path(folder), step, state.tensors(), about, 2)
            files[f"checkpoints/{path.name}"] = path.read_bytes()
    newest = max(files)

    def resumed(folder: Path) -> str | None:
        return _resumed(folder, folder / newest, module, data)

    with tempfile.TemporaryDirectory() as folder:  # so that matplotlib is there before a process is forked
        (Path(folder) / "loss.csv").write_text(LOSSES)
        _drawn(Path(folder))
    spoilt: Table = {newest: (safetensors_changed, _forged)}
    return [
        Target("the newest checkpoint", files, spoilt, resumed, (newest,)),
        Target("a record of losses", {"loss.csv": LOSSES.encode()}, {".csv": (lines_changed,)}, _drawn),
    ]


def _forged(rng: Rng, data: bytes) -> bytes:
    """A checkpoint that is whole and says other things: of its step, its run, or its weights."""
    header, _ = safetensors_parts(data)
    about, tensors = json.loads(header["__metadata__"]["about"]), load(data)
    kind, step = rng.random(), 20
    if kind < 0.2:
        step = rng.choice((0, 19, 21, 10**8, 10**9, 10**12, 10**5000))
    elif kind < 0.7:
        about = changed(rng, about) if rng.random() < 0.8 else extreme(rng)
    else:
        name = rng.choice(list(tensors))
        tensors[name] = rng.choice((torch.zeros(3), torch.zeros(0), tensors[name].half(), tensors[name] * torch.nan))
    try:
        with tempfile.TemporaryDirectory() as folder:
            return save_checkpoint(Path(folder), step, tensors, about, 1).read_bytes()
    except (FewstepError, ValueError, TypeError, RecursionError, OverflowError):  # what cannot be forged so
        return data[:-1]


def _resumed(folder: Path, newest: Path, module: UNet, data: Dataset) -> str | None:
    """Whatever has become of the newest checkpoint, a run goes on from it or from the one before, and says so."""
    said: list[str] = []

    def check(found: Checkpoint) -> None:
        if same_run(found, SETTINGS, FIXED):
            check_fits(found, module)

    there = newest.is_file()
    settings = saved_config(folder, said.append)
    found = last_checkpoint(folder, said.append, check)
    if settings is None or found is None:
        return "there is a sound checkpoint, and it was not found"
    if there and found.step != 20 and not any(newest.name in line for line in said):
        return f"goes on from step {found.step} and does not say that {newest.name} is passed over"
    about = {"digest": data.digest(), "device": "cpu", "threads": 1}
    compare(found, SETTINGS, FIXED, about, said.append)
    State(module, SETTINGS).load(found)
    return next((f"says {line!r} in several lines" for line in said if "\n" in line), None)


def _drawn(folder: Path) -> None:
    draw_losses(folder, "title", 20)


def _others() -> list[Target]:
    formats = {".safetensors": (safetensors_changed,), ".json": (json_changed,)}
    row = dict.fromkeys(DRAWN, 0.5) | {"steps": 4}
    settings = dict.fromkeys(COMPARABLE, "x")
    result = json.dumps(
        {"model": {"name": "m"}, "settings": settings, "rows": [row, row | {"accuracy": None}]}
    ).encode()
    page = io.BytesIO()
    with zipfile.ZipFile(page, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(MEMBER, bytes(3000))
    return [
        Target("a manifest", {"warm.json": json.dumps(REQUESTS).encode()}, {".json": (json_changed,)},
               lambda f: ended(manifest.read(f / "warm.json"))),
        Target("an evaluation", {"evaluate.json": result}, {".json": (json_changed,)},
               lambda f: ended(Curve.read(f / "evaluate.json", settings))),
        Target("settings", {"own.toml": TOML.encode()}, {".toml": (lines_changed,)},
               lambda f: ended(TrainConfig.from_toml(f / "own.toml"))),
        Target("a classifier", {"c.safetensors": BUNDLED.read_bytes()}, {".safetensors": (safetensors_changed,)},
               lambda f: ended(load_classifier(f / "c.safetensors"))),
        Target("a LoRA", fuzz_lora.files(), formats, fuzz_lora.read),
        Target("a wheel", {"own.whl": page.getvalue()}, {".whl": (zip_changed({}),)},
               lambda f: ended(_onnx_bytes(f / "own.whl"))),
    ]  # fmt: skip


def _command(verb: str, path: Path) -> str | None:
    """The command in this process: 0 or 2, and one printable line on stderr that names the file."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8")
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([verb, str(path)])
        out.flush()
        err.flush()
    said = err.buffer.getvalue().decode()  # type: ignore[attr-defined]
    if code not in (0, 2):
        return f"exit code {code}: {said[:300]}"
    if code == 2 and (said.count("\n") != 1 or path.name not in said):
        return f"says {said[:300]!r}"
    return None


def spoil(target: Target, rng: random.Random) -> tuple[dict[str, bytes], list[tuple[str, str]]]:
    """The files of a case, and what is done to their places in the folder: (name, what)."""
    files, places = dict(target.files), []
    names = [name for name in files if not target.places or name in target.places]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        name = rng.choice(names)
        kind = rng.random()
        if kind < 0.06:
            places.append((name, rng.choice(("gone", "folder", "pipe", "loop", "outside", "dangling", "zero"))))
        elif kind < 0.1:
            files[name] = rng.choice(list(files.values()))
        else:
            own = next((found for ending, found in target.spoilt.items() if name.endswith(ending)), ())
            mutator = rng.choice(own) if own and rng.random() < 0.75 else rng.choice(PLAIN)
            try:
                files[name] = mutator(rng, files[name])
            except Exception:  # it was spoilt already, and its format is no more
                files[name] = rng.choice(PLAIN)(rng, files[name])
    return files, places
