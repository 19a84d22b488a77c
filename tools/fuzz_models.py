"""The models that tools/fuzz.py spoils: of each kind of folder and file a sound one, and who reads it."""

import io
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from fuzz_mutators import Mutator, json_changed, safetensors_changed, zip_changed
from safetensors.torch import save

from fewstep import Engine, Model
from fewstep.fields import Fields
from fewstep.models import UNet, UNetConfig, build_unet
from fewstep.models.layouts import adm, diffusers, diffusers_condition, edm, ldm
from fewstep.models.layouts.keys import Keys
from fewstep.models.load import load_adm, save_model
from fewstep.models.spec import ModelSpec

Files = Mapping[str, bytes]
Table = Mapping[str, Sequence[Mutator]]


@dataclass(frozen=True)
class Target:
    """A sound set of files, and who reads them.

    Attributes:
        files: by their path in the folder of a case.
        spoilt: the end of a name -> how such a file is spoilt within its format; others only as bytes.
        read: raises what the reader raises; or says what is wrong, where the reader ended well and should not have.
        places: names of files that may be gone, or something else than a file; all of them unless given.
    """

    name: str
    files: Files
    spoilt: Table
    read: Callable[[Path], str | None]
    places: Sequence[str] = field(default=())


CONFIG = UNetConfig(
    in_channels=1,
    out_channels=1,
    channels=(8, 8),
    layers=1,
    down_attention=(False, False),
    up_attention=(False, True),
    down=("conv",),
    up=("conv",),
    groups=4,
    mid_attention_groups=4,
    num_classes=4,
)
SPEC = ModelSpec(
    name="tiny",
    family="ddpm",
    unet=CONFIG,
    shape=(1, 8, 8),
    schedule={"name": "linear", "num_timesteps": 100},
    prediction="eps",
    plan={"sampler": "ddim", "steps": 4, "clip": 1.0},
    labels={"kind": "classes", "count": 3, "null": 3},
    notes=("a note",),
)
UNET_2D = {
    "_class_name": "UNet2DModel",
    "_diffusers_version": "0.30.0",
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "layers_per_block": 1,
    "block_out_channels": [8, 8],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": 4,
    "norm_num_groups": 4,
    "num_class_embeds": None,
}
UNET_2D_CONDITION = {
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": "0.30.0",
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 1,
    "block_out_channels": [32, 32],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "transformer_layers_per_block": 1,
    "time_cond_proj_dim": None,
    "use_linear_projection": False,
}
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 100,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "prediction_type": "epsilon",
    "clip_sample": True,
    "timestep_spacing": "leading",
    "trained_betas": None,
}
EDM = {
    "model_type": "SongUNet",
    "img_resolution": 8,
    "img_channels": 1,
    "label_dim": 3,
    "label_dropout": 0.1,
    "model_channels": 8,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [4],
    "embedding_type": "fourier",
    "encoder_type": "residual",
    "resample_filter": [1, 3, 3, 1],
    "sigma_data": 0.5,
    "sigma_max": 80,
    "r_timestep": True,
}


