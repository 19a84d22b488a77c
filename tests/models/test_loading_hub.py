"""Models as the Hugging Face hub's libraries leave them on a disk: its cache, variants, shards, averaged weights."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler, DPMSolverMultistepScheduler, UNet2DModel
from diffusers.training_utils import EMAModel

from fewstep.engine import Engine
from fewstep.errors import ArgumentError
from fewstep.fields import read_json
from fewstep.models.bundled import model_folder
from fewstep.models.load import load_model, open_folder
from fewstep.models.weights import find_weights
from support.diffusers_case import SMALL, random_model, same
from support.loading_case import refusal

REVISION = "267b167dc01f0e4e61923ea244e8b988f84deb80"


@pytest.fixture(scope="module")
def model() -> UNet2DModel:
    return random_model(SMALL)


@pytest.fixture
def repository(model: UNet2DModel, tmp_path: Path) -> Path:
    """A repository of the cache: files under their hashes, a snapshot of links to them, and what main is."""
    plain, repository = tmp_path / "plain", tmp_path / "hub" / "models--google--ddpm-tiny"
    DDIMPipeline(model, DDIMScheduler()).save_pretrained(plain)
    (repository / "blobs").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(REVISION)
    for number, path in enumerate(sorted(path for path in plain.rglob("*") if path.is_file())):
        link = repository / "snapshots" / REVISION / path.relative_to(plain)
        link.parent.mkdir(parents=True, exist_ok=True)
        blob = repository / "blobs" / f"{number:040x}"
        shutil.copy(path, blob)
        link.symlink_to(Path(*[".."] * len(link.relative_to(repository).parts[:-1])) / "blobs" / blob.name)
    return repository


def test_a_snapshot_of_the_cache_is_read_through_its_links(repository: Path, model: UNet2DModel) -> None:
    assert (repository / "snapshots" / REVISION / "unet" / "config.json").is_symlink()
    assert same(repository / "snapshots" / REVISION, model)
    assert same(repository, model)  # main, by refs/main
    (repository / "refs" / "main").unlink()
    assert same(repository, model)  # the only one


def test_a_link_to_a_repository_of_the_cache_is_read(repository: Path, model: UNet2DModel, tmp_path: Path) -> None:
    (tmp_path / "mine").symlink_to(repository)
    assert model_folder(tmp_path / "mine") == tmp_path / "mine" / "snapshots" / REVISION
    assert same(tmp_path / "mine", model)
    assert open_folder(tmp_path / "mine")[1].name == "google/ddpm-tiny"


@pytest.mark.parametrize(
    "name",
    [
        "https://huggingface.co/google/ddpm-tiny",
        "https://huggingface.co/google/ddpm-tiny/tree/main?x=1",
        "http://www.hf.co/google/ddpm-tiny/",
        "hf://google/ddpm-tiny@main",
        "google/ddpm-tiny@main",
        "google/ddpm-tiny:main",
    ],
)
def test_an_address_or_a_revision_says_which_name_to_give(
    name: str, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = f"{name}: no such folder; a model of the hub is given by its name, google/ddpm-tiny, "
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert refusal(lambda: load_model(name)) == (
        f"{start}which is not in the Hugging Face cache {tmp_path}, and nothing is downloaded unasked; to get it: "
        "from_pretrained('google/ddpm-tiny', download=True), --download of the commands that have it, or hf download "
        "google/ddpm-tiny"
    )
    monkeypatch.setenv("HF_HUB_CACHE", str(repository.parent))
    assert refusal(lambda: load_model(name)) == f"{start}which is in the cache"


def test_no_name_is_not_the_folder_one_is_in(
    repository: Path, model: UNet2DModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository / "snapshots" / REVISION)
    assert refusal(lambda: load_model("")) == "'': names no folder; allowed: '.' for the one you are in"
    assert same(".", model)


def test_a_model_of_the_hub_is_found_in_the_cache_by_its_name(
    repository: Path, model: UNet2DModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(repository.parent))
    assert model_folder("google/ddpm-tiny") == repository / "snapshots" / REVISION
    assert same("google/ddpm-tiny", model)
    assert open_folder("google/ddpm-tiny")[1].name == "google/ddpm-tiny"
    monkeypatch.delenv("HF_HUB_CACHE")
    monkeypatch.setenv("HF_HOME", str(repository.parent.parent))
    assert Engine.from_pretrained("google/ddpm-tiny", device="cpu").model.schedule.num_timesteps == 1000


def test_a_model_of_the_hub_that_is_not_here_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    message = refusal(lambda: load_model("google/ddpm-cifar10-32"))
    assert message == (
        f"google/ddpm-cifar10-32: no such folder, nor in the Hugging Face cache {tmp_path}, and nothing is downloaded "
        "unasked; to get it: from_pretrained('google/ddpm-cifar10-32', download=True), --download of the commands that "
        "have it, or hf download google/ddpm-cifar10-32; in the box: digits"
    )
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in ("out/mine", "digits/of-mine", "mine", "a/b/c", "../mine"):
        assert refusal(lambda name=name: load_model(name)).endswith("no such folder; in the box: digits")  # type: ignore[misc]


def test_a_link_out_of_the_repository_is_refused(repository: Path, tmp_path: Path) -> None:
    snapshot = repository / "snapshots" / REVISION
    config = snapshot / "unet" / "config.json"
    secret = tmp_path / "secret.json"
    secret.write_bytes(config.read_bytes())
    other = tmp_path / "hub" / "models--other--one" / "blobs"
    other.mkdir(parents=True)
    shutil.copy(secret, other / "0")
    for target in (secret, other / "0", repository / "refs" / "main"):
        config.unlink()
        config.symlink_to(target)
        assert f"{config}: leads out of the model folder" in refusal(lambda: load_model(snapshot))
    chained = repository / "blobs" / "f"
    chained.symlink_to(secret)
    config.unlink()
    config.symlink_to(chained)
    assert "leads out" in refusal(lambda: load_model(snapshot))
    (repository / "blobs").rename(tmp_path / "elsewhere")
    (repository / "blobs").symlink_to(tmp_path / "elsewhere")
    assert "leads out" in refusal(lambda: load_model(snapshot))


@pytest.mark.parametrize("main", [None, "../../../etc", "0" * 40, "\udcff", ""])
def test_it_is_not_guessed_which_of_two_snapshots_is_meant(repository: Path, main: str | None) -> None:
    snapshots = repository / "snapshots"
    (snapshots / "other").mkdir()
    (repository / "refs" / "main").unlink()
    if main is not None:
        (repository / "refs" / "main").write_text(main, errors="surrogateescape")
    message = refusal(lambda: load_model(repository))
    assert message.startswith(f"{snapshots}: ")
    assert message.endswith(f"allowed: one of those there: {REVISION}, other")


def test_a_snapshot_that_leads_away_is_refused(repository: Path, tmp_path: Path) -> None:
    (repository / "snapshots" / REVISION).rename(tmp_path / "away")
    (repository / "snapshots" / REVISION).symlink_to(tmp_path / "away")
    assert "leads out of" in refusal(lambda: load_model(repository))


def test_the_only_variant_is_taken_and_one_of_several_is_asked_for(model: UNet2DModel, tmp_path: Path) -> None:
    half = random_model(SMALL).to(torch.float16)
    half.save_pretrained(tmp_path, variant="fp16")
    weights, spec = open_folder(tmp_path)
    assert weights.path == tmp_path / "diffusion_pytorch_model.fp16.safetensors"
    assert "the weights are variant 'fp16', the only one in the folder" in spec.notes
    assert same(tmp_path, model, 1e-2)
    assert not same(tmp_path, model, 1e-6)

    model.save_pretrained(tmp_path, variant="ema")
    assert refusal(lambda: load_model(tmp_path)) == (
        f"{tmp_path}: holds no plain diffusion_pytorch_model.safetensors; allowed: a variant, one of 'ema', 'fp16'"
    )
    assert same(tmp_path, model, variant="ema")
    half.to(torch.float32).save_pretrained(tmp_path)
    assert open_folder(tmp_path)[0].path == tmp_path / "diffusion_pytorch_model.safetensors"
    assert open_folder(tmp_path, "ema")[0].path == tmp_path / "diffusion_pytorch_model.ema.safetensors"
    assert Engine.from_pretrained(tmp_path, device="cpu", variant="ema").dtype == torch.float32
    assert refusal(lambda: load_model(tmp_path, variant="bf16")) == (
        f"{tmp_path}: has no variant 'bf16' of diffusion_pytorch_model; there: the plain one, 'ema', 'fp16'"
    )
    assert "have no variants; got variant 'fp16'" in refusal(lambda: load_model("digits", variant="fp16"))


def test_variants_are_found_beside_anything_else(tmp_path: Path) -> None:
    for name in ("m.fp16-00001-of-00002.safetensors", "m.safetensors.index.fp16.json", "m.safetensors.tmp", "M.bin"):
        (tmp_path / name).touch()
    assert find_weights(tmp_path, "", "m").path.name == "m.safetensors.index.fp16.json"
    (tmp_path / "m.bin").touch()
    assert find_weights(tmp_path, "", "m").variant == "fp16"  # safetensors first: a pickle needs leave
    (tmp_path / "m.safetensors").touch()
    assert find_weights(tmp_path, "", "m").path.name == "m.safetensors"


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "pickles"])
@pytest.mark.parametrize("variant", [None, "fp16"])
def test_shards_are_read_by_their_index(safe: bool, variant: str | None, model: UNet2DModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path, max_shard_size="40KB", safe_serialization=safe, variant=variant)
    assert len(list(tmp_path.glob("*-of-*"))) > 2
    assert same(tmp_path, model, allow_pickle=not safe, variant=variant)
    if not safe:
        assert "is a pickle, which may run code when read" in refusal(lambda: load_model(tmp_path, variant=variant))


@pytest.fixture
def sharded(model: UNet2DModel, tmp_path: Path) -> Path:
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    return tmp_path / "diffusion_pytorch_model.safetensors.index.json"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../outside.safetensors", "allowed: a .safetensors beside the index"),
        ("/etc/passwd", "allowed: a .safetensors beside the index"),
        ("a\\b.safetensors", "allowed: a .safetensors beside the index"),
        ("other.bin", "allowed: a .safetensors beside the index"),
        ("missing.safetensors", "missing.safetensors: cannot be read: no such file"),
        (7, "got 7; allowed: a text"),
    ],
    ids=str,
)
def test_an_index_that_lies_is_refused(sharded: Path, name: Any, reason: str) -> None:
    index = read_json(sharded)
    index["weight_map"]["conv_in.weight"] = name
    sharded.write_text(json.dumps(index))
    assert reason in refusal(lambda: load_model(sharded.parent))


def test_an_index_lists_what_its_files_hold(sharded: Path) -> None:
    index = read_json(sharded)
    files = index["weight_map"]
    first, second = sorted(set(files.values()))[:2]
    files["conv_in.weight"] = second if files["conv_in.weight"] == first else first
    sharded.write_text(json.dumps(index))
    assert "lists tensor 'conv_in.weight' in" in refusal(lambda: load_model(sharded.parent))
    del files["conv_in.weight"]
    sharded.write_text(json.dumps(index))
    assert "does not list tensor 'conv_in.weight' in" in refusal(lambda: load_model(sharded.parent))
    sharded.write_text(json.dumps({"metadata": {}}))
    assert f"{sharded}: weight_map: is missing" in refusal(lambda: load_model(sharded.parent))
    index["weight_map"] = {f"{i}": f"{i}.safetensors" for i in range(1001)}
    sharded.write_text(json.dumps(index))
    assert "names 1,001 files; allowed: at most 1,000" in refusal(lambda: load_model(sharded.parent))


def test_averaged_weights_are_read_with_what_their_config_says_beside(model: UNet2DModel, tmp_path: Path) -> None:
    average = EMAModel(model.parameters(), model_cls=UNet2DModel, model_config=model.config, use_ema_warmup=True)
    average.step(model.parameters())
    average.save_pretrained(tmp_path / "unet_ema")
    assert {"decay", "inv_gamma", "optimization_step"} <= set(read_json(tmp_path / "unet_ema" / "config.json"))
    assert same(tmp_path / "unet_ema", model)


def test_a_pipeline_may_have_its_parts_at_the_top(model: UNet2DModel, tmp_path: Path) -> None:
    """As google/ddpm-cifar10-32 has, whose config is of diffusers 0.1 and leaves most fields away."""
    DDPMPipeline(model, DDPMScheduler(variance_type="fixed_large")).save_pretrained(tmp_path)
    for part in ("unet", "scheduler"):
        for file in (tmp_path / part).iterdir():
            file.rename(tmp_path / file.name)
        (tmp_path / part).rmdir()
    assert same(tmp_path, model)
    scheduler = tmp_path / "scheduler_config.json"
    said = read_json(scheduler)
    kept = ("_class_name", "beta_end", "beta_schedule", "beta_start", "clip_sample", "num_train_timesteps")
    scheduler.write_text(json.dumps({name: said[name] for name in (*kept, "trained_betas", "variance_type")}))
    _, spec = open_folder(tmp_path)
    assert spec.plan == {"sampler": "ddpm", "variance": "fixed_large", "steps": 1000, "spacing": "leading", "clip": 1.0}


def test_infinity_in_a_scheduler_is_no_fault_of_the_file(model: UNet2DModel, tmp_path: Path) -> None:
    """diffusers writes lambda_min_clipped -Infinity, which is no JSON; so do others for bounds that are none."""
    DDPMPipeline(model, DPMSolverMultistepScheduler(beta_end=0.01)).save_pretrained(tmp_path)
    file = tmp_path / "scheduler" / "scheduler_config.json"
    assert "-Infinity" in file.read_text()
    _, spec = load_model(tmp_path)
    assert (spec.plan["sampler"], spec.plan["steps"]) == ("dpmpp_2m", 50)
    engine = Engine.from_pretrained(tmp_path, device="cpu", defaults={"sampler": "ddim", "steps": 5})
    assert engine.model.schedule.to_config()["beta_end"] == 0.01
    assert len(engine.plan()) == 5
    DDIMScheduler().save_pretrained(tmp_path / "scheduler")
    for bound in ("Infinity", "NaN"):
        said = json.loads(file.read_text()) | {"beta_end": float(bound), "other": float(bound)}
        file.write_text(json.dumps(said))
        assert f"{file}: beta_end: got {float(bound)}; allowed: a number from 0 to 1" in refusal(
            lambda: load_model(tmp_path)
        )


def test_a_variant_is_a_text(tmp_path: Path, model: UNet2DModel) -> None:
    model.save_pretrained(tmp_path)
    with pytest.raises(ArgumentError, match="variant: got 16; allowed: a text such as 'fp16', or None"):
        load_model(tmp_path, variant=16)  # type: ignore[arg-type]
