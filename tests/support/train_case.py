"""What the training tests stand on: tiny images, a tiny U-Net, and the command in this process or in one of its own."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fewstep.train.data import Dataset
from support.tree import ROOT

CLASSES = 2

SETTINGS = """
steps = 24
batch = 8
warmup = 4
learning_rate = 3e-3
ema = 0.9
log_every = 2
checkpoint_every = 5
keep = 3
sheet_every = 12
sample_steps = 2

[schedule]
name = "cosine"
num_timesteps = 50

[unet]
channels = [8, 8]
groups = 4
mid_attention_groups = 4
heads = 1
embed_channels = 16
"""


def bars(count: int = 40) -> tuple[Any, Any]:
    """Class 0 are bright rows, class 1 bright columns: uint8 [count, 8, 8] and their labels [count]."""
    images, labels = np.zeros((count, 8, 8), dtype=np.uint8), np.arange(count) % CLASSES
    for index, label in enumerate(labels):
        place = (index // CLASSES) % 6
        images[index, place : place + 2] = 255
        if label:
            images[index] = images[index].T
    return images, labels


def bars_file(folder: Path, **arrays: Any) -> Path:
    """An .npz with the bars, or what is given instead."""
    images, labels = bars()
    path = folder / "bars.npz"
    np.savez(path, **({"images": images, "labels": labels} | arrays))
    return path


def bars_data(labelled: bool = True) -> Dataset:
    images, labels = bars()
    return Dataset(torch.from_numpy(images)[:, None], torch.from_numpy(labels) if labelled else None, "bars")


def settings_file(folder: Path, text: str = SETTINGS) -> Path:
    path = folder / "settings.toml"
    path.write_text(text)
    return path


def command(*arguments: object) -> subprocess.Popen[str]:
    """`fewstep train` in a process of its own, on one thread; stderr is a pipe."""
    line = [sys.executable, "-m", "fewstep.cli", "train", *map(str, arguments)]
    paths = os.pathsep.join([str(ROOT / "engine"), str(ROOT / "kernels")])
    env = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(line, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
