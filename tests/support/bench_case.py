"""Networks so small that a benchmark of them is over in a moment."""

from collections.abc import Sequence
from typing import Any

from fewstep import Engine, Model, schedules
from fewstep.bench import PRESETS, Subject
from fewstep.bench.clock import Timing
from fewstep.bench.contenders import Case, Contender
from fewstep.bench.results import MEASURED, Reading
from fewstep.bench.subjects import random_unet

TINY: dict[str, Any] = {
    **PRESETS["cifar10-ddpm"],
    "sample_size": 8,
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "norm_num_groups": 4,
}
QUICK = ["--steps", "1,4", "--batch", "1,2", "--repeats", "2", "--no-cold", "--quiet", "--beside", "diffusers,bare"]


def tiny_subject(prediction: str = "eps", schedule: schedules.Schedule | None = None) -> Subject:
    """The U-Net of TINY, without diffusers beside it."""
    unet, _ = random_unet(TINY)
    chosen = schedules.linear() if schedule is None else schedule
    model = Model(unet, schedule=chosen, shape=(3, 8, 8), prediction=prediction)
    return Subject(Engine(model, device="cpu"), "tiny", {"name": "tiny"}, lacks_diffusers="not asked for")


def read(case: Case, contender: Contender, *walls: float, reference: Sequence[float], **figures: Any) -> Reading:
    """A reading of these times in seconds, half of each within the network, beside the reference's."""
    own, other = ([Timing(wall, wall / 2, 0.0, case.steps) for wall in each] for each in (walls, reference))
    return Reading("tiny", case, contender, MEASURED, own, other, figures=figures)
