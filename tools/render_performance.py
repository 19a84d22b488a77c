"""Render docs/performance.md, its pictures and the README's table from the results of record.

    .venv/bin/python tools/render_performance.py [--root FOLDER]

The results are benchmarks/results/<machine>/bench*.json, as `fewstep bench --out` and `make bench` write them. One that
is of an older format is named, and left out; then the exit code is 1.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fewstep.bench.contenders import BARE, EAGER
from fewstep.bench.reports import facts, pictures
from fewstep.bench.reports.facts import Network, ratio_words
from fewstep.bench.reports.markdown import absent, cold_table, environment, escaped, host_table, limits_table, ratios
from fewstep.bench.reports.markdown import table as as_table
from fewstep.bench.reports.names import captions
from fewstep.bench.results import Report
from fewstep.errors import FewstepError
from fewstep.files import AtomicFiles

ROOT = Path(__file__).resolve().parent.parent
PAGE, IMAGES, README = Path("docs/performance.md"), Path("docs/images/performance"), Path("README.md")
BEGIN, END = "<!-- measured: rendered by make performance -->", "<!-- end of measured -->"
STEPS = 4  # of the README's table
MOST_BYTES = 150_000  # of a picture
Record = tuple[str, Report]  # where it lies, "amd-epyc-2-cores/bench", and what it says

METHOD = """# Performance

What is measured here is one image, or a batch of them, from the request to the pixels: a few calls of a U-Net and all
that lies around them. [benchmarks/README.md](../benchmarks/README.md) says what each contender and each column is.

## How it is measured

1. **Parity first.** Every contender makes the images of every case from the same draws, and they are compared with
   those of the eager reference: the plan interpreted in plain torch, in float32. Whose images are wrong is not timed,
   and no speed of it is given.
2. **In turns.** In each round every contender of a case comes up once, in a new order. What else the machine does falls
   on all of them alike. A warm-up round is not counted, and no sample is dropped.
3. **In several runs.** Each run is a process of its own. A run's ratio is the median over its rounds; the 95 % interval
   is Student's t over the logarithms of the runs' ratios. With a single run it is a bootstrap over its rounds, and the
   page says so.
4. **Below ceilings.** A large product of matrices and a large copy are timed in the same run. Operations and bytes of
   the network are counted; from both follows the least time that a run can take, its floor.

## What is claimed

Ratios: a contender's time over that of the eager reference in the same dtype and the same rounds. Below 1 is faster.
The milliseconds belong to one machine on one day, which may have had other work to do; they are in the files of record.

## Measure it again

```sh
make bench                                             # digits, CIFAR-10 DDPM and terrain, at batch 1 and 4
fewstep bench digits --steps 1,4 --batch 1             # one network
fewstep bench my_file.py:make_model                    # one of your own: a function that gives a model or a module
make performance                                       # this page and the README's table, from the results of record
```

