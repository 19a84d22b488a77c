"""Models in the box: a name and a number of steps stand for a folder, and what is in the box is what its cards say."""

import json
import re
import runpy
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from fewstep import Engine
from fewstep.cli import main
from fewstep.errors import ModelError
from fewstep.evaluate.features import BUNDLED as CLASSIFIER
from fewstep.evaluate.features import load_classifier, look
from fewstep.models import bundled, count_parameters
from fewstep.models.bundled import BUNDLED, model_folder, names
from fewstep.models.load import load_model, save_model
from support.tree import ROOT

STUDENTS = (1, 2, 4, 8)


def box(folder: Path, **trained: list[int] | None) -> Path:
    """Specs without weights: enough to choose by."""
    for name, steps in trained.items():
        member = folder / "shapes" / name
        member.mkdir(parents=True)
        about = None if steps is None else {"sampler": "ddim", "steps": steps}
        (member / "fewstep.json").write_text(json.dumps({"trained": about}))
    return folder


@pytest.fixture
def shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = box(tmp_path / "box", few=[2], some=[4, 5], many=[8], teacher=None)
    monkeypatch.setattr(bundled, "BUNDLED", folder)
    return folder / "shapes"


@pytest.mark.parametrize(
    ("steps", "member"),
    [
        (2, "few"),
        (4, "some"),
        (5, "some"),
        (8, "many"),
        (1, "few"),
        (3, "some"),
        (6, "many"),
        (9, "teacher"),
        (50, "teacher"),
    ],
)
def test_the_student_for_as_many_steps_is_picked_then_the_next_larger_then_the_teacher(
    shapes: Path, steps: int, member: str
) -> None:
    assert model_folder("shapes", steps) == shapes / member


def test_without_steps_four_are_meant(shapes: Path) -> None:
    assert model_folder("shapes") == shapes / "some"


def test_a_member_can_be_named(shapes: Path) -> None:
    assert model_folder("shapes/teacher", 2) == shapes / "teacher"
    assert names() == ["shapes", "shapes/few", "shapes/many", "shapes/some", "shapes/teacher"]


