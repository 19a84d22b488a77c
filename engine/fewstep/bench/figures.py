"""What is known of a network and a machine beside the times: the work of a call, and the ceilings of all runs."""

from collections.abc import Sequence

from fewstep.bench import ceilings, floor
from fewstep.bench.contenders import EAGER
from fewstep.bench.lineup import Lineup
from fewstep.bench.results import Reading
from fewstep.bench.subjects import Subject
from fewstep.models.net.unet import count_parameters


def works(known: Lineup) -> dict[str, floor.Work]:
    """What a call of the network must do, by the dtype that it computes in."""
    subjects = {racer.contender.dtype: racer.subject for racer in known.racers if racer.contender.kind == EAGER}
    counted = floor.count(known.exact)
    return {dtype: floor.work_of(subject, counted) for dtype, subject in subjects.items()}


def ceilings_in(*runs: Sequence[Reading]) -> dict[str, dict[str, object]]:
    """The ceilings by dtype that the readings of some runs were held against: see `ceilings.best`."""
    told = [
        {each.contender.dtype: each.figures["ceiling"] for each in run if "ceiling" in each.figures} for run in runs
    ]
    return ceilings.best(told)


def describe_model(subject: Subject) -> dict[str, object]:
    """What is measured, in words and numbers; `flops` and `bytes` are of a call on one sample in float32."""
    engine = subject.engine
    work = floor.work_of(subject, floor.count(subject))
    return {
        "title": subject.title,
        "weights": subject.weights,
        "parameters": count_parameters(engine.module),
        "shape": list(engine.model.shape),
        "prediction": engine.model.prediction,
        "schedule": engine.model.schedule.name,
        **work.call(1),
    }
