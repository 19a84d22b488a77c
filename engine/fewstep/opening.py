"""A model as it is opened for a request: a folder of one network, or a whole pipeline that reads prompts."""

import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewstep.errors import ArgumentError, NoSamplerError, UntrainedPlanWarning

if TYPE_CHECKING:
    from fewstep.engine import Engine


def open_engine(
    model: str,
    steps: int | None,
    sampler: str | None,
    plan: str | None = None,
    size: Mapping[str, int | None] | None = None,
    quiet: bool = False,
    **options: Any,
) -> "Engine":
    """The engine of a model; one whose own sampler fewstep does not have is opened with the sampler that is asked for.

    Args:
        model: a folder or a name, as `Engine.from_pretrained` takes it, or the folder of a pipeline that reads prompts.
        steps, sampler, plan: what the request asks for; None where it does not.
        size: height and width of a pipeline's images in pixels; None for what it was trained for.
        quiet: no bars while a pipeline is read; there are none either where stderr is no terminal.
        options: of `Engine.from_pretrained`.

    Raises:
        ModelError: as there; of a sampler that is not here, unless both steps and sampler, or a plan, are asked for.
        ArgumentError: a size for a model that draws at its own.
    """
    opened = _opener(model, steps, {} if size is None else size, options, quiet)
    try:
        with warnings.catch_warnings():
            if plan is not None:  # it is being asked for
                fact = f".* looks like {re.escape(plan)} by "
                warnings.filterwarnings("ignore", fact, UntrainedPlanWarning)
            return opened()
    except NoSamplerError:
        if plan is not None:
            return opened(defaults=plan)
        if steps is None or sampler is None:
            raise
        return opened(defaults={"sampler": sampler, "steps": steps})


def reads_prompts(model: str, steps: int | None) -> bool:
    """Whether a model is a whole pipeline that reads prompts. ModelError where there is none of that name."""
    from fewstep.models.bundled import model_folder
    from fewstep.pipelines.folder import text_pipeline

    return text_pipeline(model_folder(model, steps)) is not None


def takes_picture(model: str, steps: int | None) -> bool:
    """Whether a model is a whole pipeline that draws after a picture too. ModelError where there is none of it."""
    from fewstep.models.bundled import model_folder
    from fewstep.pipelines.folder import text_pipeline
    from fewstep.pipelines.from_pipeline import CONTROLLED

    return text_pipeline(model_folder(model, steps)) in CONTROLLED


def _opener(
    model: str, steps: int | None, size: Mapping[str, int | None], options: Mapping[str, Any], quiet: bool
) -> Callable[..., "Engine"]:
    from fewstep.engine import WAYS, Engine
    from fewstep.models.bundled import model_folder
    from fewstep.pipelines.folder import load_pipeline, text_pipeline
    from fewstep.run.runner_choice import chosen_device

    folder = model_folder(model, steps)
    if text_pipeline(folder) is None:
        for name, value in size.items():
            if value is not None:
                raise ArgumentError(name, value, "nothing: only a pipeline that reads prompts draws at other sizes")
        return partial(Engine.from_pretrained, model, steps, **options)
    device, reading = chosen_device(options.get("device")), ("dtype", "variant", "allow_pickle")
    with _few_words(quiet):
        pipe = load_pipeline(Path(folder), **{name: options[name] for name in reading if name in options})
    ways = {name: options[name] for name in WAYS if name in options}
    return partial(Engine.from_pipeline, pipe.to(device), height=size.get("height"), width=size.get("width"), **ways)


@contextmanager
def _few_words(quiet: bool) -> Iterator[None]:
    """Within it diffusers and transformers read models without their bars, and without notes of what they fall back to.

    Neither is imported where it is missing: who needs it says so.
    """
    verbosity = "TRANSFORMERS_VERBOSITY"  # read when it is imported
    said = os.environ.get(verbosity)
    os.environ.setdefault(verbosity, "error")
    try:
        from diffusers.utils import logging as of_diffusers
        from transformers.utils import logging as of_transformers

        libraries: list[Any] = [of_diffusers, of_transformers]
    except ImportError:
        libraries = []
    finally:
        if said is None:
            del os.environ[verbosity]
    silent = quiet or not sys.stderr.isatty()
    for library in libraries:
        if silent:
            library.disable_progress_bar()
    try:
        yield
    finally:
        for library in libraries:
            library.enable_progress_bar()
