"""The venvs of `make matrix`: what pip would install for a version of torch, what that costs, and making it so."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ("3.11", "3.12", "3.13")

# GB to download and GB installed by a CUDA build for Linux on x86-64, rounded up; what is not named may cost the most.
SIZES = {"2.10": (4.2, 8.0), "2.11": (2.9, 5.2), "2.14": (3.2, 6.0)}
CPU_SIZE = (0.6, 2.0)
TRITON = {"2.10": "3.6.0", "2.11": "3.6.0", "2.12": "3.7.0", "2.13": "3.7.1", "2.14": "3.8.0"}  # CPU builds pin none
TESTS_NEED = ("pytest", "pytest-xdist", "hypothesis")
ASK = """
import importlib.metadata as m, json, platform
names = ("torch", "triton", "numpy", "safetensors", "pytest", "hypothesis")
print(json.dumps({name: m.version(name) for name in names} | {"python": platform.python_version()}))
"""


class NotRun(Exception):  # noqa: N818
    """A version cannot be tested here; the message is the reason."""


@dataclass(frozen=True)
class Resolved:
    """What pip would install: exact versions by name, GB to download, and GB of disk while it installs."""

    pins: dict[str, str]
    download: float
    disk: float

    @property
    def torch(self) -> str:
        """Its exact version, local tag included."""
        return self.pins["torch"]


def minor(version: str) -> str:
    """2.13.0+cpu -> 2.13."""
    return ".".join(version.split("+")[0].split(".")[:2])


def stream(
    command: Sequence[str | Path],
    log: Path,
    show: Callable[[str], bool] = bool,
    seconds: float | None = None,
    **variables: str,
) -> tuple[int | None, list[str]]:
    """Run a command: its exit code, None where it was over its limit, and its lines, all in the log and some shown."""
    process = subprocess.Popen(
        [str(each) for each in command],
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"} | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )

    def end() -> None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # and whatever it started

    over = threading.Event()
    timer = threading.Timer(seconds, lambda: (over.set(), end())) if seconds else None
    lines = []
    try:
        if timer:
            timer.start()
        with log.open("a") as file:
            for line in process.stdout or ():
                lines.append(line.rstrip())
                file.write(line)
                if show(line.strip()):
                    print(f"   {line.strip()[:160]}", flush=True)
        code = process.wait()
    finally:
        if timer:
            timer.cancel()
        end()
        process.wait()
    return None if over.is_set() else code, lines


def pip(python: Path, folder: Path, log: Path, *arguments: str) -> None:
    """Run pip; NotRun with its first error where it fails."""
    scratch = folder / "tmp"  # beside the venvs: what it unpacks fills the disk that was asked how much is free
    scratch.mkdir(parents=True, exist_ok=True)
    known = re.compile(r"Downloading .*[GM]B\)|Installing|ERROR")  # of the hundred lines, those that take long
    options = ("--no-input", "--disable-pip-version-check", "--no-cache-dir")
    try:
        code, lines = stream(
            [python, "-m", "pip", *arguments, *options],
            log,
            lambda line: known.match(line) is not None,
            TMPDIR=str(scratch),
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if code:
        errors = [line for line in lines if line.startswith("ERROR: ")] or lines[-1:] or [f"exit code {code}"]
        raise NotRun(f"pip: {errors[0].removeprefix('ERROR: ')[:200]}")


def make_venv(python: Path, venv: Path, log: Path) -> Path:
    """An empty venv with pip; its interpreter."""
    code, lines = stream([python, "-m", "venv", venv], log, lambda line: False)
    if code:
        raise NotRun(f"{python.name} -m venv: {(lines or ['exit code ' + str(code)])[-1]}")
    return venv / "bin" / "python"


def requirements(torch: str, root: Path = ROOT) -> list[str]:
    """What the tree, its build and its tests need, with one torch; "newest" leaves torch to the tree's own bounds."""
    import tomllib

    project = tomllib.loads((root / "pyproject.toml").read_text())
    asked = [*project["project"]["dependencies"], *project["build-system"]["requires"], *TESTS_NEED]
    return asked if torch == "newest" else [*asked, f"torch=={torch}.*"]


