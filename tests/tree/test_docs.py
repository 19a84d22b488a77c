"""The documentation is true: its code runs and prints what it says, its commands parse, its names and links resolve."""

import ast
import contextlib
import functools
import io
import re
import shlex
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from typer.main import get_command

from fewstep.cli.app import app, main
from fewstep.errors import FewstepError
from fewstep.models import UNet, UNetConfig
from fewstep.models.load import save_model
from fewstep.models.spec import ModelSpec
from support.cli_case import parse_only
from support.tree import ROOT

NAMES = ("quickstart", "backends", "design", "troubleshooting", "stable-diffusion")
PAGES = [ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in NAMES)]
LINKED = [ROOT / "CONTRIBUTING.md", *PAGES, *sorted({*(ROOT / "docs").glob("*.md")} - {*PAGES})]
PACKAGES = {"fewstep": ROOT / "engine/fewstep", "fewstep_kernels": ROOT / "kernels/fewstep_kernels"}
INSTANCES = {
    "session": "Session",
    "engine": "Engine",
    "plan": "Plan",
    "samples": "Samples",
    "step": "Step",
    "buffers": "StaticBuffers",
}
LIBRARIES = {"torch": torch, "nn": torch.nn}

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FILE_NAME = re.compile(r"(?!out/|\.models/)[\w./-]*\w\.(py|md|ipynb|toml|txt)")
DOTTED = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+)(\(.*\))?")
WORD = re.compile(r"([A-Za-z_]\w*)(\(\))?")

EXPENSIVE = ("convert", "bench", "serve")  # parsed here, run by tests of their own
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """Each fenced block: its language and its text."""
    yield from BLOCK.findall(page.read_text())


def inline_code(page: Path) -> set[str]:
    """Each `piece` of inline code."""
    return set(re.findall(r"`([^`\n]+)`", BLOCK.sub("", page.read_text())))


def anchors(page: Path) -> set[str]:
    """What a link to a heading of the page may say after the #."""
    headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@functools.cache
