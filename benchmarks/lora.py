"""Merging a LoRA, setting its weight, swapping it: rank 16, attention alone, a U-Net of Stable Diffusion 1.5's size.

    PYTHONPATH=engine:kernels python benchmarks/lora.py [--out FOLDER/lora] [--device cpu] [--dtype float32]
                                                    [--threads 1] [--sweep]

The weights are random, and of those that no LoRA touches only the shapes are there. Every change is checked before it
is timed: the merged weights against float64, what is left after the last adapter bit for bit. Times are taken in turns,
each round one after the other; a pass is one read or one write of all weights that are touched.

    copy     what torch takes to copy these weights: two passes, the floor of a change
    add      weight += scale * (up @ down) for each layer, as peft merges; exchanging one for another so takes two of it
             and leaves rounding behind

--sweep times other sizes of BLOCK_BYTES. --dry-run walks all of it with a small U-Net.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measure import Report, Spread, describe, in_turn, relative_error
from safetensors.torch import save_file
from torch import Tensor

from fewstep.models.layouts.diffusers_condition import config_from_diffusers_condition
from fewstep.models.lora import Adapters, regions, tables_of
from fewstep.models.net.build import empty_unet
from fewstep.models.net.unet import UNet

RANK, ALPHA = 16, 8.0
ROUNDS = 31
BLOCKS = (1 << 17, 1 << 18, 1 << 19, 1 << 20, 1 << 21, 1 << 22, 1 << 40)
CROSS = ["CrossAttnDownBlock2D"], ["CrossAttnUpBlock2D"]
SD15: dict[str, Any] = {
    "sample_size": 64,
    "down_block_types": CROSS[0] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + CROSS[1] * 3,
    "block_out_channels": [320, 640, 1280, 1280],
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
SMALL = SD15 | {"block_out_channels": [32, 32, 64, 64], "cross_attention_dim": 48}


def unet_of(config: dict[str, Any], device: torch.device, dtype: torch.dtype) -> UNet:
    """A U-Net whose attention is random; the rest is memory that nobody has written to."""
    data = {"_class_name": "UNet2DConditionModel", "layers_per_block": 2} | config
    unet = empty_unet(config_from_diffusers_condition(data, "SD 1.5")).to(dtype).to_empty(device=device)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for name, _, _ in layers_of(unet):
            weight = unet.get_parameter(name)
            weight.normal_(std=weight.shape[1] ** -0.5, generator=generator)
    return unet.eval()


def layers_of(unet: UNet) -> list[tuple[str, str, tuple[int, ...]]]:
    """Our parameter, diffusers' layer and its shape, of every projection of an attention."""
    return [
        (parameter, piece.name.removesuffix(".weight"), piece.shape)
        for parameter, pieces in tables_of(unet)[0].items()
        for piece in pieces
        if ".to_" in piece.name and piece.name.endswith(".weight")
    ]


