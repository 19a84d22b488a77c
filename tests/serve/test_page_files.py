"""The page's files: all are there, in the wheel and on the wire, and nothing of them comes from elsewhere."""

import re
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from typing import Final

import pytest

from fewstep.serve.http.routes.page import TYPES, assets
from fewstep.serve.settings import Settings
from support.serving import Remote, running_server
from support.sources import FEWSTEP
from support.tree import ROOT

FOLDER: Final = FEWSTEP / "serve" / "page"
SCRIPTS: Final = {name: each.content.decode() for name, each in assets().items() if name.endswith(".js")}
HTML: Final = assets()["index.html"].content.decode()


@pytest.fixture(scope="module")
def server() -> Iterator[Remote]:
    with running_server() as remote:
        yield remote


def test_every_file_is_served_and_asked_about_each_time(server: Remote) -> None:
    for name, each in assets().items():
        path = "/" if name == "index.html" else f"/page/{name}"
        answer = server.get(path)
        assert (answer.status, answer.body) == (200, each.content), name
        assert answer.headers["content-type"] == TYPES[name[name.rfind(".") :]]
        assert answer.headers["cache-control"] == "no-cache"
        again = server.get(path, headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status, again.body) == (304, b"")


def test_the_page_may_run_its_own_files_alone(server: Remote) -> None:
    answer = server.get("/")
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", HTML)


@pytest.mark.parametrize("name", ["none.js", "..%2Fapp.py", "%2e%2e/settings.py", "index.html%00"])
def test_no_other_file_is_served(server: Remote, name: str) -> None:
    assert server.get(f"/page/{name}").status == 404


def test_without_a_page_there_is_none() -> None:
    with running_server(settings=Settings(page=False)) as remote:
        assert {remote.get(path).status for path in ("/", "/page/style.css")} == {404}


def test_live_says_what_stands_where(server: Remote) -> None:
    said = server.get("/live").json
    assert (said["phase"], said["queued"]) == ("ready", 0)
    assert said["slots"] > 0
    assert set(said["running"].values()) <= {0}


def test_every_file_that_is_named_exists_and_every_file_is_named() -> None:
    named = set(re.findall(r'(?:href|src)="/page/([^"]+)"', HTML)) | {"index.html"}
    for text in SCRIPTS.values():
        named |= set(re.findall(r'from "\./([^"]+)"', text))
    assert named == set(assets())


def test_every_part_of_the_page_that_a_script_looks_for_is_there() -> None:
    ids = re.findall(r'\bid="([^"]+)"', HTML)
    assert len(ids) == len(set(ids))
    for name, text in SCRIPTS.items():
        made = set(re.findall(r'\bid: "([^"]+)"', "".join(SCRIPTS.values())))
        assert set(re.findall(r'byId\("([^"]+)"\)', text)) <= {*ids, *made}, name
    assert set(re.findall(r'\bfor="([^"]+)"', HTML)) <= set(ids)


def test_nothing_comes_from_elsewhere() -> None:
    for name, each in assets().items():
        text = each.content.decode().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|//\w+\.\w+/|@import|innerHTML|\beval\(", text), name
    assert sum(len(each.content) for each in assets().values()) < 100_000


def test_the_wheel_has_every_file() -> None:
    packaged = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["fewstep"]
    for path in FOLDER.iterdir():
        assert path.suffix in TYPES
        assert any(fnmatch(path.relative_to(FEWSTEP).as_posix(), pattern) for pattern in packaged), path.name


def test_files_of_the_page_stay_short() -> None:
    lines = {path.name: len(path.read_text().splitlines()) for path in FOLDER.iterdir()}
    assert not {name: n for name, n in lines.items() if name.endswith(".js") and n > 450}
    widest = {name: max(map(len, text.splitlines())) for name, text in SCRIPTS.items()}
    assert not {name: n for name, n in widest.items() if n > 120}