def models() -> list[Target]:
    unet = UNet(CONFIG)
    with tempfile.TemporaryDirectory() as folder:
        save_model(folder, unet, SPEC)
        own = {name: (Path(folder) / name).read_bytes() for name in ("fewstep.json", "model.safetensors")}
    theirs = diffusers.config_from_diffusers(UNET_2D, "config")
    weights = _renamed(diffusers.naming(theirs).keys(UNet(theirs)))
    of_edm, classes = edm.config_from_edm(Fields(EDM, "config"), twice=False)
    preconditioned = {
        "config.json": json.dumps(EDM).encode(),
        "model.safetensors": save(_renamed(edm.keys(of_edm, EDM["img_resolution"], classes)(build_unet(of_edm)))),
    }
    index = {
        "_class_name": "DDIMPipeline",
        "scheduler": ["diffusers", "DDIMScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
    }
    pipeline = {
        "model_index.json": json.dumps(index).encode(),
        "scheduler/scheduler_config.json": json.dumps(SCHEDULER).encode(),
        "unet/config.json": json.dumps(UNET_2D).encode(),
        "unet/diffusion_pytorch_model.safetensors": save(weights),
    }
    shards = {f"diffusion_pytorch_model-0000{part + 1}-of-00002.safetensors": dict(list(weights.items())[part::2])
              for part in range(2)}  # fmt: skip
    places = {name: shard for shard, held in shards.items() for name in held}
    listed = {"metadata": {"total_size": 1}, "weight_map": places}
    sharded = {"config.json": json.dumps(UNET_2D).encode()}
    sharded |= {"diffusion_pytorch_model.safetensors.index.json": json.dumps(listed).encode()}
    sharded |= {shard: save(held) for shard, held in shards.items()}
    bare = {"config.json": json.dumps(UNET_2D).encode(), "diffusion_pytorch_model.bin": _pickled(weights)}
    checkpoint = {"adm.pt": _pickled(_renamed(adm.naming(CONFIG).keys(unet)))}
    of_text, whole = _conditional()
    formats: Table = {".json": (json_changed,), ".safetensors": (safetensors_changed,), ".bin": PICKLES, ".pt": PICKLES}
    return [
        Target("our folder", own, formats, _opened),
        Target("a pipeline of diffusers", pipeline, formats, _opened),
        Target("a U-Net of diffusers, in shards", sharded, formats, _opened),
        Target("a U-Net of diffusers, pickled", bare, formats, _opened),
        Target("a network of EDM", preconditioned, formats, _opened),
        Target("a pipeline of Stable Diffusion", of_text, formats, _opened),
        Target("a file of Stable Diffusion", {"sd.safetensors": save(whole)}, formats, _file("sd.safetensors")),
        Target(
            "a file of Stable Diffusion, pickled", {"sd.ckpt": _pickled(whole)}, {".ckpt": PICKLES}, _file("sd.ckpt")
        ),
        Target(
            "a checkpoint of ADM",
            checkpoint,
            formats,
            lambda f: ended(load_adm(f / "adm.pt", CONFIG, allow_pickle=True)),
        ),
    ]


def _conditional() -> tuple[Files, dict[str, torch.Tensor]]:
    """A pipeline's folder, and a single file of the same U-Net in latent diffusion's names."""
    config = diffusers_condition.config_from_diffusers_condition(UNET_2D_CONDITION, "config")
    weights = _renamed(diffusers_condition.naming(config).keys(build_unet(config)))
    index = {
        "_class_name": "StableDiffusionPipeline",
        "scheduler": ["diffusers", "DDIMScheduler"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    pipeline = {
        "model_index.json": json.dumps(index).encode(),
        "scheduler/scheduler_config.json": json.dumps(SCHEDULER).encode(),
        "unet/config.json": json.dumps(UNET_2D_CONDITION).encode(),
        "unet/diffusion_pytorch_model.safetensors": save(weights),
    }
    names = [f"input_blocks.{number}.0.in_layers.0.weight" for number in (1, 3)] + ["input_blocks.2.0.op.weight"]
    ldm_names = ldm.Names(names, "names", ldm.ADDED)
    single = {f"model.diffusion_model.{ldm_names.in_file(name)}": tensor for name, tensor in weights.items()}
    single |= {"first_stage_model.x": torch.ones(1), "v_pred": torch.zeros(0), "cond.ids": torch.arange(3)}
    return pipeline, single


def _file(name: str) -> Callable[[Path], str | None]:
    """Who reads a single file in the folder of a case."""
    return lambda folder: ended(Model.from_pretrained(folder / name, allow_pickle=True))


def _opened(folder: Path) -> None:
    engine = Engine.from_pretrained(folder, device="cpu", allow_pickle=True)
    engine.plan()


def _renamed(keys: Keys) -> dict[str, torch.Tensor]:
    """Random weights under another code base's names."""
    return {piece.name: torch.randn(piece.shape) for pieces in keys.values() for piece in pieces}


def _pickled(state: Mapping[str, torch.Tensor]) -> bytes:
    page = io.BytesIO()
    torch.save(dict(state), page)
    return page.getvalue()


PICKLES: Sequence[Mutator] = (zip_changed({}),)


def ended(_: object) -> None:
    """Any result is a good one."""
