"""Models in folders and in the box, with the weights that they have."""

from importlib import import_module
from pathlib import Path
from typing import Any

from fewstep.bench.subjects.architecture import CONDITIONAL, PIXELS, given_shapes
from fewstep.bench.subjects.opening import Opening, random_condition
from fewstep.bench.subjects.subject import TRAINED, Subject
from fewstep.bench.subjects.weights import NOT_ASKED, optional_diffusers
from fewstep.errors import ModelError, reason_of
from fewstep.fields import read_json
from fewstep.models.bundled import model_folder
from fewstep.models.layouts.terrain import convert_terrain
from fewstep.models.model import Model
from fewstep.models.net.unet import UNet
from fewstep.run.backends.cache import user_folder

TERRAIN = Path(".models/terrain")  # where `fewstep convert terrain` and `make demo-terrain` put it


def folder_subject(opening: Opening) -> Subject:
    """The model of a folder, or in the box; a text that it is told is random numbers.

    diffusers' module joins where the folder is in diffusers' format.

    Raises:
        ModelError: as `Engine.from_pretrained`.
    """
    folder, name = model_folder(opening.name, opening.steps), opening.name
    model = Model.from_pretrained(folder)
    if opening.size is not None and model.shape[1:] != (opening.size, opening.size):
        model = Model.from_pretrained(folder, shape=(model.shape[0], opening.size, opening.size))
    engine = opening.engine(model)
    network = engine.module
    given = given_shapes(network.config, model.shape) if isinstance(network, UNet) else {}
    theirs, lacks = _their_module(folder, model) if opening.beside else (None, NOT_ASKED)
    return Subject(
        engine=engine,
        title=model.name or name,
        source=opening.source,
        weights=TRAINED,
        theirs=None if theirs is None else theirs.to(engine.device),
        lacks_diffusers=lacks,
        condition=random_condition(given, engine.device),
    )


def terrain(opening: Opening) -> Subject:
    """The one-step model of terrain: its folder where it is, else one in the user's cache, made of its package.

    Raises:
        ModelError: neither the folder nor the package is there.
    """
    if TERRAIN.is_dir():
        folder = TERRAIN
    else:
        cache = user_folder()
        if cache is None:
            raise ModelError(
                "terrain: is not in .models, and there is no folder for caches: make demo-terrain fetches it"
            )
        folder = cache.parent / "models" / "terrain"
        if not folder.is_dir():
            try:
                convert_terrain(None, folder)
            except ModelError as error:
                raise ModelError(f"terrain: is not here: run make demo-terrain; {error}") from error
    found = folder_subject(Opening(**{**vars(opening), "name": str(folder)}))
    return Subject(**{**vars(found), "source": opening.source})


def _their_module(folder: Path, model: Model) -> tuple[Any, str]:
    inner = folder / "unet" if (folder / "unet").is_dir() else folder
    if not (inner / "config.json").is_file():
        return None, "not in diffusers' format"
    kind = read_json(inner / "config.json", constants=True).get("_class_name")
    if kind not in (PIXELS, CONDITIONAL):
        return None, "not in diffusers' format"
    if model.guidance.inputs:
        return None, "it is told the guidance scale in another form"

    def make() -> Any:
        library: Any = import_module("diffusers")
        return getattr(library, kind).from_pretrained(inner, local_files_only=True, use_safetensors=True).eval()

    try:
        return optional_diffusers(make)
    except (OSError, ValueError) as error:
        return None, f"diffusers does not read it: {reason_of(error)}"
