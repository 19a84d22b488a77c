"""Spoilt model folders, checkpoints, data, pictures and manifests, read under limits: each ends in one line.

    .venv/bin/python tools/fuzz.py [--cases 2000] [--seed 0] [--first N] [--only NAME] [--keep FOLDER]
    .venv/bin/python tools/fuzz.py --replay FOLDER/123

A case is a sound set of files of which one or a few are spoilt: as bytes, within their format with lengths and
checksums made right again, or as a place in the folder (a pipe, a link, nothing). It is a function of the seed and its
number. What reads it runs in a process of its own, with 5 s of CPU time, and with 256 MB and twice what the files say
they hold when decoded. Right are a result, and a FewstepError in one printable line that names a file or its folder.
All else is a finding, which is printed, and kept with its files where --keep says, to be looked at; --replay makes it
anew from its number. The exit code is 1 where there is one.
"""

import argparse
import contextlib
import json
import os
import random
import resource
import select
import shutil
import signal
import stat
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from fuzz_mutators import png_chunks
from fuzz_targets import Target, spoil, targets

from fewstep.archives import Archive
from fewstep.errors import FewstepError, printable

CPU_SECONDS, WALL_SECONDS = 5, 30  # the second is for a reader that waits; other processes may slow a case down
FREE_BYTES, MOST_BYTES = 256 << 20, 4 << 30
LONGEST = 1500  # characters of a message beside its paths
GOOD, REFUSED = "read", "refused"


@dataclass(frozen=True)
class Outcome:
    """How a case ended."""

    kind: str  # GOOD, REFUSED, or what is wrong
    said: str = ""
    grown: int = 0  # bytes
    seconds: float = 0.0  # of CPU


def write(folder: Path, target: Target, seed: int, number: int) -> None:
    """The files of a case."""
    files, places = spoil(target, random.Random(f"{seed}:{number}:{target.name}"))
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    for name, what in places:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            continue
        path.unlink(missing_ok=True)
        links = {"loop": path, "outside": "/etc/passwd", "dangling": "nowhere", "zero": "/dev/zero"}
        if what == "folder":
            path.mkdir()
        elif what == "pipe":
            os.mkfifo(path)
        elif what != "gone":
            path.symlink_to(links[what])


def declared(folder: Path) -> int:
    """What the files of a case say that they hold when decoded, as far as they can be understood."""
    total = 0
    for path in folder.rglob("*"):
        if path.is_symlink() or not stat.S_ISREG(path.stat().st_mode):
            continue
        total += path.stat().st_size
        # A spoilt file may say nothing at all.
        with contextlib.suppress(Exception):
            if path.suffix == ".png":
                size = png_chunks(path.read_bytes()[:200])[0][1]
                total += 8 * int.from_bytes(size[:4], "big") * int.from_bytes(size[4:8], "big")
            elif path.suffix in (".npz", ".whl", ".pt", ".bin"):
                with Archive(path) as archive:
                    total += archive.said_bytes
    return min(total, MOST_BYTES)


