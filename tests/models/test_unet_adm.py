"""Our U-Net against a plain reading of guided-diffusion's: every tensor used, every prediction the same."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from fewstep.errors import ModelError
from fewstep.models.layouts.adm import Flags, config_from_adm
from fewstep.models.load import load_adm

IMAGENET_LIKE: dict[str, Any] = {
    "image_size": 32,
    "num_channels": 32,
    "num_res_blocks": 2,
    "channel_mult": (1, 2, 3),
    "attention_resolutions": (16, 8),
    "num_head_channels": 16,
    "resblock_updown": True,
    "learn_sigma": True,
    "num_classes": 7,
}
CONVOLUTIONS: dict[str, Any] = {
    "image_size": 16,
    "in_channels": 1,
    "num_channels": 64,
    "num_res_blocks": 1,
    "channel_mult": (0.5, 1),
    "attention_resolutions": (16,),
    "num_heads": 2,
    "use_scale_shift_norm": False,
}


class Reference:
    """guided-diffusion's UNetModel as functions of its state dict, which it fills with random tensors as it asks."""

    def __init__(self, flags: dict[str, Any], new_attention_order: bool) -> None:
        self.flags, self.new_attention_order = flags, new_attention_order
        self.state: dict[str, Tensor] = {}
        self.generator = torch.Generator().manual_seed(0)

    def tensor(self, name: str, *shape: int) -> Tensor:
        if name not in self.state:
            fan_in = math.prod(shape[1:])
            noise = torch.randn(*shape, generator=self.generator)
            centre = 1.0 if "layers.0.weight" in name or "norm.weight" in name or name == "out.0.weight" else 0.0
            self.state[name] = centre + noise * (fan_in**-0.5 if len(shape) > 1 else 0.2)
        assert self.state[name].shape == shape
        return self.state[name]

    def linear(self, x: Tensor, name: str, out: int) -> Tensor:
        return F.linear(x, self.tensor(f"{name}.weight", out, x.shape[1]), self.tensor(f"{name}.bias", out))

    def conv(self, x: Tensor, name: str, out: int, size: int = 3, stride: int = 1) -> Tensor:
        weight = self.tensor(f"{name}.weight", out, x.shape[1], size, size)
        return F.conv2d(x, weight, self.tensor(f"{name}.bias", out), stride, size // 2)

    def norm(self, x: Tensor, name: str) -> Tensor:
        C = x.shape[1]
        return F.group_norm(x, 32, self.tensor(f"{name}.weight", C), self.tensor(f"{name}.bias", C), 1e-5)

    def block(self, x: Tensor, e: Tensor, name: str, out: int, resample: str = "") -> Tensor:
        h = F.silu(self.norm(x, f"{name}.in_layers.0"))
        if resample == "down":
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        if resample == "up":
            h, x = (F.interpolate(image, scale_factor=2, mode="nearest") for image in (h, x))
        h = self.conv(h, f"{name}.in_layers.2", out)
        if self.flags.get("use_scale_shift_norm", True):
            scale, shift = self.linear(F.silu(e), f"{name}.emb_layers.1", 2 * out)[:, :, None, None].chunk(2, dim=1)
            h = self.norm(h, f"{name}.out_layers.0") * (1 + scale) + shift
        else:
            h = h + self.linear(F.silu(e), f"{name}.emb_layers.1", out)[:, :, None, None]
            h = self.norm(h, f"{name}.out_layers.0")
        h = self.conv(F.silu(h), f"{name}.out_layers.3", out)
        return (x if x.shape[1] == out else self.conv(x, f"{name}.skip_connection", out, size=1)) + h

    def attention(self, x: Tensor, name: str) -> Tensor:
        B, C, H, W = x.shape
        width = self.flags.get("num_head_channels", -1)
        heads = self.flags["num_heads"] if width == -1 else C // width
        h = self.norm(x, f"{name}.norm").flatten(2)
        qkv = F.conv1d(h, self.tensor(f"{name}.qkv.weight", 3 * C, C, 1), self.tensor(f"{name}.qkv.bias", 3 * C))
        if self.new_attention_order:
            q, k, v = (part.reshape(B, heads, C // heads, H * W) for part in qkv.chunk(3, dim=1))
        else:
            q, k, v = qkv.reshape(B, heads, 3 * C // heads, H * W).chunk(3, dim=2)
        weights = torch.einsum("bhct,bhcs->bhts", q, k).mul((C // heads) ** -0.5).softmax(-1)
        mixed = torch.einsum("bhts,bhcs->bhct", weights, v).reshape(B, C, H * W)
        out = F.conv1d(mixed, self.tensor(f"{name}.proj_out.weight", C, C, 1), self.tensor(f"{name}.proj_out.bias", C))
        return x + out.reshape(B, C, H, W)

    def __call__(self, x: Tensor, t: Tensor, classes: Tensor | None = None) -> Tensor:
        flags, channels = self.flags, self.flags["num_channels"]
        frequencies = torch.exp(-math.log(10000) * torch.arange(channels // 2) / (channels // 2))
        angle = t[:, None] * frequencies
        e = self.linear(torch.cat([angle.cos(), angle.sin()], dim=1), "time_embed.0", 4 * channels)
        e = self.linear(F.silu(e), "time_embed.2", 4 * channels)
        if classes is not None:
            e = e + self.tensor("label_emb.weight", flags["num_classes"], 4 * channels)[classes]
        updown, layers = flags.get("resblock_updown", False), flags["num_res_blocks"]
        widths = [int(multiplier * channels) for multiplier in flags["channel_mult"]]
        kept = [self.conv(x, "input_blocks.0.0", widths[0])]
        for level, width in enumerate(widths):
            for _ in range(layers):
                name = f"input_blocks.{len(kept)}"
                h = self.block(kept[-1], e, f"{name}.0", width)
                kept.append(self.attention(h, f"{name}.1") if h.shape[2] in flags["attention_resolutions"] else h)
            if level < len(widths) - 1:
                name = f"input_blocks.{len(kept)}.0"
                down = self.block(kept[-1], e, name, width, "down") if updown else None
                kept.append(self.conv(kept[-1], f"{name}.op", width, stride=2) if down is None else down)
        h = self.block(kept[-1], e, "middle_block.0", widths[-1])
        h = self.block(self.attention(h, "middle_block.1"), e, "middle_block.2", widths[-1])
        index = 0
        for level, width in reversed(list(enumerate(widths))):
            for layer in range(layers + 1):
                name, last = f"output_blocks.{index}", 1
                h = self.block(torch.cat([h, kept.pop()], dim=1), e, f"{name}.0", width)
                if h.shape[2] in flags["attention_resolutions"]:
                    h, last = self.attention(h, f"{name}.1"), 2
                if level and layer == layers and updown:
                    h = self.block(h, e, f"{name}.{last}", width, "up")
                elif level and layer == layers:
                    h = self.conv(F.interpolate(h, scale_factor=2, mode="nearest"), f"{name}.{last}.conv", width)
                index += 1
        out = flags.get("in_channels", 3) * (2 if flags.get("learn_sigma") else 1)
        return self.conv(F.silu(self.norm(h, "out.0")), "out.2", out)


@pytest.mark.parametrize("new_attention_order", [False, True], ids=["qkv-by-head", "qkv-by-kind"])
@pytest.mark.parametrize("flags", [IMAGENET_LIKE, CONVOLUTIONS], ids=["imagenet-like", "convolutions-no-scale-shift"])
@torch.no_grad()
def test_an_adm_checkpoint_predicts_the_same(flags: dict[str, Any], new_attention_order: bool, tmp_path: Path) -> None:
    reference = Reference(flags, new_attention_order)
    generator = torch.Generator().manual_seed(1)
    size = flags["image_size"]
    x = torch.randn(2, flags.get("in_channels", 3), size, size, generator=generator)
    t = torch.tensor([0.5, 870.25])
    classes = torch.tensor([6, 0]) if "num_classes" in flags else None
    expected = reference(x, t, classes)
    save_file(reference.state, tmp_path / "adm.safetensors")
    unet = load_adm(
        tmp_path / "adm.safetensors", config_from_adm(Flags(**flags)), new_attention_order=new_attention_order
    )
    difference = (unet(x, t, classes) - expected).abs().max() / expected.abs().max()
    assert expected.std() > 0.1
    assert difference <= 1e-5


def test_the_wrong_attention_order_shows(tmp_path: Path) -> None:
    reference = Reference(IMAGENET_LIKE, new_attention_order=True)
    x, t, classes = torch.randn(1, 3, 32, 32), torch.tensor([10.0]), torch.tensor([1])
    expected = reference(x, t, classes)
    save_file(reference.state, tmp_path / "adm.safetensors")
    unet = load_adm(tmp_path / "adm.safetensors", config_from_adm(Flags(**IMAGENET_LIKE)))
    with torch.no_grad():
        assert (unet(x, t, classes) - expected).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("size", "channels"),
    [
        (512, (128, 256, 256, 512, 512, 1024, 1024)),
        (256, (256, 256, 512, 512, 1024, 1024)),
        (64, (256, 512, 768, 1024)),
    ],
    ids=["512", "256", "64"],
)
def test_the_image_size_implies_the_widths_of_the_released_models(size: int, channels: tuple[int, ...]) -> None:
    config = config_from_adm(Flags(image_size=size, num_channels=256, num_res_blocks=2, num_head_channels=64))
    assert config.channels == channels
    assert config.time_width == 256
    assert config.embed_width == 1024


def test_a_size_without_widths_is_refused() -> None:
    with pytest.raises(ModelError, match="image_size: got 96 without channel_mult; allowed: 512, 256, 128, 64"):
        config_from_adm(Flags(image_size=96, num_channels=64, num_res_blocks=1))