def resolve(python: Path, torch: str, folder: Path, log: Path) -> Resolved:
    """Ask pip what it would install; what lies on this disk already is not downloaded."""
    report = folder / "report.json"
    pip(
        python, folder, log, "install", "--dry-run", "--ignore-installed", "--quiet", "--report", str(report),
        *requirements(torch),
    )  # fmt: skip
    found = json.loads(report.read_text())["install"]
    report.unlink()
    pins = {each["metadata"]["name"].lower(): each["metadata"]["version"] for each in found}
    needs = next(each["metadata"].get("requires_dist", []) for each in found if each["metadata"]["name"] == "torch")
    if not any(each.startswith("triton") for each in needs):  # a CPU build: beside it, what its CUDA twin pins
        pins["triton"] = TRITON.get(minor(pins["torch"]), pins["triton"])
    download, installed = CPU_SIZE if "+cpu" in pins["torch"] else SIZES.get(minor(pins["torch"]), max(SIZES.values()))
    here = sum(_bytes_here(each["download_info"]["url"]) for each in found) / 1e9
    download = max(download - here, 0.0)
    return Resolved(pins, download, download + installed)


def _bytes_here(url: str) -> int:
    path = Path(unquote(urlsplit(url).path))
    return path.stat().st_size if url.startswith("file:") and path.is_file() else 0


def install(python: Path, venv: Path, resolved: Resolved, folder: Path, log: Path) -> Path:
    """A venv with exactly what was resolved; one that an earlier call kept is taken as it is."""
    mark = venv / "resolved.json"
    if mark.exists() and json.loads(mark.read_text()) == resolved.pins:
        return venv / "bin" / "python"
    shutil.rmtree(venv, ignore_errors=True)
    made = make_venv(python, venv, log)
    pip(made, folder, log, "install", "--no-deps", *(f"{name}=={version}" for name, version in resolved.pins.items()))
    mark.write_text(json.dumps(resolved.pins))  # the last thing written: without it a venv is half-made
    return made


def versions(python: Path) -> dict[str, str]:
    """The versions of what the tests need, as a venv has them."""
    try:
        asked = subprocess.run([python, "-c", ASK], capture_output=True, text=True)
    except OSError as error:
        raise NotRun(f"{python}: {error.strerror}") from None
    if asked.returncode:
        raise NotRun((asked.stderr.strip() or f"{python}: exit code {asked.returncode}").splitlines()[-1])
    return dict(json.loads(asked.stdout))


def interpreters() -> dict[str, Path]:
    """The Pythons found here, by version: on the PATH, and pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = {}
    for version in PYTHONS:
        named = shutil.which(f"python{version}")
        places = [*([Path(named)] if named else []), *sorted(pyenv.glob(f"{version}.*/bin/python"))]
        if place := next((each for each in places if python_version(each) == version), None):
            found[version] = place
    return found


def python_version(python: Path) -> str | None:
    """3.12, or None where this is no Python that runs."""
    with suppress(OSError):
        asked = subprocess.run([python, "-c", "import sys; print(*sys.version_info[:2], sep='.')"],
                               capture_output=True, text=True)  # fmt: skip
        return asked.stdout.strip() or None
    return None


def interpreter(asked: str | None) -> Path:
    """The Python that was asked for by version, name or path; this one by default. Raises ValueError."""
    found = interpreters() if asked in PYTHONS else {}
    path = found.get(asked or "") or Path(shutil.which(asked or sys.executable) or asked or "")
    if python_version(path) in PYTHONS:
        return path
    here = ", ".join(f"{version} ({place})" for version, place in interpreters().items()) or "none is found"
    raise ValueError(f"python: got {asked or sys.executable}; allowed: a Python 3.11 to 3.13; here: {here}")
