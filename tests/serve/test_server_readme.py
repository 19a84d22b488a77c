"""The README's commands and the example start a server and get an image from it with curl, as they stand."""

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from support.serving import PATIENCE, digits_family, running_server
from support.tree import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")]

SECTION = (ROOT / "README.md").read_text().partition("## Serve it\n")[2].partition("\n## ")[0]
LINES = [
    line
    for block in re.findall(r"^```sh\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]


def environment() -> dict[str, str]:
    """Where `fewstep` is the one that is tested."""
    packages = os.pathsep.join(str(ROOT / name) for name in ("engine", "kernels"))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PYTHONPATH": packages, "PATH": path, "FEWSTEP_BACKEND": "torch", "OMP_NUM_THREADS": "1"}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_the_readme_has_two_commands_and_its_curl_gets_an_image(tmp_path: Path) -> None:
    serve, curl = LINES
    assert serve == "fewstep serve digits"
    with running_server(digits_family()) as remote:
        command = shlex.split(curl.replace("http://127.0.0.1:8000", remote.url))
        assert command[0] == "curl"
        subprocess.run(command, cwd=tmp_path, check=True, timeout=PATIENCE)
        (picture,) = tmp_path.iterdir()
        with Image.open(picture) as image:
            assert (image.format, image.size) == ("PNG", (32, 32))
            assert image.getextrema() != (0, 0)


def test_the_example_starts_a_server_draws_and_stops_it(tmp_path: Path) -> None:
    port = free_port()
    script, out = ROOT / "examples/serve_and_curl.sh", tmp_path / "new/curl.png"
    ran = subprocess.run(
        ["sh", str(script), str(out)],
        env=environment() | {"PORT": str(port)},
        capture_output=True,
        text=True,
        timeout=5 * PATIENCE,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1] == str(out)
    assert f"digits on http://127.0.0.1:{port}" in ran.stdout
    with Image.open(out) as image:
        assert image.size == (32, 32)
    socket.create_server(("127.0.0.1", port)).close()  # nobody listens there any more
    assert '"event": "ended", "code": 0' in ran.stderr
    assert '"level": "warning"' not in ran.stderr


@pytest.mark.parametrize(
    ("accept", "kind"), [("image/png", "image/png"), ("image/*, text/html", "image/png"), ("*/*", "application/json")]
)
def test_who_asks_for_an_image_gets_the_file_itself(accept: str, kind: str) -> None:
    with running_server() as remote:
        body = {"model": "tiny", "prompt": "3", "seed": 5}
        answer = remote.post("/v1/images/generations", body, headers={"Accept": accept})
        assert (answer.status, answer.headers["content-type"]) == (200, kind)
        assert ("x-fewstep" in answer.headers) == (kind == "image/png")
        answer = remote.post("/v1/images/generations", body | {"n": 2}, headers={"Accept": accept})
        assert answer.status == (400 if kind == "image/png" else 200)
