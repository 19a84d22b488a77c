"""What a run came to and what made it, put together for its user."""

from fewstep.models.model import Model
from fewstep.request.conditions.labels import name_of
from fewstep.request.request import Request
from fewstep.results import Samples
from fewstep.run.callbacks import Following
from fewstep.run.decode import Images


def record(model: Model, request: Request, run: Following, seconds: float, making: float) -> Samples:
    """The images of a request that ran for so many seconds, in which its network was made ready, and what made them."""
    images = Images.cat(run.parts)
    values, names = images.values, model.conditions.names
    backends = run.backends + [""] * (len(request) - len(run.backends))  # of those that were stopped before
    if model.decoder is None and images.finite is None:
        values = values.view(len(values), *model.shape)
    return Samples(
        images=values,
        seeds=list(request.seeds),
        plan=request.plans[0] if len({id(each) for each in request.plans}) == 1 else list(request.plans),
        labels=request.labels,
        model_calls=run.calls,
        seconds=seconds - making,
        ready_seconds=making,
        cancelled=[place in run.cancelled for place in range(len(request))],
        log_prob=images.log_prob,
        finite=() if images.finite is None else images.finite.tolist(),
        parameters=[
            {"model": model.name, **request.parameters(place), "backend": backends[place] or None}
            for place in range(len(request))
        ],
        guidance_scales=request.scales,
        label_names=[name_of(label, names) for label in request.labels or ()] if names else [],
    )
