"""`fewstep info --cost`: the report, its page, and how a wrong request fails."""

import builtins
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fewstep import cost, schedules
from fewstep.cli import cost as shown
from fewstep.cli import main
from fewstep.cli.cost import page
from fewstep.cost import Report, Subject, report
from fewstep.cost.loops import SCHEDULERS
from fewstep.cost.report import versions
from fewstep.cost.subjects import sd_latents
from fewstep.errors import ArgumentError
from fewstep.models.load import save_model
from fewstep.models.net.unet import UNet
from fewstep.models.spec import ModelSpec
from support.cli_case import CONFIG as TINY
from support.tree import ROOT

pytestmark = pytest.mark.slow

SAMPLED = tuple(name for name, kind in SCHEDULERS if kind == "vp")
GUIDANCE = ("none", "guided", "guided, rescaled")

CONFIG = replace(TINY, out_channels=2)  # it learns the variance
PLAN = {"sampler": "ddpm", "steps": 2, "variance": "learned_range"}
SPEC = ModelSpec("tiny", "adm", CONFIG, (1, 16, 16), {"name": "linear", "num_timesteps": 1000}, "eps", PLAN)
CLASSES = replace(SPEC, unet=replace(CONFIG, num_classes=11), labels={"kind": "classes", "count": 10, "null": 10})
COUNTED: dict[object, Report] = {}


def counted_once(
    subjects: list[Subject], steps: int = 4, batch: int = 1, guidance_scale: float | None = None
) -> Report:
    """A report; what one test has had counted is not counted again for another."""
    key = (*(subject.name for subject in subjects), steps, batch, guidance_scale)
    if key not in COUNTED:
        COUNTED[key] = report(subjects, steps, batch, guidance_scale)
    return COUNTED[key]


@pytest.fixture(autouse=True)
def _count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shown, "report", counted_once)


def saved(folder: Path, spec: ModelSpec) -> str:
    save_model(folder, UNet(spec.unet), spec)
    return str(folder)


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a model that can be guided."""
    return saved(tmp_path_factory.mktemp("models") / "classes", CLASSES)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of one that cannot."""
    return saved(tmp_path_factory.mktemp("models") / "plain", SPEC)


def test_every_sampler_is_in_the_report_and_the_engine_is_ahead_in_each_row() -> None:
    pytest.importorskip("diffusers")
    for part in counted_once([make() for make in cost.PRESETS.values()]).subjects:
        expected = GUIDANCE[: 2 if part.subject.given else 3] if part.subject.guided else GUIDANCE[:1]
        samplers = part.subject.samplers or SAMPLED
        assert {(row.sampler, row.guidance) for row in part.rows} == {(s, g) for s in samplers for g in expected}
        for row in part.rows:
            if (row.sampler, part.subject.schedule.kind) not in SCHEDULERS:
                assert row.diffusers is None
                continue
            assert row.diffusers is not None
            assert sum(c.launches for c in row.engine.between) == 4 * (2 + (row.guidance == "guided, rescaled"))
            assert sum(c.bytes for c in row.engine.between) * 2 < sum(c.bytes for c in row.diffusers.between)
            assert sum(c.syncs for c in row.diffusers.between) > 0


def test_a_sampler_that_cannot_do_the_steps_is_left_out_with_the_reason() -> None:
    (part,) = report([sd_latents()], steps=100, guidance_scale=1).subjects
    assert list(part.left_out) == ["lcm"]
    assert "50" in part.left_out["lcm"]
    assert {row.sampler for row in part.rows} == set(SAMPLED) - {"lcm"}


def test_the_committed_page_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    committed = (ROOT / "docs/cost.md").read_text()
    if not all(f"{name} {version}" in committed for name, version in versions().items()) or len(versions()) < 3:
        pytest.skip("other versions than the page was counted with")
    assert main(["info", "--cost"]) == 0
    assert capsys.readouterr().out == committed, "fewstep info --cost > docs/cost.md"


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["info", *arguments, "--cost", "--json"]) == 0
    parsed: dict[str, Any] = json.loads(capsys.readouterr().out)
    return parsed