def status() -> tuple[int, int, int]:
    """Bytes of this process: now, at most so far, and its addresses."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    now, most, addresses = (1024 * int(lines[name].split()[0]) for name in ("VmRSS", "VmHWM", "VmSize"))
    return now, most, addresses


def judged(target: Target, folder: Path) -> Outcome:
    """Read the case in this process."""
    try:
        wrong = target.read(folder)
    except FewstepError as error:
        return _message(str(error), folder)
    except BaseException as error:
        where = traceback.format_exception(error)[-3:]
        return Outcome(type(error).__name__, f"{str(error)[:300]} | {' '.join(''.join(where).split())[-700:]}")
    return Outcome(GOOD) if wrong is None else Outcome("wrong", wrong)


def _message(said: str, folder: Path) -> Outcome:
    if said != printable(said) or len(said.replace(str(folder), "")) > LONGEST:
        return Outcome("not one line", said[:500])
    names = [path.name for path in folder.rglob("*")]
    if str(folder) not in said and not any(name in said for name in names):
        return Outcome("names no file", said)
    return Outcome(REFUSED, said)


def run(target: Target, folder: Path) -> Outcome:
    """Read the case in a process of its own, under the limits."""
    most = FREE_BYTES + 2 * declared(folder)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _in_child(target, folder, most, writer)
    os.close(writer)
    started, data = time.monotonic(), b""
    while select.select([reader], [], [], max(0.0, WALL_SECONDS - (time.monotonic() - started)))[0]:
        part = os.read(reader, 1 << 16)
        data += part
        if not part:
            break
    else:
        os.kill(child, signal.SIGKILL)
    os.close(reader)
    _, code, used = os.wait4(child, 0)
    seconds = used.ru_utime + used.ru_stime
    if data:
        found = Outcome(**json.loads(data))
        if found.grown > most:
            return Outcome("over memory", f"{found.grown:,} bytes of {most:,}; {found.said}", found.grown, seconds)
        return Outcome(found.kind, found.said, found.grown, seconds)
    name = signal.Signals(os.WTERMSIG(code)).name if os.WIFSIGNALED(code) else f"exit {os.WEXITSTATUS(code)}"
    hung = name in ("SIGXCPU", "SIGKILL")
    return Outcome("hung" if hung else "died", f"{name} after {seconds:.1f} s of CPU", 0, seconds)


def _in_child(target: Target, folder: Path, most: int, writer: int) -> None:
    os.environ["FEWSTEP_TRACEBACK"] = ""
    before, _, addresses = status()
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))
    # A reader that runs into this limit may swallow the error; what it took before is measured all the same.
    resource.setrlimit(resource.RLIMIT_AS, (addresses + 2 * most + (1 << 30),) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    outcome = judged(target, folder)
    grown = status()[1] - before
    data = json.dumps(asdict(Outcome(outcome.kind, printable(outcome.said), grown))).encode()
    while data:
        data = data[os.write(writer, data) :]
    os._exit(0)


def cases(
    seed: int, numbers: Sequence[int], chosen: Sequence[Target], keep: Path | None
) -> Iterator[tuple[Target, int, Outcome]]:
    """Every case and how it ended."""
    for number in numbers:
        target = chosen[number % len(chosen)]
        with tempfile.TemporaryDirectory(prefix="fewstep-fuzz-") as place:
            folder = Path(place) / "case"
            folder.mkdir()
            write(folder, target, seed, number)
            outcome = run(target, folder)
        if outcome.kind not in (GOOD, REFUSED) and keep is not None:
            kept = keep / f"{number}"
            shutil.rmtree(kept, ignore_errors=True)
            (kept / "case").mkdir(parents=True)
            write(kept / "case", target, seed, number)
            (kept / "case.json").write_text(
                json.dumps({"target": target.name, "seed": seed} | asdict(outcome), indent=1)
            )
        yield target, number, outcome


def replayed(folder: Path, every: Sequence[Target]) -> Outcome:
    """A case that was kept, made anew from its seed and number: readers set aside what they cannot read."""
    about = json.loads((folder / "case.json").read_text())
    target = next(each for each in every if each.name == about["target"])
    with tempfile.TemporaryDirectory(prefix="fewstep-fuzz-") as place:
        copy = Path(place) / "case"
        copy.mkdir()
        write(copy, target, about["seed"], int(folder.name))
        return run(target, copy)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=2000, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, metavar="N", help="the number of the first case")
    parser.add_argument("--only", default="", metavar="NAME", help="targets whose name holds this")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where the files of findings go")
    parser.add_argument("--replay", type=Path, metavar="FOLDER", help="run one of those again")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    every = targets()
    if arguments.replay is not None:
        outcome = replayed(arguments.replay, every)
        print(f"{outcome.kind}: {outcome.said}")
        return int(outcome.kind not in (GOOD, REFUSED))
    chosen = [target for target in every if arguments.only in target.name]
    if not chosen:
        parser.error(f"--only {arguments.only}: allowed: a part of {', '.join(each.name for each in every)}")
    return _report(arguments, chosen)


def _report(arguments: argparse.Namespace, chosen: Sequence[Target]) -> int:
    kinds: Counter[str] = Counter()
    most, longest, started = 0, 0.0, time.monotonic()
    numbers = range(arguments.first, arguments.first + arguments.cases)
    for target, number, outcome in cases(arguments.seed, numbers, chosen, arguments.keep):
        kinds[outcome.kind] += 1
        most, longest = max(most, outcome.grown), max(longest, outcome.seconds)
        if outcome.kind not in (GOOD, REFUSED):
            print(f"case {number}, {target.name}: {outcome.kind}: {outcome.said}", flush=True)
        if sys.stderr.isatty():
            done = sum(kinds.values())
            print(f"\r{done} of {arguments.cases}", end="\n" if done == arguments.cases else "", file=sys.stderr)
    wrong = sum(count for kind, count in kinds.items() if kind not in (GOOD, REFUSED))
    found = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    print(
        f"{sum(kinds.values())} cases, seed {arguments.seed}: {found}; {wrong} findings; at most {most / 2**20:.0f} MB "
        f"and {longest:.1f} s of CPU a case, {time.monotonic() - started:.0f} s in all"
    )
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
