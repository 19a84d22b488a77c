"""Folders of pictures: what is read, what is refused because it can mean two things, and what is left out by name."""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import fewstep
from fewstep.cli import main
from fewstep.errors import ArgumentError
from fewstep.models.load import load_model, open_folder
from fewstep.train import DistillConfig, Listeners, TrainConfig, distill, train
from fewstep.train.data import Dataset, load_data
from support.train_case import SETTINGS

KINDS = ("circle", "red, round", "7")  # one with a comma, one that looks like a number
SHADES = {name: 60 * index for index, name in enumerate(sorted(KINDS))}


def picture(path: Path, colour: Any = 128, mode: str = "L", **how: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (8, 8), colour).save(path, **how)
    return path


def classes(folder: Path, count: int = 4, kinds: Sequence[str] = KINDS) -> Path:
    """Some pictures of each class, every second one a JPEG."""
    for index, name in enumerate(sorted(kinds)):
        for number in range(count):
            picture(folder / name / f"{number}.{('png', 'jpg')[number % 2]}", 60 * index + number)
    return folder


def refused(folder: Path) -> str:
    with pytest.raises(ArgumentError) as caught:
        load_data(str(folder))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_subfolders_are_classes_by_their_names(tmp_path: Path) -> None:
    data = load_data(str(classes(tmp_path)))
    assert data.names == ("7", "circle", "red, round")
    assert data.summary() == "12 images, 3 classes: 7 (4), circle (4), red, round (4)"
    assert data.left_out == ()
    assert data.labels is not None
    assert data.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_png_jpeg_and_webp_are_read_whatever_the_case_of_their_names(tmp_path: Path) -> None:
    for index, name in enumerate(["a.PNG", "b.JPG", "c.jpeg", "d.WebP"]):
        picture(tmp_path / name, 40 * index, quality=95)
    picture(tmp_path / "e.png", 160, format="JPEG")  # another's suffix
    data = load_data(str(tmp_path))
    assert [round(each / 40) for each in data.images[:, 0, 4, 4].tolist()] == [0, 1, 2, 3, 4]
    assert data.summary() == "5 images, no classes"


def test_pictures_beside_folders_of_pictures_are_refused(tmp_path: Path) -> None:
    for name in ("cat/a.png", "dog/b.jpg", "stray.webp"):
        picture(tmp_path / name)
    said = "pictures beside folders of pictures: stray.webp and cat/a.png; allowed: pictures in it, or in its sub"
    assert said in refused(tmp_path)
    (tmp_path / "stray.webp").unlink()
    assert load_data(str(tmp_path)).names == ("cat", "dog")


@pytest.mark.parametrize("names", [("a/b/x.png", "c/y.png"), ("a/y.png", "a/b/c/x.jpg"), ("a/b/x.png",)])
def test_pictures_two_folders_down_are_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        picture(tmp_path / name)
    said = refused(tmp_path)
    assert "a picture two folders down; allowed: pictures in it, or in its subfolders, one a class" in said
    assert said.endswith(f"not deeper; {tmp_path / 'a'} may be such a folder")


def test_pictures_above_a_deep_one_are_refused_too(tmp_path: Path) -> None:
    picture(tmp_path / "x.png")
    picture(tmp_path / "a" / "b" / "y.png")
    assert "pictures beside folders of pictures: x.png and a/b/y.png" in refused(tmp_path)


def test_what_is_not_read_is_named_and_counted(tmp_path: Path) -> None:
    classes(tmp_path, 2)
    for name in ("circle/anim.gif", "circle/old.BMP", "7/scan.tiff", "7/phone.heic", "labels.csv", "7/readme.txt"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    data = load_data(str(tmp_path))
    assert data.names == tuple(sorted(KINDS))
    assert data.left_out == (
        "left out: 6 files not named PNG, JPEG or WebP: "
        "labels.csv, 7/phone.heic, 7/readme.txt, 7/scan.tiff, circle/anim.gif and 1 more",
        "left out: 1 folder without pictures: empty",
    )
    assert data.about()["left_out"] == list(data.left_out)


def test_what_systems_leave_behind_is_passed_over_quietly(tmp_path: Path) -> None:
    classes(tmp_path, 2)
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "circle/._0.png", "circle/Thumbs.db", ".hidden.png"):
        (tmp_path / name).write_bytes(b"x")
    for name in (".cache/x.png", "__MACOSX/circle/._0.png", ".ipynb_checkpoints/a.png", "circle/@eaDir/x.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"x")
    data = load_data(str(tmp_path))
    assert (len(data), data.left_out) == (6, ())


def test_a_folder_of_other_files_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "a.gif").write_bytes(b"x")
    assert "0 pictures; left out: 1 file not named PNG, JPEG or WebP: a.gif; allowed: 1 to" in refused(tmp_path)