@pytest.mark.parametrize(("model", "guidance"), [("plain", GUIDANCE[:1]), ("classes", GUIDANCE)])
def test_json_tells_all_that_was_counted(
    model: str, guidance: tuple[str, ...], request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("diffusers")
    result = told(capsys, request.getfixturevalue(model), "--steps", "2", "--batch", "3")
    assert {name: result[name] for name in ("format", "steps", "batch", "dtype", "lacks_diffusers")} == {
        "format": 1, "steps": 2, "batch": 3, "dtype": "float32", "lacks_diffusers": None,
    }  # fmt: skip
    assert result["versions"] == versions()
    (subject,) = result["subjects"]
    assert set(subject) == {"name", "title", "shape", "rows", "left_out"}
    assert subject["shape"] == [1, 16, 16]
    assert [(row["sampler"], row["guidance"]) for row in subject["rows"]] == [
        (sampler, g) for sampler in SAMPLED for g in guidance
    ]
    for row in subject["rows"]:
        ours, theirs = row["engine"], row["diffusers"]
        assert set(row) == {"sampler", "guidance", "engine", "diffusers"}
        assert set(ours) == set(theirs) == {"between", "network", "ops", "network_ops"}
        assert set(ours["between"]) == {"launches", "bytes", "syncs", "per_step"}
        assert ours["between"]["launches"] == 2 + (row["guidance"] == "guided, rescaled")
        assert sum(theirs["between"]["per_step"]) == 2 * theirs["between"]["launches"]
        assert ours["network"]["launches"] == sum(op["launches"] for op in ours["network_ops"].values()) > 20
        assert theirs["network"] is theirs["network_ops"] is None


def test_options_choose_what_is_counted(classes: str, capsys: pytest.CaptureFixture[str]) -> None:
    for scale, expected in {"1": {"none"}, "0": {"none"}, "3.5": set(GUIDANCE[1:])}.items():
        (subject,) = told(capsys, classes, "--steps", "1", "--guidance-scale", scale)["subjects"]
        assert {row["guidance"] for row in subject["rows"]} == expected
    guided = told(capsys, "sd15", "--steps", "1", "--guidance-scale", "3")["subjects"]
    assert [subject["name"] for subject in guided] == ["sd15"]


def test_the_page_shows_both_sides_and_the_network(classes: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("diffusers")
    assert main(["info", classes, "--cost", "--steps", "2", "--batch", "3"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in out.splitlines() if line[:2] == "| "]
    assert rows[0][2:4] == ["launches: engine", "diffusers"]
    assert {len(row) for row in rows} == {8}
    assert [row[2] for row in rows[1:4]] == ["2", "2", "3"]
    assert [row[:4] for row in rows if row[:2] == ["ddim", "none"]] == [["ddim", "none", "2", "9"]]
    assert "The network, 3 rows: " in out
    assert "The network, 6 rows: " in out


def test_without_diffusers_the_engine_is_counted_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    importing = builtins.__import__

    def without(name: str, *others: Any, **more: Any) -> Any:
        if name.split(".")[0] == "diffusers":
            raise ImportError(name)
        return importing(name, *others, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    counted_alone = report([sd_latents()])
    assert {row.diffusers for row in counted_alone.subjects[0].rows} == {None}
    lines = page(counted_alone).splitlines()
    assert "diffusers: not installed: pip install 'fewstep[diffusers]'" in lines
    assert counted_alone.to_dict()["lacks_diffusers"] == "not installed: pip install 'fewstep[diffusers]'"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "4"], "steps: got 4; allowed: nothing without --cost"),
        (["--guidance-scale", "2"], "--guidance-scale: got 2.0; allowed: nothing without --cost"),
        (["--cost", "--steps", "0"], "steps: got 0; allowed: an integer from 1 to 1000"),
        (["--cost", "--batch", "0"], "batch: got 0; allowed: an integer from 1 to 1024"),
        (["--cost", "--guidance-scale", "nan"], "--guidance-scale: got nan; allowed: a number in [-1e+06, 1e+06]"),
        (["no-model", "--cost"], "no-model: no such folder; in the box: digits"),
        (
            ["FOLDER", "--cost", "--guidance-scale", "3"],
            "--guidance-scale: got 3.0; allowed: 1: there is no null label to guide from",
        ),
    ],
    ids=["steps alone", "scale alone", "no steps", "no samples", "not a number", "no folder", "nothing to guide from"],
)
def test_a_wrong_request_is_one_line(
    arguments: list[str], message: str, plain: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", *(plain if word == "FOLDER" else word for word in arguments)]) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"error: {message}\n")


def test_report_refuses_steps_that_no_sampler_can_do() -> None:
    with pytest.raises(ArgumentError, match="steps"):
        report([replace(sd_latents(), schedule=schedules.linear(4))], steps=9)