def test_a_folder_comes_before_a_name(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shapes").mkdir()
    monkeypatch.chdir(tmp_path)
    assert model_folder("shapes", 2) == Path("shapes")


@pytest.mark.parametrize("name", ["shape", "../box/shapes", "shapes/none", "shapes/few/../teacher"])
def test_what_is_not_in_the_box_is_refused_with_what_is(shapes: Path, name: str) -> None:
    with pytest.raises(ModelError, match=r"no such folder; in the box: shapes$"):
        Engine.from_pretrained(name)


@pytest.mark.parametrize("steps", STUDENTS)
def test_the_digits_have_a_student_for_each_number_of_steps(steps: int) -> None:
    engine = Engine.from_pretrained("digits", steps, device="cpu")
    assert engine.model.name == f"digits/{steps}-step"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        samples = engine.sample(labels=[3, 7], seeds=0)
    assert samples.model_calls == steps
    assert samples.images.shape == (2, 1, 32, 32)


def test_the_digits_teacher_takes_what_no_student_does() -> None:
    engine = Engine.from_pretrained("digits", 50, device="cpu")
    assert (engine.model.name, engine.model.trained) == ("digits/teacher", None)


def test_the_box_is_small_and_its_networks_are() -> None:
    total = sum(path.stat().st_size for path in bundled.BUNDLED.rglob("*") if path.is_file())
    unet = Engine.from_pretrained("digits/1-step", device="cpu").module
    work: list[int] = []
    for module in unet.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_hook(lambda m, _, out: work.append(2 * m.weight[0].numel() * out.numel()))
    with torch.no_grad():
        unet(torch.zeros(1, 1, 32, 32), torch.zeros(1), torch.tensor([3]), guidance=torch.ones(1))
    print(f"{total / 1e6:.1f} MB, {count_parameters(unet):,} parameters, {sum(work) / 1e9:.3f} GFLOP")
    assert total <= 24e6
    assert sum(work) <= 0.15e9


@pytest.mark.parametrize("member", ["teacher", *(f"{steps}-step" for steps in STUDENTS)])
def test_every_card_says_what_the_model_is_of_how_it_was_made_and_what_it_scores(member: str) -> None:
    spec = json.loads((bundled.BUNDLED / "digits" / member / "fewstep.json").read_text())
    verb = "train" if member == "teacher" else "distill"
    assert spec["source"].startswith(f"fewstep {verb} ")
    assert not any(word.startswith(("/", "..")) for word in spec["source"].split())
    assert spec["licence"].startswith("MIT")
    notes = "\n".join(spec["notes"])
    for pattern in (r"^data: digits, 8,000 images", r"^time: [\d.]+ minutes", r"^scores: .*Frechet distance [\d.]+"):
        assert re.search(pattern, notes, re.M), (member, pattern)


@pytest.mark.slow
def test_guidance_takes_digits_apart_unless_eps_knows_of_the_clip() -> None:
    """diffusers' DDIM keeps the eps from before the clip; see docs/training.md."""
    engine = Engine.from_pretrained("digits/teacher", device="cpu", max_batch=200)
    classifier, labels = load_classifier(CLASSIFIER), [index % 10 for index in range(30)]
    accuracy = {}
    for clipped_direction in (False, True):
        plan = engine.plan(16, guidance_scale=3.0, clipped_direction=clipped_direction)
        images = torch.from_numpy(engine.sample(labels=labels, seeds=0, plan=plan).numpy()).permute(0, 3, 1, 2)
        seen = look(classifier, images.float() / 127.5 - 1).classes
        accuracy[clipped_direction] = float((seen == torch.tensor(labels)).float().mean())
    print(accuracy)
    assert accuracy[False] < 0.7 < 0.97 < accuracy[True]


def test_generate_picks_the_student_by_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.png"
    assert main(["generate", "digits", "--labels", "3", "--steps", "1", "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model_calls"] == 1


def test_a_bundled_model_is_half_as_large_and_has_its_scores_on_its_card(
    tmp_path: Path,
) -> None:
    source = tmp_path / "made" / "1-step"
    unet, spec = load_model("digits/1-step")
    save_model(source, unet, replace(spec, notes=("time: 1.0 minutes", "scores: of an earlier bundle")))
    row = {"sampler": "ddim", "steps": 1, "frechet": 4.2, "accuracy": 0.5}
    result = {"settings": {"n": 10, "seed": 3, "guidance_scale": 1.5}, "real": {"frechet": 2.0}, "rows": [row]}
    (source / "evaluate").mkdir()
    (source / "evaluate/evaluate.json").write_text(json.dumps(result))
    tool = runpy.run_path(str(ROOT / "tools/bundle.py"))
    tool["bundle"](source, tmp_path / "box" / "shapes" / "1-step")
    made, card = load_model(tmp_path / "box" / "shapes" / "1-step")
    assert card.name == "shapes/1-step"
    assert card.notes == (
        "time: 1.0 minutes",
        "scores: ddim, 1 step, guidance 1.5: Frechet distance 4.20 (2.10 of real digits'), class accuracy 50.00 %, "
        "on 10 samples, seeds from 3",
    )
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (source, tmp_path / "box/shapes/1-step")]
    assert 0.49 < sizes[1] / sizes[0] < 0.52
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), unet.parameters(), strict=True))


@pytest.mark.slow
def test_the_demo_draws_a_strip_for_each_number_of_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo = runpy.run_path(str(ROOT / "examples/few_steps.py"))
    demo["main"].__globals__.update(ROWS=1)
    demo["main"](tmp_path / "out/digits.png")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[:5]] == [
        "1 step", "2 steps", "4 steps", "8 steps", "50 steps, teacher",
    ]  # fmt: skip
    assert all(line.endswith(" ms an image on torch") for line in lines[:5])
    with Image.open(tmp_path / "out/digits.png") as sheet:
        assert sheet.size == (790, 344)
        strips = [sheet.crop((150, 70 * place, 790, 70 * place + 64)).tobytes() for place in range(5)]
    assert len(set(strips)) == 5

    demo["main"].__globals__.update(TEACHER_STEPS=1)
    demo["main"](tmp_path / "own.png", BUNDLED / "digits", BUNDLED / "digits/teacher")
    with Image.open(tmp_path / "own.png") as sheet:
        again = [sheet.crop((150, 70 * place, 790, 70 * place + 64)).tobytes() for place in range(5)]
    assert again[:4] == strips[:4]


def test_the_demo_names_the_backend_and_tells_torchs_time_beside_another() -> None:
    demo = runpy.run_path(str(ROOT / "examples/few_steps.py"))
    took, torchs = demo["Took"]("openvino", 0.553, 3.12), demo["Took"]("torch", 14.2, 0.1)
    assert demo["told"]("1 step", torchs, None) == "1 step             14 ms an image on torch"
    assert demo["told"]("1 step", took, torchs) == (
        "1 step             0.55 ms an image on openvino, 14 on torch; the first 20 after 3.1 s"
    )
