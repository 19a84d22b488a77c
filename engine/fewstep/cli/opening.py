"""A model as it is opened for a request."""

import re
import warnings
from typing import TYPE_CHECKING, Any

from fewstep.errors import NoSamplerError, UntrainedPlanWarning

if TYPE_CHECKING:
    from fewstep.engine import Engine


def open_engine(
    model: str, steps: int | None, sampler: str | None, plan: str | None = None, **options: Any
) -> "Engine":
    """The engine of a model; one whose own sampler fewstep does not have is opened with the sampler that is asked for.

    Args:
        model: a folder or a name, as `Engine.from_pretrained` takes it.
        steps, sampler, plan: what the request asks for; None where it does not.
        options: of `Engine.from_pretrained`.

    Raises:
        ModelError: as there; of a sampler that is not here, unless both steps and sampler, or a plan, are asked for.
    """
    from fewstep.engine import Engine

    try:
        with warnings.catch_warnings():
            if plan is not None:  # it is being asked for
                fact = f".* looks like {re.escape(plan)} by "
                warnings.filterwarnings("ignore", fact, UntrainedPlanWarning)
            return Engine.from_pretrained(model, steps, **options)
    except NoSamplerError:
        if plan is not None:
            return Engine.from_pretrained(model, steps, defaults=plan, **options)
        if steps is None or sampler is None:
            raise
        return Engine.from_pretrained(model, steps, defaults={"sampler": sampler, "steps": steps}, **options)
