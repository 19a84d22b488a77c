"""docs/serving.md and docs/deploy.md are true: curl and Python run against a server, files of others are read."""

import configparser
import json
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from support.cli_case import parse_only
from support.serving import Remote, digits_family, running_server
from support.sources import FEWSTEP
from support.tree import ROOT

SERVING, DEPLOY = (ROOT / "docs/serving.md").read_text(), (ROOT / "docs/deploy.md").read_text()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ADDRESS = "http://127.0.0.1:8000"
CURLS = [line for _, text in BLOCK.findall(SERVING) for line in text.splitlines() if line.startswith("curl ")]
INSTRUCTIONS = {"ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "RUN", "STOPSIGNAL", "USER"}
INSTRUCTIONS |= {"VOLUME", "WORKDIR"}


@pytest.fixture(scope="module")
def server() -> Iterator[Remote]:
    with running_server(digits_family()) as remote:
        yield remote


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    Image.radial_gradient("L").resize((32, 32)).save(folder / "photo.png")
    Image.new("LA", (32, 32), (0, 0)).save(folder / "mask.png")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("line", CURLS, ids=lambda line: str(line).rpartition(" ")[2])
def test_lines_of_curl_give_pictures(line: str, server: Remote, pictures: Path) -> None:
    words = shlex.split(line.replace(ADDRESS, server.url))
    done = subprocess.run(words, cwd=pictures, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, (line, done.stderr)
    written = pictures / words[-1]
    if written.suffix == ".png":
        with Image.open(written) as image:
            assert image.size == (32, 32)
    elif written.suffix == ".json":
        assert json.loads(written.read_text())["data"]
    else:
        assert "event: image_generation.completed" in written.read_text()


def test_every_example_of_the_page_was_seen() -> None:
    assert len(CURLS) == 7


@pytest.mark.slow
def test_lines_of_python_run(server: Remote, capsys: pytest.CaptureFixture[str]) -> None:
    namespace: dict[str, object] = {}
    for language, text in BLOCK.findall(SERVING):
        if language == "python":
            exec(compile(text.replace(ADDRESS, server.url), "docs/serving.md", "exec"), namespace)
    assert bytes(namespace["picture"]).startswith(b"\x89PNG")  # type: ignore[call-overload]
    assert capsys.readouterr().out.splitlines()[-1] == "image_generation.completed"


def test_metrics_of_the_page_are_the_server_s() -> None:
    code = "".join(path.read_text() for path in (FEWSTEP / "serve").rglob("*.py"))
    names = set(re.findall(r"fewstep_(\w+)", DEPLOY))
    assert len(names) >= 12
    assert [name for name in names if f'"{name.removesuffix("_total")}"' not in code] == []


def test_the_unit_of_systemd_starts_the_server() -> None:
    (text,) = (text for language, text in BLOCK.findall(DEPLOY) if language == "ini")
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(text)
    program, *words = shlex.split(unit["Service"]["ExecStart"])
    assert program.endswith("/fewstep")
    parse_only(words)
    drain = int(words[words.index("--drain-timeout") + 1])
    assert int(unit["Service"]["TimeoutStopSec"]) > drain


def test_the_configuration_of_nginx_is_whole() -> None:
    (text,) = (text for language, text in BLOCK.findall(DEPLOY) if language == "nginx")
    assert text.count("{") == text.count("}")
    assert all(line.strip()[-1] in "{};" for line in text.splitlines())
    assert "proxy_buffering off;" in text


def instructions(text: str) -> list[tuple[str, str]]:
    """Of a Dockerfile, with continued lines joined."""
    lines = re.sub(r"\\\n\s*", " ", "\n".join(line for line in text.splitlines() if not line.startswith("#")))
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in lines.splitlines() if line]


def test_the_dockerfile_is_as_the_page_says() -> None:
    """Read, not built."""
    found = instructions((ROOT / "Dockerfile").read_text())
    assert {name for name, _ in found} <= INSTRUCTIONS
    stages = [place for place, (name, _) in enumerate(found) if name == "FROM"]
    assert len(stages) == 2
    last = dict(found[stages[-1] :])
    assert last["USER"] == "10001"
    assert "/ready" in last["HEALTHCHECK"]
    for name, what in found:
        if name == "COPY" and "--from" not in what:
            assert [word for word in what.split()[:-1] if not (ROOT / word).exists()] == []
    kept = (ROOT / ".dockerignore").read_text().splitlines()
    copied = {word for name, what in found if name == "COPY" and "--from" not in what for word in what.split()[:-1]}
    assert {f"!{word}" for word in copied} <= set(kept)
    program, *words = [*json.loads(last["ENTRYPOINT"]), *json.loads(last["CMD"])]
    assert program == "fewstep"
    parse_only(words)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    asked = {extra for _, what in found for part in re.findall(r"extras=([\w,]+)", what) for extra in part.split(",")}
    assert asked
    assert asked <= set(extras)


def test_containers_of_the_page_are_given_what_the_dockerfile_takes() -> None:
    lines = [line for _, text in BLOCK.findall(DEPLOY) for line in text.splitlines() if line.startswith("docker ")]
    arguments = {
        what.partition("=")[0] for name, what in instructions((ROOT / "Dockerfile").read_text()) if name == "ARG"
    }
    assert len(lines) == 4
    for line in lines:
        assert set(re.findall(r"--build-arg (\w+)=", line)) <= arguments
        if " run " in line:
            parse_only(["serve", *re.split(r"\sfewstep(?::cuda)?\s", line)[1].split()])