def test_a_picture_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    Image.new("L", (8, 8)).save(tmp_path / "b.png", format="GIF")
    assert f"'{tmp_path}/b.png'; allowed: a PNG, JPEG or WebP file" in refused(tmp_path)
    (tmp_path / "b.png").unlink()
    (tmp_path / "b.png").symlink_to("nowhere.png")
    assert "b.png: a link to nothing, or no file; allowed: a PNG, JPEG or WebP file" in refused(tmp_path)


def test_links_are_followed_one_folder_deep(tmp_path: Path) -> None:
    classes(tmp_path / "real", 1)
    picture(tmp_path / "elsewhere" / "x.png", 200)
    (tmp_path / "real" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "real" / "circle" / "y.png").symlink_to(tmp_path / "elsewhere" / "x.png")
    data = load_data(str(tmp_path / "real"))
    assert data.counts() == {"7": 1, "circle": 2, "linked": 1, "red, round": 1}
    (tmp_path / "real" / "circle" / "round").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArgumentError, match="two folders down"):
        load_data(str(tmp_path / "real"))


def test_a_link_to_a_folder_above_is_left_out_by_name(tmp_path: Path) -> None:
    classes(tmp_path, 1)
    for name, target in (("circle/self", "."), ("7/up", ".."), ("all", "."), ("root", "/")):
        (tmp_path / name).symlink_to(target)
    data = load_data(str(tmp_path))
    assert data.counts() == dict.fromkeys(sorted(KINDS), 1)
    assert data.left_out == ("left out: 4 links to a folder above: all, root, 7/up, circle/self",)
    picture(tmp_path / "flat" / "x.png")
    (tmp_path / "flat" / "self").symlink_to(".")
    assert load_data(str(tmp_path / "flat")).summary() == "1 image, no classes"


def test_a_class_that_has_no_name_in_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "fine").mkdir()
    picture(tmp_path / "fine" / "a.png")
    for name, problem in ((b"caf\xe9", "bytes that are no UTF-8"), (b"two\nlines", "control characters")):
        folder = os.fsencode(tmp_path) + b"/" + name
        os.mkdir(folder)
        Image.new("L", (8, 8)).save(Path(os.fsdecode(folder)) / "a.png")
        said = refused(tmp_path)
        said.encode()
        assert problem in said
        Path(os.fsdecode(folder), "a.png").unlink()
        os.rmdir(folder)


def test_two_names_that_look_alike_are_refused(tmp_path: Path) -> None:
    for name in ("café", "cafe\u0301"):
        picture(tmp_path / name / "a.png")
    assert "the same name as" in refused(tmp_path)


