"""What diffusers' pipelines do around the `step` of a scheduler, where the scheduler does not say it itself."""

from typing import Any, NamedTuple

# What a config's `prediction_type` is called here.
PREDICTION_TYPES = {
    "epsilon": "eps",
    "sample": "x_0",
    "v_prediction": "v",
    "flow_prediction": "flow",
    "trigflow": "v",
}


class Convention(NamedTuple):
    """Of one class and those made from it."""

    prediction: str | None = None  # what its network predicts, where no `prediction_type` says it
    time_per_sample: bool = False  # `step` takes a timestep for each sample
    in_units_of_data: bool = False  # x / sigma_data goes to the network, and what it answers times sigma_data to `step`


CONVENTIONS = {
    "CMStochasticIterativeScheduler": Convention("consistency"),
    "ConsistencyDecoderScheduler": Convention("edm"),
    "DDPMWuerstchenScheduler": Convention("eps", time_per_sample=True),
    "IPNDMScheduler": Convention("v"),
    "MiniMaxH3Scheduler": Convention("-flow"),  # x_0 - z: no word of ours, so no Model takes its plans by mistake
    "SCMScheduler": Convention(in_units_of_data=True),
}


def convention(scheduler: Any) -> Convention:
    """That of a scheduler's class, or of the nearest class it is made from."""
    names = (each.__name__ for each in type(scheduler).__mro__)
    return next((CONVENTIONS[name] for name in names if name in CONVENTIONS), Convention())


def setting(scheduler: Any, name: str, otherwise: Any = None) -> Any:
    """A value of the scheduler's config."""
    found = getattr(getattr(scheduler, "config", None), name, None)
    return otherwise if found is None else found


def prediction_of(scheduler: Any, flow: bool) -> str | None:
    """What its network predicts, in our words; None where nothing says it.

    `flow`: its levels are those of a flow, whose schedulers say nothing of it. A network that is preconditioned, as
    `sigma_data` tells, and predicts "epsilon" or "sample", is Karras et al.'s F.
    """
    named = setting(scheduler, "prediction_type")
    if named is None:
        return convention(scheduler).prediction or ("flow" if flow else None)
    if setting(scheduler, "sigma_data") is not None and named == "epsilon":
        return "edm"
    return PREDICTION_TYPES.get(named)
