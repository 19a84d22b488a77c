"""Run an example or tests, and keep what `Engine.sample` returns: for images_base.py, in a process of its own.

python tools/images_hook.py KEPT.npz example FILE [PICTURE]
python tools/images_hook.py KEPT.npz tests PATTERN
"""

import contextlib
import itertools
import json
import random
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fewstep

MAX_KEPT = 2**22  # numbers of one call; of more, as many of the first samples as fit


class Keeper:
    """What every call returned, by the name of what runs."""

    def __init__(self) -> None:
        self.name = "example"
        self.images: dict[str, Any] = {}
        self._counts: dict[str, int] = {}
        self.drawn = itertools.count()

    def watch(self) -> None:
        """From now on, keep the images of every call; seeds that are drawn count from 0."""
        original, keeper = fewstep.Engine.sample, self

        def sample(engine: fewstep.Engine, *args: Any, **arguments: Any) -> Any:
            samples = original(engine, *args, **arguments)
            keeper.keep(samples.images)
            return samples

        fewstep.Engine.sample = sample  # type: ignore[method-assign]
        random.SystemRandom.getrandbits = lambda *_: next(keeper.drawn)  # type: ignore[method-assign, assignment]

    def keep(self, images: torch.Tensor) -> None:
        """One call's."""
        count = self._counts[self.name] = self._counts.get(self.name, 0) + 1
        few = max(1, MAX_KEPT // max(1, images[0].numel()))
        self.images[f"{self.name}/{count}"] = images[:few].detach().cpu().numpy().copy()

    def pytest_runtest_setup(self, item: Any) -> None:
        """A test's images are by its own name, and its drawn seeds begin anew; the file may move."""
        self.drawn = itertools.count()
        self.name = re.sub(r"[/\\]", "_", item.name)


def notebook(path: Path) -> None:
    """The code of its cells, without what only a notebook understands."""
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    lines = [line for cell in cells for line in "".join(cell["source"]).split("\n")]
    code = "\n".join(line for line in lines if not line.startswith("%"))
    exec(compile(code, str(path), "exec"), {"__name__": "notebook", "display": lambda _: None})


def main() -> int:
    """Run, then write what was kept."""
    kept, kind, what, *rest = sys.argv[1:]
    torch.set_num_threads(1)
    keeper = Keeper()
    keeper.watch()
    code = 0
    if kind == "tests":
        import pytest

        options = ["-q", "-p", "no:cacheprovider", "-p", "no:randomly", "-k", what]
        code = int(pytest.main(options, plugins=[keeper]))
    elif what.endswith(".ipynb"):
        notebook(Path(what))
    else:
        sys.argv = [what, *rest]
        with contextlib.suppress(SystemExit):
            runpy.run_path(what, run_name="__main__")
    np.savez(kept, **keeper.images)
    return code


if __name__ == "__main__":
    sys.exit(main())
