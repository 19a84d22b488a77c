"""`make performance`: the committed page is what it renders, an older format is named, the README keeps the rest."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.bench_report import sample
from support.tree import ROOT

SCRIPT = ROOT / "tools/render_performance.py"
OLD = '{"format": 1, "rows": []}'
MARKED = "before\n<!-- measured: rendered by make performance -->\nold\n<!-- end of measured -->\nafter\n"


def rendered(root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPT, "--root", root],
        env={"PYTHONPATH": f"{ROOT / 'engine'}:{ROOT / 'kernels'}", "OMP_NUM_THREADS": "1", "HOME": str(root)},
        capture_output=True,
        text=True,
    )


def tree(root: Path, readme: str) -> Path:
    """A tree with a README and no results."""
    (root / "docs").mkdir()
    (root / "README.md").write_text(readme)
    return root


@pytest.mark.slow
def test_the_committed_page_is_what_is_rendered(tmp_path: Path) -> None:
    root = tree(tmp_path, (ROOT / "README.md").read_text())
    for path in (ROOT / "benchmarks/results").glob("*/bench*.json"):
        place = root / path.relative_to(ROOT)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    print(rendered(root).stderr)
    for name in ("docs/performance.md", "README.md"):
        assert (root / name).read_text() == (ROOT / name).read_text(), f"{name}: make performance"
    images = Path("docs/images/performance")
    drawn, kept = ({path.name for path in (each / images).glob("*.png")} for each in (root, ROOT))
    assert drawn == kept
    assert all(path.stat().st_size <= 150_000 for path in (ROOT / images).glob("*.png"))


@pytest.mark.long
def test_a_page_has_the_tables_the_pictures_and_the_readme_its_table(tmp_path: Path) -> None:
    root = tree(tmp_path, MARKED)
    sample(names={"digits": "my | net"}).save(root / "benchmarks/results/cpu", {})
    old = root / "benchmarks/results/older/bench.json"
    old.parent.mkdir()
    old.write_text(OLD)
    done = rendered(root)
    assert done.returncode == 1
    assert "benchmarks/results/older/bench.json: is a benchmark of format 1, and 2 is read" in done.stderr
    page, readme = (root / "docs/performance.md").read_text(), (root / "README.md").read_text()
    for words in ("### terrain", "fewstep bench my_file.py:make_model", "onnxruntime: not installed", "| my \\| net |"):
        assert words in page
    shown = re.findall(r"\]\((images/performance/[^)]+)\)", page)
    assert len(shown) == len(list((root / "docs/images/performance").iterdir())) > 8
    assert all((root / "docs" / path).is_file() for path in shown)
    assert readme.startswith("before\n")
    assert readme.endswith("after\n")
    assert "old" not in readme
    assert re.search(r"\| cifar10-ddpm, 4, 1 \| 0\.9\d \(0\.\d\d\.\.[01]\.\d\d\) \|", readme)
    before = [(path, path.read_bytes()) for path in sorted(root.rglob("*.*")) if path.is_file()]
    rendered(root)
    assert [(path, path.read_bytes()) for path in sorted(root.rglob("*.*")) if path.is_file()] == before
