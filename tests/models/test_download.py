"""Models of the Hugging Face hub, from a folder that stands for the hub: only what is read, and only when asked for."""

import fnmatch
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from diffusers import DDIMScheduler
from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError

from fewstep import Engine, Model
from fewstep.cli import main
from fewstep.models.download import fetch
from fewstep.models.load import open_folder
from support.conditional_configs import REDUCED, random_unet
from support.loading_case import refusal

REVISION = "0123456789abcdef0123456789abcdef01234567"
NAME = "someone/tiny-sd"


class Hub:
    """Stands for the hub: a folder for each model, and what was asked of it."""

    def __init__(self, remote: Path, cache: Path) -> None:
        self.remote, self.cache = remote, cache
        self.asked: list[str] = []
        self.downloaded: list[str] = []
        self.fails: Exception | None = None

    def files(self, name: str) -> list[str]:
        folder = self.remote / name
        return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())

    def list_repo_files(self, name: str, **_: Any) -> list[str]:
        self.asked.append(name)
        if self.fails is not None:
            raise self.fails
        return self.files(name)

    def snapshot_download(self, name: str, *, allow_patterns: list[str], cache_dir: Path) -> str:
        """As the hub's own: blobs under their names, links to them, and what main is."""
        assert cache_dir == self.cache
        repository = self.cache / f"models--{name.replace('/', '--')}"
        for folder in ("blobs", "refs", f"snapshots/{REVISION}"):
            (repository / folder).mkdir(parents=True, exist_ok=True)
        (repository / "refs" / "main").write_text(REVISION)
        for number, file in enumerate(self.files(name)):
            link = repository / "snapshots" / REVISION / file
            if any(fnmatch.fnmatch(file, pattern) for pattern in allow_patterns) and not link.exists():
                blob = repository / "blobs" / f"{number:040x}"
                shutil.copy(self.remote / name / file, blob)
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(Path(*[".."] * (len(Path(file).parts) + 1)) / "blobs" / blob.name)
                self.downloaded.append(file)
        return str(repository / "snapshots" / REVISION)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipeline")
    unet = random_unet(REDUCED["sd1"])
    unet.save_pretrained(folder / "unet")
    unet.to(torch.float16).save_pretrained(folder / "unet", variant="fp16", max_shard_size="500KB")
    DDIMScheduler(beta_schedule="scaled_linear").save_pretrained(folder / "scheduler")  # type: ignore[no-untyped-call]
    parts = {"unet": ["diffusers", "UNet2DConditionModel"], "scheduler": ["diffusers", "DDIMScheduler"]}
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline", **parts}))
    for other in ("text_encoder/model.safetensors", "vae/diffusion_pytorch_model.safetensors", "README.md", "sd.ckpt"):
        (folder / other).parent.mkdir(exist_ok=True)
        (folder / other).write_bytes(b"not asked for")
    return folder


