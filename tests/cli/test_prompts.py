"""`fewstep generate --prompt`: from the folder of a pipeline to pictures, and what does not belong to it."""

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fewstep import Engine
from fewstep.cli.words import load_loras
from fewstep.errors import FewstepError, ModelError
from fewstep.pipelines.folder import load_pipeline, text_pipeline
from fewstep.results import read_parameters
from support.cli_case import Run
from support.pipelines_case import SIZE, picture, saved


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved("xl text to image", tmp_path_factory.mktemp("pipelines") / "small-xl")


@pytest.fixture(scope="module")
def consistent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved("latent consistency", tmp_path_factory.mktemp("pipelines") / "small-lcm")


@pytest.mark.slow
def test_texts_become_pictures_that_tell_how_to_make_them_again(run: Run, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    prompts = ["--prompt", "a red fox, snow", "--prompt", "cats", "--negative-prompt", "dark"]
    ran = run("generate", folder, *prompts, "--steps", 2, "--seed", 3, "-o", out)
    assert ran.code == 0, ran.err
    single = read_parameters(tmp_path / "out-000.png")
    assert (single["prompt"], single["negative_prompt"], single["steps"]) == ("a red fox, snow", "dark", "2")
    assert single["guidance_scale"] == "5"
    assert json.loads(read_parameters(out)["prompts"]) == ["a red fox, snow", "cats"]
    for made in (out, tmp_path / "out-001.png"):
        again = shlex.split(json.loads(run("info", made, "--json").out)["again"])
        copy = tmp_path / "again.png"
        assert run(*again[1:], "-o", copy).code == 0
        assert copy.read_bytes() == made.read_bytes() or read_parameters(copy)["model"] == str(folder)
        apart = np.frombuffer(_pixels(copy), np.uint8).astype(int) - np.frombuffer(_pixels(made), np.uint8)
        if made == out:
            assert not apart.any()
        else:  # alone, a picture is rounded as a batch of one is
            assert np.abs(apart).max() <= 1
            assert np.count_nonzero(apart) < apart.size / 100


def test_the_engine_draws_what_the_command_draws(run: Run, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.npy"
    size = ["--height", 24, "--width", 40]
    ran = run("generate", folder, "--prompt", "a", "--n", 2, "--seed", 0, "--steps", 1, *size, "-o", out, "--json")
    assert ran.code == 0, ran.err
    answer = json.loads(ran.out)
    assert [each["prompt"] for each in answer["images"]] == ["a", "a"]
    assert (answer["shape"], answer["height"], answer["width"]) == ([3, 24, 40], 24, 40)
    engine = Engine.from_pipeline(load_pipeline(folder), height=24, width=40)
    expected = engine.sample(2, prompt="a", seeds=0, steps=1).numpy()
    assert answer["out"] == str(out)
    assert expected.shape == (2, 24, 40, 3)


def test_a_picture_may_be_where_it_starts(run: Run, consistent: Path, tmp_path: Path) -> None:
    start = tmp_path / "start.png"
    picture().save(start)
    arguments = ["--prompt", "a", "--steps", 2, "--image", start, "--strength", 0.5, "-o", tmp_path / "out.png"]
    ran = run("generate", consistent, *arguments)
    assert ran.code == 0, ran.err
    assert "lcm, 2 steps" in ran.out
    assert read_parameters(tmp_path / "out.png")["guidance_scale"] == "8.5"


@pytest.mark.slow
def test_a_controlnet_draws_after_a_picture(run: Run, folder: Path, tmp_path: Path) -> None:
    edges, out = tmp_path / "edges.png", tmp_path / "out.npy"
    picture().save(edges)
    controlled = saved("controlnet", tmp_path / "small-control")
    said = ["--prompt", "a", "--steps", 1, "--seed", 0]
    ran = run("generate", controlled, *said, "--control-image", edges, "--control-scale", 0.5, "-o", out, "--json")
    assert ran.code == 0, ran.err
    engine = Engine.from_pipeline(load_pipeline(controlled))
    expected = engine.sample(prompt="a", seeds=0, steps=1, control_image=picture(), control_scale=0.5).images
    assert np.allclose(np.load(out), expected, atol=1e-5)
    ran = run("generate", controlled, *said, "--control-image", edges, "--control-scale", 0.5, "-o", tmp_path / "o.png")
    again = json.loads(run("info", tmp_path / "o.png", "--json").out)["again"]
    assert f"--control-image {edges} --control-scale 0.5" in again
    assert "--control-image: got None; allowed: a picture: this model has" in run("generate", controlled, *said).err
    ran = run("generate", folder, *said, "--control-image", edges)
    assert ran.err.count(f"--control-image: got '{edges}'; allowed: nothing: this model has no ControlNet") == 1
    assert ran.code == 2


def test_what_the_folder_is_is_told(run: Run, folder: Path) -> None:
    told = json.loads(run("info", folder, "--json").out)
    assert told["pipeline"] == f"StableDiffusionXLPipeline; fewstep generate {folder} --prompt 'a red fox'"
    assert text_pipeline(folder) == "StableDiffusionXLPipeline"
    assert text_pipeline(folder / "unet") is None


def test_a_lora_has_its_weight_behind_a_colon(folder: Path, tmp_path: Path) -> None:
    engine = Engine.from_pipeline(load_pipeline(folder), decoder=None)
    name = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    rows = engine.module.state_dict()["down.1.stages.0.transformer.blocks.0.attention.qkv.weight"].shape
    down, up = torch.ones(2, rows[1]), torch.ones(rows[0] // 3, 2)
    for file in ("one.safetensors", "two.safetensors"):
        save_file({f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}, tmp_path / file)
    load_loras(engine, [f"{tmp_path / 'one.safetensors'}:0.5", str(tmp_path / "two.safetensors")])
    assert engine.loras == {"one": 0.5, "two": 1.0}


WRONG: dict[str, tuple[list[Any], str]] = {
    "labels": (["--labels", 3], "labels: got '3'; allowed: nothing: this model reads a text, by --prompt"),
    "no prompt": ([], "prompt: got None; allowed: a text"),
    "more prompts than samples": (
        ["--prompt", "a", "--prompt", "b", "--n", 3],
        "prompt: got 2 values; allowed: one for all, or one for each of 3 samples",
    ),
    "a negative prompt that nobody reads": (
        ["--prompt", "a", "--negative-prompt", "b", "--guidance-scale", 1],
        "--negative-prompt: got 'b'; allowed: nothing where no sample is guided",
    ),
    "no such LoRA": (["--prompt", "a", "--lora", "no.safetensors:2"], "lora: got 'no.safetensors:2'; allowed: a .safe"),
    "an odd size": (["--prompt", "a", "--width", 33], "width: got 33; allowed: a multiple of 2"),
    "no such variant": (["--prompt", "a", "--variant", "fp16"], "unet: has no variant 'fp16'"),
}


@pytest.mark.parametrize(("arguments", "message"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_drawn_is_one_line(
    run: Run, folder: Path, tmp_path: Path, arguments: list[Any], message: str
) -> None:
    ran = run("generate", folder, *arguments, "-o", tmp_path / "out.png")
    assert ran.code == 2
    assert message in ran.err
    assert ran.err.startswith("error: ")
    assert ran.err.count("\n") == 1
    assert not (tmp_path / "out.png").exists()


def test_other_models_read_no_prompts(run: Run, colours: Path) -> None:
    assert "prompt: got a fox; allowed: nothing: this model reads" in run("generate", colours, "--prompt", "a fox").err
    assert "height: got 8; allowed: nothing: only a pipeline" in run("generate", colours, "--height", 8).err


def test_a_prompt_of_several_lines_is_recorded_as_it_is(folder: Path, tmp_path: Path) -> None:
    prompt = "a red fox,\nits tail \U0001f98a"
    engine = Engine.from_pipeline(load_pipeline(folder))
    (path,) = engine.sample(prompt=prompt, steps=1, seeds=0).save(tmp_path / "out.png")
    assert read_parameters(path)["prompt"] == prompt


def test_a_folder_of_fewsteps_own_says_what_it_left_out(run: Run, folder: Path, tmp_path: Path) -> None:
    ran = run("convert", folder, "--out", tmp_path / "own")
    assert f"all but the U-Net: {folder} still reads prompts" in ran.out


def changed(folder: Path, copy: Path, **parts: Any) -> Path:
    """A folder with another model_index.json, beside links to the parts of the first."""
    copy.mkdir()
    for part in folder.iterdir():
        if part.is_dir() and part.name not in parts:
            (copy / part.name).symlink_to(part)
    index = json.loads((folder / "model_index.json").read_text()) | parts
    (copy / "model_index.json").write_text(json.dumps(index))
    return copy


DAMAGED: dict[str, tuple[dict[str, Any], str]] = {
    "no text encoder": ({"text_encoder": [None, None], "text_encoder_2": [None, None]}, "has no text encoder"),
    "a folder that is not there": ({"text_encoder": ["transformers", "CLIPTextModel"]}, "has no folder text_encoder"),
    "a class of another library": ({"text_encoder": ["os", "system"]}, "text_encoder: got .*'os', 'system'"),
    "another class": ({"vae": ["diffusers", "AutoencoderDC"]}, "vae: got .*supported: diffusers' AutoencoderKL"),
    "a part that is not run": ({"controlnet": ["diffusers", "ControlNetModel"]}, "controlnet: got .* does not run"),
}


@pytest.mark.parametrize(("parts", "message"), DAMAGED.values(), ids=DAMAGED)
def test_a_folder_that_cannot_be_read_is_told_by_its_part(
    folder: Path, tmp_path: Path, parts: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        load_pipeline(changed(folder, tmp_path / "changed", **parts))


@pytest.mark.parametrize(
    ("file", "more", "message"),
    [
        ("unet/diffusion_pytorch_model", False, r"unet: 1 tensors are missing: conv_out.weight"),
        ("vae/diffusion_pytorch_model", True, r"vae: 1 tensors have no place in it: another"),
        ("text_encoder/model", False, r"text_encoder: 1 tensors are missing: .*position_embedding.weight"),
    ],
    ids=["a missing tensor", "an unknown tensor", "a text encoder that would be random"],
)
def test_tensors_are_those_of_the_parts(folder: Path, tmp_path: Path, file: str, more: bool, message: str) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    path = (copy / file).with_suffix(".safetensors")
    tensors = load_file(path)
    if more:
        tensors["another"] = torch.zeros(1)
    else:
        del tensors[max(name for name in tensors if name.endswith(("conv_out.weight", "position_embedding.weight")))]
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(ModelError, match=message):
        load_pipeline(copy)


def test_a_missing_library_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(FewstepError, match=r"read by diffusers and transformers: pip install 'fewstep\[pipelines\]'"):
        load_pipeline(folder)


def _pixels(path: Path) -> bytes:
    from PIL import Image

    with Image.open(path) as opened:
        assert opened.size[1] == SIZE
        return opened.tobytes()
