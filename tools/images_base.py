"""The images of a revision beside those of the tree as it is: what every example samples, compared value by value.

    .venv/bin/python tools/images_base.py REVISION [--tests PATTERN] [--tolerance 1e-6]

The revision is checked out into a worktree of its own. Each of its examples runs in it, and the same example of the
tree runs in the tree; what `Engine.sample` returns is kept in the order of the calls. With --tests the tests that match
the pattern, as `pytest -k` takes it, are run in the same way. Drawn seeds are the same in both. The table has a line
for each example or test whose images are not bitwise the same, with the largest difference relative to the largest
value. The exit code is 1 where one is above the tolerance, or where the calls are not as many.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from bench_base import BASE, PRESENT, ROOT, Refused, worktree
from numpy.typing import NDArray

EXAMPLES = ("few_steps.py", "embed_your_unet.py", "swiss_roll.py", "quickstart.ipynb")
HOOK = Path(__file__).with_name("images_hook.py")
Kept = dict[str, NDArray[np.generic]]  # "name/call" -> images


def sampled(tree: Path, name: str, command: Sequence[str]) -> Kept:
    """What a command of a tree samples."""
    with tempfile.TemporaryDirectory(prefix="fewstep-images-") as folder:
        kept = Path(folder) / "images.npz"
        places = [str(tree / part) for part in ("engine", "kernels", "tests", "examples")] + [str(HOOK.parent)]
        env = os.environ | {"PYTHONPATH": os.pathsep.join(places), "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
        env.setdefault("FEWSTEP_BACKEND", "torch")  # whose bits both trees have
        line = [sys.executable, str(HOOK), str(kept), *command]
        done = subprocess.run(line, env=env, cwd=tree, capture_output=True, text=True)
        if done.returncode:
            raise Refused(f"{name} failed in {tree}\n{(done.stderr or done.stdout).strip()[-4000:]}")
        with np.load(kept) as file:
            return {key: file[key] for key in file.files}


def difference(base: NDArray[np.generic], present: NDArray[np.generic]) -> float:
    """The largest difference over the largest value; infinite where shapes, dtypes or NaNs differ."""
    if base.shape != present.shape or base.dtype != present.dtype:
        return float("inf")
    if base.tobytes() == present.tobytes():
        return 0.0
    a, b = base.astype(np.float64), present.astype(np.float64)
    if not np.array_equal(np.isnan(a), np.isnan(b)):
        return float("inf")
    return float(np.nanmax(np.abs(a - b)) / max(np.nanmax(np.abs(a)), 1e-30))


def compare(base: Mapping[str, NDArray[np.generic]], present: Mapping[str, NDArray[np.generic]]) -> dict[str, float]:
    """The largest difference of each name that both trees have; infinite where one has more calls than the other."""

    def by_name(kept: Mapping[str, NDArray[np.generic]]) -> dict[str, list[NDArray[np.generic]]]:
        found: dict[str, list[NDArray[np.generic]]] = {}
        for key in sorted(kept, key=lambda each: (each.rpartition("/")[0], int(each.rpartition("/")[2]))):
            found.setdefault(key.rpartition("/")[0], []).append(kept[key])
        return found

    ours, theirs = by_name(present), by_name(base)
    return {
        name: max(map(difference, theirs[name], ours[name])) if len(theirs[name]) == len(ours[name]) else float("inf")
        for name in theirs
        if name in ours
    }


def rows(trees: Mapping[str, Path], tests: str | None) -> Iterator[tuple[str, dict[str, float]]]:
    """What ran, and the difference by name of it."""
    with tempfile.TemporaryDirectory(prefix="fewstep-out-") as out:
        for name in EXAMPLES:
            found = {
                tree: sampled(path, name, ["example", str(path / "examples" / name), f"{out}/{tree}/{name}.png"])
                for tree, path in trees.items()
            }
            yield name, compare(found[BASE], found[PRESENT])
    if tests is not None:
        found = {tree: sampled(path, "pytest", ["tests", tests]) for tree, path in trees.items()}
        yield f"tests -k {tests!r}", compare(found[BASE], found[PRESENT])


def main(argv: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """The command line; `root` stands in for the tree in tests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revision", help="a commit, branch or tag")
    parser.add_argument("--tests", metavar="PATTERN", help="compare what these tests sample, too")
    parser.add_argument("--tolerance", type=float, default=0.0, help="relative; 0, the default, is bitwise")
    arguments = parser.parse_args(argv)
    wrong = 0
    try:
        with worktree(root, arguments.revision) as (tree, short):
            print(f"images of {short} beside those of the tree")
            for what, found in rows({BASE: tree, PRESENT: root}, arguments.tests):
                same = sum(each == 0 for each in found.values())
                print(f"{what:<22}{same} of {len(found)} bitwise the same", flush=True)
                for name, each in found.items():
                    if each:
                        print(f"    {name}: {each:.1e}")
                wrong += sum(each > arguments.tolerance for each in found.values()) + (not found)
    except Refused as why:
        print(f"images: {why}", file=sys.stderr)
        return 1
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