def lora_for(unet: UNet, seed: int) -> dict[str, Tensor]:
    """A file as trainers write it: kohya's names, fp16."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for _, layer, (rows, columns) in layers_of(unet):
        name = f"lora_unet_{layer.replace('.', '_')}"
        tensors[f"{name}.lora_down.weight"] = (torch.randn(RANK, columns, generator=generator) * columns**-0.5).half()
        tensors[f"{name}.lora_up.weight"] = (torch.randn(rows, RANK, generator=generator) * 0.05).half()
        tensors[f"{name}.alpha"] = torch.tensor(ALPHA)
    return tensors


class Plain:
    """The same layers each by itself, changed as peft does."""

    def __init__(self, unet: UNet, lora: dict[str, Tensor]) -> None:
        device = unet.conv_in.weight.device
        self.weights = [
            torch.empty(shape, device=device, dtype=unet.dtype).normal_() for _, _, shape in layers_of(unet)
        ]
        self.copies = [torch.empty_like(weight).zero_() for weight in self.weights]
        names = [f"lora_unet_{layer.replace('.', '_')}" for _, layer, _ in layers_of(unet)]
        self.factors = [
            tuple(lora[f"{name}.lora_{kind}.weight"].to(device, unet.dtype) for kind in ("up", "down"))
            for name in names
        ]

    def copy(self) -> None:
        for weight, copy in zip(self.weights, self.copies, strict=True):
            copy.copy_(weight)

    def add(self) -> None:
        for weight, (up, down) in zip(self.weights, self.factors, strict=True):
            weight += (up @ down) * (ALPHA / RANK)

    @property
    def bytes(self) -> int:
        return sum(weight.numel() * weight.element_size() for weight in self.weights)


def checked(unet: UNet, lora: dict[str, Tensor], report: Report) -> bool:
    """Whether a merge is as near to float64 as the dtype lets it be, and unloading gives every bit back."""
    names = list(dict.fromkeys(name for name, _, _ in layers_of(unet)))
    before = {name: unet.get_parameter(name).detach().clone() for name in names}
    adapters = Adapters(unet)
    adapters.load(lora, "a", weight=0.5)
    starts: dict[str, int] = {}
    worst = 0.0
    for name, layer, (rows, _) in layers_of(unet):
        start = starts.get(name, 0)
        starts[name] = start + rows
        factor = f"lora_unet_{layer.replace('.', '_')}"
        up, down = (lora[f"{factor}.lora_{kind}.weight"].double() for kind in ("up", "down"))
        exact = before[name][start : start + rows].double().cpu() + 0.5 * ALPHA / RANK * up @ down
        worst = max(worst, relative_error(unet.get_parameter(name).detach()[start : start + rows].cpu(), exact))
    holds = report.check(f"merged weights are off by {worst:.1e}", worst <= torch.finfo(unet.dtype).eps)
    adapters.unload()
    back = all(torch.equal(unet.get_parameter(name), before[name]) for name in names)
    return report.check("unloading gives other bits", back) and holds


def works(unet: UNet, folder: Path, plain: Plain) -> dict[str, tuple[float, Callable[[], object]]]:
    """The changes of one round, each from where the one before ended, and the passes of each."""
    adapters = Adapters(unet)
    for name in ("a", "b"):
        adapters.load(folder / f"{name}.safetensors", name, weight=0)

    def read() -> None:
        adapters.load(folder / "a.safetensors", "again", weight=0)
        adapters.unload("again")

    return {
        "read a file": (0, read),
        "merge the first": (3, lambda: adapters.set({"a": 1})),
        "set its weight": (2, lambda: adapters.set({"a": 0.5})),
        "swap another in": (2, lambda: adapters.set({"a": 0, "b": 1})),
        "two at once": (2, lambda: adapters.set({"a": 0.5, "b": 0.5})),
        "take out": (2, lambda: adapters.set({"a": 0, "b": 0})),
        "torch: copy": (2, plain.copy),
        "torch: add": (0, plain.add),
    }


def measured(unet: UNet, folder: Path, plain: Plain, rounds: int) -> list[dict[str, Any]]:
    """A row for each change."""
    changes = works(unet, folder, plain)
    for _, work in changes.values():
        work()
    times = in_turn({name: work for name, (_, work) in changes.items()}, unet.conv_in.weight.device, rounds)
    rows = []
    for name, (passes, _) in changes.items():
        spread = Spread.of(times[name])
        gb_s = passes * plain.bytes / spread.median / 1e9
        own = {"ms": 1e3 * spread.median, "ms_p10": 1e3 * spread.low, "ms_p90": 1e3 * spread.high}
        rows.append({"change": name, **own, "rounds": spread.repeats, "passes": passes, "gb_s": gb_s or None})
    return rows


def shown(row: dict[str, Any]) -> str:
    """A line of the table."""
    speed = f"{row['passes']} passes, {row['gb_s']:5.1f} GB/s" if row["passes"] else ""
    return f"{row['change']:18} {row['ms']:7.1f} ms ({row['ms_p10']:.1f}..{row['ms_p90']:.1f})  {speed}"


def main() -> int:
    """All of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="where to write the report, without the suffix")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--threads", type=int, help="of torch; on a busy machine one is steadier")
    parser.add_argument("--sweep", action="store_true", help="other sizes of a block")
    parser.add_argument("--dry-run", action="store_true", help="a small U-Net, and two rounds")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    unet = unet_of(SMALL if options.dry_run else SD15, options.device, getattr(torch, options.dtype))
    rounds = 2 if options.dry_run else ROUNDS
    a, b = lora_for(unet, 1), lora_for(unet, 2)
    plain = Plain(unet, a)
    about = {"layers": len(layers_of(unet)), "rank": RANK, "dtype": options.dtype, "touched_bytes": plain.bytes}
    report = Report(options.out, describe(options.device) | about)
    print(f"{about['layers']} layers, {plain.bytes / 1e6:.0f} MB of weights in {options.dtype}, rank {RANK}")
    if not checked(unet, a, report):
        return report.finish()
    with tempfile.TemporaryDirectory() as name:
        for each, lora in (("a", a), ("b", b)):
            save_file(lora, Path(name) / f"{each}.safetensors")
        default = dict(regions.BLOCK_BYTES)
        for size in BLOCKS if options.sweep else [default["cpu"]]:
            regions.BLOCK_BYTES.update(dict.fromkeys(default, size) if options.sweep else default)
            for row in measured(unet, Path(name), plain, rounds):
                report.rows.append({"block_bytes": size, **row} if options.sweep else row)
                print(f"{size:>14,} " if options.sweep else "", shown(row), sep="", flush=True)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