With `--out FOLDER` the numbers are kept as `bench.json` and `bench.csv`, to read as `bench.md` and `bench.html`, and
drawn as PNGs.
"""
NOTHING = "\n## Results of record\n\nThere are none in the format that is read now: `make bench` makes them.\n"


def records(root: Path) -> tuple[list[Record], list[str]]:
    """The results of record in the order of their names, and what is wrong with those that cannot be read."""
    found, problems = [], []
    folder = root / "benchmarks/results"
    for path in sorted(folder.glob("*/bench*.json")):
        try:
            found.append((path.relative_to(folder).with_suffix("").as_posix(), Report.load(path)))
        except (FewstepError, KeyError, TypeError, ValueError) as error:
            told = str(error) if isinstance(error, FewstepError) else f"{path}: is no benchmark that can be read"
            problems.append(told.replace(f"{root}/", ""))
    return found, problems


def page(known: Sequence[Record], drawn: Sequence[dict[str, bytes]]) -> str:
    """docs/performance.md."""
    parts = [METHOD] + [NOTHING] * (not known)
    for (name, report), images in zip(known, drawn, strict=True):
        parts.append("\n".join(["", *_record(name, report, images), ""]))
    return "".join(parts)


def _record(name: str, report: Report, images: dict[str, bytes]) -> list[str]:
    found = facts.networks(report)
    shown = captions(found, images)
    title = f"{report.machine.get('cpu', name)}, {facts.several(report.machine.get('cores', '?'), 'core')}"
    lines = [f"## {escaped(title)}, {escaped(report.when)}", "", *environment(report)]
    folder, file = name.split("/")
    more = f"../benchmarks/results/{folder}/{file}"
    lines += ["", f"All numbers and every single sample: [{file}.json]({more}.json), [{file}.csv]({more}.csv)."]
    for network in found:
        lines += ["", f"### {escaped(network.name)}", "", escaped(network.in_words) + "."]
        lines += ["", "Time over the eager reference's, with the 95 % interval:", "", *ratios(network)]
        lines += _pictures(name, shown.get(network.name, {}))
    lines += _pictures(name, shown.get("", {}))
    for heading, part in (
        ("The host", host_table(report)),
        ("Ceilings and floor", limits_table(report)),
        ("Cold start", cold_table(report)),
        ("What is missing", absent(report)),
    ):
        lines += ["", f"### {heading}", "", *part] if part else []
    return lines + (["", escaped(report.advice)] if report.advice else [])


def _pictures(record: str, names: dict[str, str]) -> list[str]:
    return [
        line
        for file, told in names.items()
        for line in ("", f"![{escaped(told)}](images/performance/{image_name(record, file)})")
    ]


def image_name(record: str, file: str) -> str:
    """Of a record's picture in the docs."""
    return f"{record.replace('/', '-')}-{file}"


def measured(known: Sequence[Record]) -> str:
    """What stands between the marks in the README: the first record at a few steps, in float32."""
    report = known[0][1]
    machine = report.machine
    found = facts.networks(report)
    contenders = [
        each
        for each in report.contenders
        if each.exact and each.kind not in (EAGER, BARE) and any(each in network.contenders for network in found)
    ]
    lines = [line for network in found for line in _readme_lines(network, contenders)]
    about = (
        f"{escaped(str(machine.get('cpu')))}, {facts.several(machine.get('threads', '?'), 'thread')}, float32, "
        f"{escaped(report.when)}: time over that of the eager reference in the same rounds, with the 95 % interval; "
        f"below 1 is faster. {facts.method(report)}."
    )
    return "\n".join([about, "", *as_table(["network, steps, batch", *(each.name for each in contenders)], lines)])


def _readme_lines(network: Network, contenders: Sequence[object]) -> list[list[str]]:
    cases = [case for case in network.cases if case.sampler == network.cases[0].sampler]
    steps = STEPS if any(case.steps == STEPS for case in cases) else max(case.steps for case in cases)
    lines = []
    for case in cases:
        rows = [network.measured(case, each) for each in contenders]  # type: ignore[arg-type]
        if case.steps == steps and any(rows):
            told = f"{network.name}, {case.steps}, {case.batch}"
            lines.append([told, *("-" if row is None else ratio_words(row) for row in rows)])
    return lines


def in_readme(text: str, block: str) -> str:
    """The README with another table; ValueError where it has no marks."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{block}\n{END}{after}"


def render(root: Path, known: Sequence[Record]) -> dict[Path, bytes]:
    """Every file that follows from the results of record, by its path in the tree."""
    drawn = [pictures(report) for _, report in known]
    files = {PAGE: page(known, drawn).encode()}
    for (name, _), images in zip(known, drawn, strict=True):
        files |= {IMAGES / image_name(name, file): content for file, content in images.items()}
    if known:
        files[README] = in_readme((root / README).read_text(), measured(known)).encode()
    return files


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--root", type=Path, default=ROOT, help="the tree that is read and written")
    root = parser.parse_args().root
    known, problems = records(root)
    files = render(root, known)
    large = [path for path, content in files.items() if path.suffix == ".png" and len(content) > MOST_BYTES]
    problems += [f"{path}: is larger than {MOST_BYTES} bytes" for path in large]
    with AtomicFiles() as atomic:
        for path, content in files.items():
            atomic.open(root / path).write(content)
    for path in sorted((root / IMAGES).glob("*.png")):
        if IMAGES / path.name not in files:
            path.unlink()
    print(*files, sep="\n")
    print(*problems, sep="\n", end="\n" * bool(problems), file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
