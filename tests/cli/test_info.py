"""`info`, `convert`, `--help`, and how lists are read."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

import fewstep
from fewstep.cli.shared import emit_fields, numbers, whole_numbers
from fewstep.diffusion.samplers import SAMPLERS
from fewstep.engine import Engine
from fewstep.errors import ArgumentError
from fewstep.models.load import save_model
from fewstep.models.net.unet import UNet
from fewstep.models.spec import ModelSpec
from support.cli_case import CONFIG, SPEC, Run
from support.edm_case import written


def test_info_tells_versions_devices_and_why_each_fallback(run: Run) -> None:
    ran = run("info")
    assert ran.code == 0
    assert ran.err == ""
    told = json.loads(run("info", "--json").out)
    assert told["fewstep"] == fewstep.__version__
    assert told["torch"] == torch.__version__
    assert told["python"] == ".".join(map(str, sys.version_info[:3]))
    for name in ("cuda_extension", "attention", "triton_kernels"):
        assert told[name]["why"]
        assert f"{told[name]['value']}: {told[name]['why']}" in ran.out
    if not torch.cuda.is_available():
        assert told["cuda"]["value"] == "none"


def test_info_of_a_model_checks_and_describes_it(run: Run, heights: Path) -> None:
    ran = run("info", heights)
    assert ran.code == 0
    assert ran.err == ""
    told = json.loads(run("info", heights, "--json").out)
    weights = UNet(replace(CONFIG, label_range=(1.0, 100.0))).parameters()
    assert told["parameters"] == sum(each.numel() for each in weights)
    assert told["family"] == "adm"
    assert told["shape"] == [1, 16, 16]
    assert told["labels"] == "numbers from 1 to 100"
    assert told["defaults"] == SPEC.plan
    assert told["plan"] == Engine.from_pretrained(heights).plan().describe()
    assert told["licence"] == "MIT"
    for line in told["plan"].splitlines():
        assert line in ran.out
    assert f"{told['parameters']:,}" in ran.out


@pytest.mark.parametrize("columns", [30, 60, 80, 200])
def test_info_is_as_wide_as_the_terminal(
    run: Run, heights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    long = replace(SPEC, description="words " * 60, notes=("a " * 100, "short"), labels=None)
    save_model(tmp_path / "m", UNet(CONFIG), long)
    run("generate", heights, "--labels", 5, "-o", tmp_path / "out.png")
    for target in (tmp_path / "m", tmp_path / "out.png", None):
        whole = run("info", *([] if target is None else [target]))
        monkeypatch.setenv("COLUMNS", str(columns))
        narrow = run("info", *([] if target is None else [target]))
        monkeypatch.delenv("COLUMNS")
        words = narrow.out.replace("\\\n", "").split()
        assert {word for word in whole.out.split() if word != "call"} <= set(words)  # none is broken
        for line in narrow.out.splitlines()[1:]:
            assert len(line) <= columns or len(line.removesuffix("\\").split()) <= 2, line  # a path and its option


def test_info_in_a_pipe_keeps_its_lines_whole(run: Run, tmp_path: Path) -> None:
    save_model(tmp_path / "m", UNet(CONFIG), replace(SPEC, description="words " * 60))
    assert f"  description  {'words ' * 59}words\n" in run("info", tmp_path / "m").out


def test_samplers_are_listed_with_what_their_plans_show(run: Run) -> None:
    told = {each["name"]: each for each in json.loads(run("info", "--samplers", "--json").out)["samplers"]}
    assert list(told) == list(SAMPLERS)
    assert {name for name, each in told.items() if each["stochastic"]} >= {"ddpm", "euler_ancestral", "dpmpp_2m_sde"}
    assert told["ddim"]["made_stochastic_by"] == ["eta"]
    assert told["edm"]["made_stochastic_by"] == ["s_churn"]
    assert told["euler"]["made_stochastic_by"] == []
    assert (told["euler"]["calls"], told["heun"]["calls"], told["plms"]["calls"]) == ("N", "2N - 1", "N + 1")
    assert [told[name]["history"] for name in ("ddim", "dpmpp_2m", "dpmpp_3m", "lms")] == [0, 1, 2, 3]
    assert [name for name, each in told.items() if each["closed"]] == ["unipc"]
    for name, each in told.items():
        assert (each["order"], each["summary"]) == (SAMPLERS[name].order, SAMPLERS[name].summary)
    assert "with s_churn" in run("info", "--samplers").out
    assert "samplers" in run("info", "--samplers", "--cost").error


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_samplers_fit_the_terminal(run: Run, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    page = run("info", "--samplers").out
    alone = max(len(name) for name in SAMPLERS) + max(len(sampler.summary) for sampler in SAMPLERS.values()) + 3
    assert all(len(line) <= max(columns, alone) for line in page.splitlines())
    assert alone <= 80
    for name, sampler in SAMPLERS.items():
        assert re.search(rf"^ {name} +{re.escape(sampler.summary)}", page, re.MULTILINE)


def test_info_of_a_foreign_picture_says_so(run: Run, tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    assert "a.png: holds no parameters of fewstep" in run("info", tmp_path / "a.png").error


def test_a_text_from_a_model_does_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    emit_fields("\x1b[2Jtitle", {"na\x07me": "one\x1b[31m\ntwo :smile: [red]"})
    assert capsys.readouterr().out == " [2Jtitle\n  na me  one [31m\n         two :smile: [red]\n"


def test_convert_hands_its_options_over(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[object, ...]] = []

    def convert(source: Path | None, folder: Path, overwrite: bool = False) -> ModelSpec:
        called.append((source, folder, overwrite))
        return SPEC

    monkeypatch.setattr("fewstep.models.layouts.terrain.convert_terrain", convert)
    ran = run("convert", "terrain", "--source", "a.onnx", "--out", tmp_path / "m", "--overwrite", "--json")
    assert ran.code == 0
    assert json.loads(ran.out) == {"model": str(tmp_path / "m"), "name": "tiny", "licence": "MIT", "source": ""}
    assert run("convert", "terrain").out.startswith(".models/terrain\n")
    assert called == [(Path("a.onnx"), tmp_path / "m", True), (None, Path(".models/terrain"), False)]


def test_a_network_of_edm_is_shown_and_converted(run: Run, tmp_path: Path) -> None:
    folder = written(tmp_path / "edm", "flow with a second time")
    shown = json.loads(run("info", folder, "--json").out)
    assert (shown["family"], shown["second_time"], shown["prediction"]) == ("edm", "joined", "flow")
    assert run("convert", "folder", "--source", folder, "--out", tmp_path / "ours").code == 0
    again = json.loads(run("info", tmp_path / "ours", "--json").out)
    assert again == shown
    assert run("convert", "folder", "--source", folder, "--out", tmp_path / "ours").code == 2


def test_colour_is_for_terminals_and_no_color_is_respected(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    coloured = re.compile(r"\x1b\[(\d+;)*(3|4|9|10)\d(;\d+)*m")
    assert "\x1b" not in run("info").out
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert coloured.search(run("info").out)
    assert coloured.search(run("generate", "nothing").err)
    monkeypatch.setenv("NO_COLOR", "1")
    for arguments in (["info"], ["generate", "nothing"], ["generate", "--help"]):
        ran = run(*arguments)
        assert not coloured.search(ran.out + ran.err)


@pytest.mark.parametrize("command", [[], ["generate"], ["info"], ["convert"]], ids=" ".join)
def test_help_teaches_by_example(run: Run, command: list[str]) -> None:
    ran = run(*command, "--help")
    assert ran.code == 0
    assert ran.err == ""
    examples = ran.out.split("Examples", 1)[1]
    assert "fewstep" in examples
    assert ran.out.isascii() or all(ord(letter) < 0x3000 for letter in ran.out)  # no emoji for ":100:"


def test_without_a_command_the_help_is_shown(run: Run) -> None:
    assert run().out.split() == run("--help").out.split()
    assert run("--version").out == f"fewstep {fewstep.__version__}\n"


# lists of numbers


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("3", [3]),
        ("3,7", [3, 7]),
        (" 3 , 7.5 ", [3, 7.5]),
        ("5:100:16", [5 + 95 * index / 15 for index in range(16)]),
        ("0:15:16", list(range(16))),
        ("100:5:2", [100, 5]),
        ("4:9:1", [4]),
        ("1,5:6:3", [1, 5, 5.5, 6]),
        ("-2.5,1e1", [-2.5, 10]),
    ],
)
def test_lists_and_ranges(text: str, values: list[float]) -> None:
    assert numbers("labels", text) == pytest.approx(values, rel=1e-15)
    assert numbers("labels", text)[-1] == values[-1]


def test_whole_values_are_integers_and_large_seeds_are_exact() -> None:
    assert [type(value) for value in numbers("labels", "3,5:6:3")] == [int, int, float, int]
    assert whole_numbers("seeds", "18446744073709551615,9007199254740993") == [2**64 - 1, 2**53 + 1]


@pytest.mark.parametrize(
    "text", ["", ",", "1,", "1:2", "1:2:0", "1:2:3:4", "a", "inf", "1:nan:3", "0:1:1e3", "0:1:100001"]
)
def test_a_list_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ArgumentError, match="labels: got"):
        numbers("labels", text)