def test_names_are_kept_and_may_be_asked_for(tmp_path: Path) -> None:
    folder = classes(tmp_path / "data", 2, [*KINDS, "cafe\u0301"])
    assert load_data(str(folder)).names == ("7", "café", "circle", "red, round")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher and its student, of pictures in class folders; the lines that were said lie beside them."""
    home = tmp_path_factory.mktemp("shapes")
    classes(home / "data")
    (home / "data" / "notes.txt").write_text("x")
    (home / "settings.toml").write_text(SETTINGS)
    said: list[str] = []
    listeners = Listeners(data=lambda data: said.extend([data.summary(), *data.left_out]))
    config = TrainConfig.from_toml(home / "settings.toml", TrainConfig(data=str(home / "data")))
    shorter = replace(config, steps=2, sheet_every=0, prediction="v")
    made = train(shorter, home / "teacher", listeners=listeners)
    assert made.data["classes"] == dict.fromkeys(sorted(KINDS), 4)
    student = DistillConfig(
        teacher=str(home / "teacher"), data=str(home / "data"), steps=2, batch=4, student_steps=1, sheet_every=0
    )
    distill(student, home / "student", listeners=listeners)
    (home / "said.txt").write_text("\n".join(said))
    return home


def test_training_and_distilling_say_what_they_learn_from(trained: Path) -> None:
    line = "12 images, 3 classes: 7 (4), circle (4), red, round (4)"
    left_out = "left out: 1 file not named PNG, JPEG or WebP: notes.txt"
    assert (trained / "said.txt").read_text().split("\n") == [line, left_out] * 2


@pytest.mark.parametrize("model", ["teacher", "student"])
def test_the_names_of_classes_reach_the_model_and_its_pictures(
    trained: Path, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = trained / model
    assert json.loads((folder / "fewstep.json").read_text())["labels"]["names"] == sorted(KINDS)
    engine = fewstep.Engine.from_pretrained(str(folder))
    by_name = engine.sample(labels=["circle", "7", "red, round"], seeds=0)
    assert by_name.labels == [1, 0, 2]
    assert torch.equal(by_name.images, engine.sample(labels=[1, 0, 2], seeds=0).images)
    assert torch.equal(engine.sample(labels="circle", seeds=0).images, engine.sample(labels=1, seeds=0).images)
    out = tmp_path / "out.png"
    typed = ["generate", str(folder), "--labels", 'circle,2,"red, round",7', "--seed", "0", "-o", str(out), "--json"]
    assert main(typed) == 0
    images = json.loads(capsys.readouterr().out)["images"]
    assert [(each["label"], each["name"]) for each in images] == [
        (1.0, "circle"),
        (2.0, "red, round"),
        (2.0, "red, round"),
        (0.0, "7"),
    ]
    assert Image.open(out).info["labels"] == 'circle,"red, round","red, round",7'
    assert Image.open(tmp_path / "out-003.png").info["label"] == "7"
    assert main(["info", str(out)]) == 0
    assert '\'circle,"red, round","red, round",7\'' in capsys.readouterr().out
    assert main(["info", str(folder)]) == 0
    assert "7\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ("cirle", "labels: got 'cirle'; allowed: numbers like 3,7 or a range .*, or names: 7, circle, \"red, round\""),
        ("circle,sqare", "labels: got 'sqare'; allowed"),
        ("9", "labels: got 9; allowed: integers from 0 to 2, or names: 7, circle, red, round"),
    ],
)
def test_a_name_that_no_class_has_is_told_with_those_there_are(
    trained: Path, tmp_path: Path, labels: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["generate", str(trained / "student"), "--labels", labels, "-o", str(tmp_path / "out.png")])
    assert code == 2
    assert re.search(said, capsys.readouterr().err)


def test_a_student_learns_from_the_classes_of_its_teacher(trained: Path, tmp_path: Path) -> None:
    other = classes(tmp_path / "other", 2, ["circle", "square", "triangle"])
    config = DistillConfig(teacher=str(trained / "teacher"), data=str(other), steps=1, batch=4, student_steps=1)
    with pytest.raises(ArgumentError, match="with classes circle, square, triangle; allowed: the teacher's, 7, circle"):
        distill(config, tmp_path / "student")


def test_a_folder_of_before_names_loads(trained: Path, tmp_path: Path) -> None:
    data = json.loads((trained / "teacher" / "fewstep.json").read_text())
    del data["labels"]["names"]
    (tmp_path / "fewstep.json").write_text(json.dumps(data))
    os.link(trained / "teacher" / "model.safetensors", tmp_path / "model.safetensors")
    load_model(tmp_path)
    _, spec = open_folder(tmp_path)
    assert spec.to_dict()["labels"] == data["labels"]
    for names in (
        ["a"],
        ["a", "b", "b"],
        ["a", "b", "\ud800"],
        ["a", "b", ""],
        ["a", "b", "c" * 300],
        "abc",
        [1, 2, 3],
    ):
        data["labels"]["names"] = names
        (tmp_path / "fewstep.json").write_text(json.dumps(data))
        wrong = r"fewstep\.json: (labels: names|labels: classes|is not valid JSON: a text holds .* half of)"
        with pytest.raises(fewstep.ModelError, match=wrong):
            open_folder(tmp_path)


def test_names_are_checked_when_they_are_given() -> None:
    for names in ("ab", ("a", 1), ("a", "\x07")):
        with pytest.raises(ArgumentError, match=r"classes\.names"):
            fewstep.Classes(2, names=names)  # type: ignore[arg-type]


def test_classes_without_names_are_numbers_and_many_are_cut_short() -> None:
    labels = torch.arange(30).repeat(2)
    data = Dataset(torch.zeros(60, 1, 8, 8, dtype=torch.uint8), labels, "own")
    assert data.summary().startswith("60 images, 30 classes: 0 (2), 1 (2), ")
    assert data.summary().endswith("19 (2) and 10 more")
    assert load_data("digits").summary().startswith("8,000 images, 10 classes: 0 (")