@pytest.fixture
def hub(pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub(tmp_path / "remote", tmp_path / "cache")
    shutil.copytree(pipeline, hub.remote / NAME)
    monkeypatch.setenv("HF_HUB_CACHE", str(hub.cache))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    monkeypatch.chdir(tmp_path)
    return hub


def test_nothing_is_downloaded_unasked(hub: Hub) -> None:
    assert "nothing is downloaded unasked; to get it: from_pretrained('someone/tiny-sd', download=True)" in refusal(
        lambda: Model.from_pretrained(NAME)
    )
    assert hub.asked == []


def test_what_is_read_is_downloaded_once(hub: Hub) -> None:
    model = Model.from_pretrained(NAME, download=True)
    assert model.name == NAME
    config = ["model_index.json", "scheduler/scheduler_config.json", "unet/config.json"]
    assert sorted(hub.downloaded) == [*config, "unet/diffusion_pytorch_model.safetensors"]
    assert Engine.from_pretrained(NAME, device="cpu", download=True).model.name == NAME
    assert len(hub.downloaded) == 4
    assert Model.from_pretrained(NAME).name == NAME  # from the cache, and no one is asked
    assert len(hub.asked) == 2


def test_a_variant_is_downloaded_with_its_shards_alone(hub: Hub) -> None:
    Model.from_pretrained(NAME, download=True, variant="fp16", dtype=torch.float16)
    weights = [name.rpartition("/")[2] for name in hub.downloaded if "diffusion_pytorch_model" in name]
    assert len(weights) > 2
    assert all("fp16" in name for name in weights)
    assert "has no variant 'bf16' of diffusion_pytorch_model; there: the plain one, 'fp16'" in refusal(
        lambda: fetch(NAME, "bf16")
    )


def test_a_whole_pipeline_has_what_reads_prompts_too(hub: Hub) -> None:
    folder = hub.remote / NAME
    for file in ("tokenizer/vocab.json", "tokenizer/merges.txt", "text_encoder/config.json", "vae/config.json"):
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text("{}")
    for file in (
        "safety_checker/model.safetensors",
        "vae/diffusion_pytorch_model.fp16.safetensors",
        "vae/flax.msgpack",
    ):
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_bytes(b"large")
    fetch(NAME, "fp16", whole=True)
    assert sorted(name for name in hub.downloaded if not name.startswith(("unet/", "scheduler/"))) == [
        "model_index.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",  # the plain one, where there is no other
        "tokenizer/merges.txt",
        "tokenizer/vocab.json",
        "vae/config.json",
        "vae/diffusion_pytorch_model.fp16.safetensors",
    ]


def test_folders_files_and_the_box_are_not_asked_for(hub: Hub) -> None:
    (hub.remote.parent / "someone" / "here").mkdir(parents=True)
    for name in ("digits", "someone/here", "digits/teacher", "no-folder", "a/b/c", "../up"):
        fetch(name)
    assert hub.asked == []
    assert "is no name of a model on the hub; allowed: someone/tiny-sd" in refusal(
        lambda: fetch(f"https://huggingface.co/{NAME}")
    )


def test_a_file_of_a_model_is_one_by_itself(hub: Hub) -> None:
    folder = hub.remote / "someone" / "files"
    (folder / "sub").mkdir(parents=True)
    from safetensors.torch import save_file

    unet = random_unet({**REDUCED["sd1"], "cross_attention_dim": 768})
    for file in ("lightning_4step_unet.safetensors", "sub/other.safetensors"):
        save_file(unet.state_dict(), folder / file)
    message = refusal(lambda: fetch("someone/files"))
    assert message == (
        "someone/files: holds no model on the hub; expected fewstep.json, model_index.json or config.json; a file of "
        "it may be one by itself: 'someone/files/lightning_4step_unet.safetensors', 'someone/files/sub/other.safete"
        "nsors'"
    )
    name = "someone/files/sub/other.safetensors"
    model = Model.from_pretrained(name, download=True)
    assert hub.downloaded == ["sub/other.safetensors"]
    assert (model.name, model.shape) == ("other", (4, 64, 64))
    assert open_folder(name)[1].name == "other"
    assert "someone/files: has no more.safetensors on the hub; there: 'lightning_4step" in refusal(
        lambda: fetch("someone/files/more.safetensors")
    )
    file = next((hub.cache / "models--someone--files" / "snapshots" / REVISION / "sub").iterdir())
    file.unlink()
    file.symlink_to(folder / "sub" / "other.safetensors")
    assert "leads out of the repository" in refusal(lambda: open_folder(name))


def test_pickles_alone_are_refused_before_they_are_downloaded(hub: Hub) -> None:
    for path in (hub.remote / NAME / "unet").glob("*model*"):
        path.unlink()
    (hub.remote / NAME / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"pickle")
    assert refusal(lambda: fetch(NAME)) == (
        f"{NAME}: has its weights as a pickle, unet/diffusion_pytorch_model.bin; allowed: .safetensors, or allow_pickle"
    )
    assert hub.downloaded == []
    fetch(NAME, allow_pickle=True)
    assert "unet/diffusion_pytorch_model.bin" in hub.downloaded
    (hub.remote / NAME / "unet" / "diffusion_pytorch_model.bin").unlink()
    assert "has no unet/model.safetensors on the hub; there: 'README.md'" in refusal(lambda: fetch(NAME))


def answer(kind: type[Exception]) -> Exception:
    """What the hub's library raises for an answer of the hub."""
    made = kind.__new__(kind)
    made.args = ("404 Client Error",)
    return made


FAILURES: dict[str, tuple[Callable[[], Exception], str]] = {
    "offline": (lambda: OfflineModeIsEnabled("offline"), "HF_HUB_OFFLINE is set, and it is not in the cache"),
    "no network": (lambda: OSError(101, "Network is unreachable"), "Network is unreachable"),
    "unknown": (lambda: answer(RepositoryNotFoundError), "the hub has no such model, or it is private"),
    "consent": (lambda: answer(GatedRepoError), f"its owner asks for consent, at https://huggingface.co/{NAME}, and"),
}


@pytest.mark.parametrize(("failure", "said"), FAILURES.values(), ids=FAILURES)
def test_what_goes_wrong_is_said_in_a_line(failure: Callable[[], Exception], said: str, hub: Hub) -> None:
    hub.fails = failure()
    assert refusal(lambda: Model.from_pretrained(NAME, download=True)).startswith(
        f"{NAME}: cannot be downloaded: {said}"
    )


def test_offline_the_cache_has_to_do(hub: Hub) -> None:
    fetch(NAME)
    hub.fails = OfflineModeIsEnabled("offline")
    assert Model.from_pretrained(NAME, download=True).name == NAME


def test_without_the_hubs_library_it_says_what_to_install(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert refusal(lambda: fetch(NAME)) == f"{NAME}: downloading needs the hub's library: pip install 'fewstep[hub]'"


def test_the_commands_download_when_asked(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", NAME]) == 2
    assert "--download" in capsys.readouterr().err
    assert main(["info", NAME, "--download", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == NAME
    assert main(["convert", NAME, "--download", "--out", "ours"]) == 0
    assert open_folder(hub.remote.parent / "ours")[1].name == NAME
