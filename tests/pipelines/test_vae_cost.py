"""What encoding and decoding costs on a GPU, counted: the tables of docs/autoencoders.md."""

from collections import defaultdict
from typing import Any

import diffusers
import pytest
import torch

from fewstep.cost import Cost, CostCounter
from fewstep.pipelines.latents import LatentDecoder
from fewstep.pipelines.vae import accelerated_vae
from support.tree import ROOT

PAGE = ROOT / "docs/autoencoders.md"
NAMES = {
    "convolution": "convolution",
    "mm": "product of matrices",
    "addmm": "product of matrices",
    "native_group_norm": "group norm",
    "group_norm_silu": "group norm",
    "silu": "SiLU",
    "add": "residual",
    "bias_residual": "residual",
    "div": "division by 1",
    "clone": "copy",
    "upsample_nearest2d": "doubling",
    "scaled_dot_product_attention": "attention",
    "attention": "attention",
}
Table = dict[str, Cost]


def autoencoder(name: str = "AutoencoderKL") -> Any:
    """In bfloat16 and without memory: Stable Diffusion's, or TAESD."""
    with torch.device("meta"):
        if name == "AutoencoderTiny":
            return diffusers.AutoencoderTiny().to(torch.bfloat16).eval()
        return (
            diffusers.AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                block_out_channels=(128, 256, 512, 512),
                layers_per_block=2,
                sample_size=512,
            )
            .to(torch.bfloat16)
            .eval()
        )


def counted(vae: Any, call: str, pixels: int, batch: int = 1) -> Table:
    """What each op costs, by its name on the page, and "all" together."""
    channels, side = (4, pixels // 8) if call == "decode" else (3, pixels)
    given = torch.empty(batch, channels, side, side, dtype=torch.bfloat16, device="meta")
    with torch.no_grad(), CostCounter() as counter:
        getattr(vae, call)(given)
    table: Table = defaultdict(Cost)
    for each in counter.calls:
        op = each.op.split("::")[1].split(".")[0]
        table[NAMES.get(op, op)] += each.cost
        table["all"] += each.cost
    return table


def row(name: str, plain: Cost, fused: Cost) -> str:
    """A line of a table of the page, without the spaces that align it."""
    numbers = (plain.launches, f"{plain.bytes / 1e9:.2f}", fused.launches, f"{fused.bytes / 1e9:.2f}")
    return "|".join(["", name, *map(str, numbers), ""])


def page() -> list[str]:
    lines = PAGE.read_text().splitlines()
    return ["|".join(cell.strip() for cell in line.split("|")) for line in lines if line.startswith("|")]


def test_the_ops_of_a_decode_are_those_of_the_page() -> None:
    vae = autoencoder()
    plain, fused = counted(vae, "decode", 512), counted(accelerated_vae(vae), "decode", 512)
    for name in dict.fromkeys([*NAMES.values(), "all"]):
        print(row(name, plain[name], fused[name]))
        assert row(name, plain[name], fused[name]) in page()
    assert {*plain, *fused} <= {*NAMES.values(), "all"}


WHOLE = [
    (name, call, pixels)
    for name, sizes in (("AutoencoderKL", (512, 1024)), ("AutoencoderTiny", (512,)))
    for pixels in sizes
    for call in ("decode", "encode")
]


@pytest.mark.parametrize(("name", "call", "pixels"), WHOLE, ids=[f"{n}-{c}-{p} pixels" for n, c, p in WHOLE])
def test_the_whole_costs_what_the_page_says(name: str, call: str, pixels: int) -> None:
    vae = autoencoder(name)
    plain, fused = counted(vae, call, pixels)["all"], counted(accelerated_vae(vae), call, pixels)["all"]
    line = row(f"{name}, {call}, {pixels} x {pixels}", plain, fused)
    print(line)
    assert line in page()


@pytest.mark.parametrize("batch", [1, 2])
def test_a_decode_stays_channels_last(batch: int) -> None:
    vae = autoencoder()
    assert counted(accelerated_vae(vae), "decode", 512, batch)["copy"].launches == 2  # latents to it, images from it
    assert counted(vae, "decode", 512, batch)["copy"].launches >= 14


def test_tiles_cost_a_few_launches_for_a_seam_where_diffusers_pays_for_every_row_of_pixels() -> None:
    vae = autoencoder()
    vae.enable_tiling()
    z = torch.empty(1, 4, 96, 96, dtype=torch.bfloat16, device="meta")  # 4 tiles of 64 x 64, which have 4 seams
    launches = {}
    for name, call in (("diffusers", vae.decode), ("run", LatentDecoder(vae))):
        with torch.no_grad(), CostCounter() as counter:
            call(z)
        launches[name] = sum(each.cost.launches for each in counter.calls)
    print(launches)
    line = f"four tiles, is {launches['run']} launches for {launches['diffusers']:,} of diffusers"
    assert line in " ".join(PAGE.read_text().split())
