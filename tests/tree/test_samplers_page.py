"""docs/samplers.md names every sampler with what it is, and its picture can be drawn."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from fewstep.cli.samplers_view import facts
from fewstep.diffusion.samplers import SAMPLERS
from support.tree import ROOT

PAGE = (ROOT / "docs/samplers.md").read_text()
SECTIONS = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL))
SCRIPT = "tools/samplers_picture.py"


def test_every_sampler_has_its_section() -> None:
    assert sorted(SECTIONS) == sorted(SAMPLERS)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_section_says_what_the_sampler_is(name: str) -> None:
    """Its order, whether it draws noise, how many calls it makes, its options, its schedules; and a source."""
    text, known = SECTIONS[name], facts(name)
    assert ("Order" in text) == bool(known["order"])
    assert known["order"] == 0 or f"Order {known['order']}" in text
    assert ("raws noise" in text) == (known["stochastic"] or bool(known["made_stochastic_by"]))
    assert all(f"`{option}`" in text for option in known["made_stochastic_by"])
    assert (f"{known['calls']} calls" in text) == (known["calls"] != "N")
    assert ("Closed." in text) == known["closed"]
    options = text.split("ptions: ", 1)[1]
    assert {option for option in known["options"] if f"`{option}`" not in options} == set()
    kinds = re.search(r"Schedules: ([\w, ]+)\.", text)
    assert (kinds[1].split(", ") if kinds else ["vp", "flow", "ve", "trig"]) == known["kinds"]
    assert re.search(r"\d{4}\.\d{5}|k-diffusion", text)


@pytest.mark.slow
def test_the_picture_of_the_page_can_be_drawn(tmp_path: Path) -> None:
    assert SCRIPT in PAGE
    done = subprocess.run(
        [sys.executable, ROOT / SCRIPT, tmp_path / "samplers.png", "--points", "20"],
        env={"PYTHONPATH": f"{ROOT / 'engine'}:{ROOT / 'kernels'}", "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    drawn, shown = Image.open(tmp_path / "samplers.png"), Image.open(ROOT / "docs/images/samplers.png")
    assert drawn.size == shown.size
    assert (ROOT / "docs/images/samplers.png").stat().st_size < 300_000