def sources() -> dict[str, str]:
    """The text of every module, by its full name."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in folder.rglob("*.py"):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            found[".".join(parts).removesuffix(".__init__")] = path.read_text()
    return found


def names_in(body: Sequence[ast.stmt]) -> set[str]:
    """What the statements of a module or a class bind, and what its methods assign to self."""
    found = set()
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            found |= {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
        for inner in ast.walk(node):
            if isinstance(inner, ast.Attribute) and isinstance(inner.value, ast.Name) and inner.value.id == "self":
                found.add(inner.attr)
    return found


@functools.cache
def members() -> dict[str, set[str]]:
    """What each module, by its full name, and each class, by its name, has."""
    found: dict[str, set[str]] = {}
    bases: dict[str, list[str]] = {}
    for module, text in sources().items():
        body = ast.parse(text).body
        found[module] = names_in(body)
        for node in body:
            if isinstance(node, ast.ClassDef):
                found[node.name] = found.get(node.name, set()) | names_in(node.body)
                bases[node.name] = [base.id for base in node.bases if isinstance(base, ast.Name)]
    for name, inherited in bases.items():
        found[name] |= set().union(*(found.get(base, set()) for base in inherited))
    return found


def resolves(dotted: str) -> bool:
    """Whether a dotted name leads to something: library.name, module, module.name, [module.]Class.name."""
    *owner, name = dotted.split(".")
    if owner[0] in LIBRARIES:
        return hasattr(LIBRARIES[owner[0]], owner[-1] if len(owner) > 1 else name)
    *before, last = owner
    last = INSTANCES.get(last, last) if not before else last
    held_by = [last] if last in members() else []
    held_by += [module for module in sources() if f".{module}".endswith("." + ".".join([*before, last]))]
    is_module = any(f".{module}".endswith(f".{dotted}") for module in sources())
    return is_module or any(name in members()[holder] for holder in held_by)


@functools.cache
def words() -> set[str]:
    """Every word of the code."""
    texts = [*sources().values(), (ROOT / "Makefile").read_text(), (ROOT / "pyproject.toml").read_text()]
    return set(re.findall(r"\w+", "\n".join(texts)))


def unknown(code: str) -> bool:
    """Whether a piece of inline code names what is not there."""
    if FILE_NAME.fullmatch(code):
        return not any(ROOT.glob(code) if "/" in code else ROOT.glob(f"*/**/{code}")) and not (ROOT / code).exists()
    if dotted := DOTTED.fullmatch(code):
        return not dotted[1].endswith(("json", "safetensors", "png", "npy")) and not resolves(dotted[1])
    word = WORD.fullmatch(code)
    return word is not None and word[1] not in words()


def stand_in_for_terrain(folder: Path) -> None:
    """A folder that is asked for as the terrain model is: its spec, but a small U-Net with random weights."""
    config = UNetConfig(
        in_channels=1,
        out_channels=1,
        channels=(8, 8),
        layers=1,
        down_attention=(False, False),
        up_attention=(False, False),
        down=("conv",),
        up=("conv",),
        mid_attention=False,
        groups=4,
        label_range=(1.0, 100.0),
    )
    spec = ModelSpec(
        name="terrain",
        family="adm",
        unet=config,
        shape=(1, 32, 32),
        schedule={"name": "karras"},
        prediction="consistency",
        plan={"sampler": "consistency", "steps": 1, "clip": 1.0},
        labels={"kind": "continuous", "min": 1.0, "max": 100.0},
    )
    torch.manual_seed(0)
    save_model(folder, UNet(config), spec)


def stand_in_for_sdxl(folder: Path) -> None:
    """A pipeline in "sdxl", small and with random weights, and a LoRA for it in "style.safetensors"."""
    from support.pipelines_case import saved

    saved("xl text to image", folder / "sdxl")
    layer = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    with safe_open(folder / "sdxl/unet/diffusion_pytorch_model.safetensors", "pt") as weights:
        rows, columns = weights.get_slice(f"{layer.removeprefix('unet.')}.weight").get_shape()
    lora = {"lora_A": torch.ones(2, columns), "lora_B": torch.ones(rows, 2)}
    save_file({f"{layer}.{name}.weight": tensor for name, tensor in lora.items()}, folder / "style.safetensors")


def stand_in_for_controlnet(folder: Path) -> None:
    """A small pipeline with a ControlNet in "sd-canny", with random weights, and a picture for it in "edges.png"."""
    from support.pipelines_case import picture, saved

    saved("controlnet", folder / "sd-canny")
    picture().save(folder / "edges.png")


def run_line(line: str, parsed: Sequence[str]) -> None:
    """Run a line of a shell block, or check as much of it as costs nothing: so of the verbs that are only parsed."""
    command, *arguments = shlex.split(line, comments=True)
    if command == "make":
        verbs = set(re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
        assert {argument for argument in arguments if "=" not in argument} <= verbs, line
    elif command == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert set(re.findall(r"\[(\w+)\]", line)) <= set(extras), line
    elif command == "curl":
        assert "http://127.0.0.1:8000/" in arguments[1], line  # tests/serve/test_server_readme.py runs it
    elif command == "python":
        assert (ROOT / arguments[0]).exists(), line
    else:
        assert command == "fewstep", line
        if arguments[0] in parsed:
            parse_only(arguments)
        else:
            assert main(arguments) == 0, line


def output_of(language: str, text: str, namespace: dict[str, object]) -> str:
    """What a block prints; a fewstep error that ends it is printed as Python ends a traceback."""
    with contextlib.redirect_stdout(io.StringIO()) as stdout:
        if language == "python":
            try:
                exec(compile(text, text.splitlines()[0], "exec"), namespace)
            except FewstepError as error:
                print(f"{type(error).__name__}: {error}")
        else:
            # What begins with training is run, in a shorter form, by a test of its own.
            parsed = get_command(app).commands if "fewstep train" in text else EXPENSIVE
            for line in text.splitlines():
                run_line(line, tuple(parsed))
    return stdout.getvalue()


@pytest.mark.slow
@every_page
def test_code_on_the_page_runs_and_prints_what_it_says(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEWSTEP_CACHE", str(tmp_path / "cache"))  # which a page clears
    stand_in_for_terrain(tmp_path / ".models/terrain")
    if page.stem in ("stable-diffusion", "README"):
        stand_in_for_sdxl(tmp_path)
    if page.stem == "stable-diffusion":
        stand_in_for_controlnet(tmp_path)
    for name in ("photo.png", "mask.png"):
        Image.linear_gradient("L").save(tmp_path / name)
    namespace: dict[str, object] = {}
    printed = ""
    for language, text in blocks(page):
        if language == "text":
            assert text == printed
            printed = ""
        elif language in ("python", "sh"):
            assert "Error: " not in printed
            printed = output_of(language, text, namespace)
    assert "Error: " not in printed


@pytest.mark.slow
@every_page
def test_names_on_the_page_are_in_the_code(page: Path) -> None:
    assert sorted(code for code in inline_code(page) if unknown(code)) == []


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.name)
def test_links_on_the_page_resolve(page: Path) -> None:
    for target in LINK.findall(BLOCK.sub("", page.read_text())):
        name, _, anchor = target.partition("#")
        if name.startswith("https://"):
            continue
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


@pytest.mark.parametrize(
    "code",
    ["loop.sample_loops", "Engine.draw", "engine/fewstep/lop.py", "lop.py", "sample_loops", "plan.colum()"],
    ids=["function", "method", "path", "file", "word", "call"],
)
def test_a_name_that_is_not_there_is_found_out(code: str) -> None:
    assert unknown(code)


@pytest.mark.parametrize(
    "code",
    ["loop.sample_loop", "Engine.sample", "samples.images", "engine/fewstep/run/loop.py", "loop.py", "sample_loop"],
    ids=["function", "method", "field", "path", "file", "word"],
)
def test_a_name_that_is_there_is_known(code: str) -> None:
    assert not unknown(code)


def test_pictures_stay_small() -> None:
    pictures = [path for path in (ROOT / "docs/images").iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in pictures) <= 600_000
