"""`fewstep info --samplers`: every sampler as a line of a table, and as JSON."""

from collections.abc import Iterator
from typing import Any, Final

from fewstep.checks import real
from fewstep.cli.page import titled_table
from fewstep.cli.shared import emit, write_out
from fewstep.diffusion import schedules
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers import SAMPLERS, Sampler, build_plan
from fewstep.diffusion.schedules import Kind, Schedule

HEADINGS: Final = ("sampler", "what it is", "schedules", "spacing", "noise", "order", "calls", "history", "closed")
WORDS: Final = 5  # of these, columns of words
TITLE: Final = "Samplers, for --sampler: calls of the network at N noise levels, past values that a call looks back at"
LEVELS: Final = 9  # of the example, more than any sampler looks back
EXAMPLES: Final[dict[Kind, Schedule]] = {
    "vp": schedules.linear(),
    "flow": schedules.flow(),
    "ve": schedules.karras(),
    "trig": schedules.trigflow(),
}


def show_samplers(*, as_json: bool) -> None:
    """All of them."""
    if as_json:
        emit({"samplers": [facts(name) for name in SAMPLERS]})
        return
    lines = titled_table(TITLE, [HEADINGS, *(cells(name) for name in SAMPLERS)], keys=1, left=WORDS)
    write_out("\n".join(lines[1:]) + "\n")


def facts(name: str) -> dict[str, Any]:
    """What its entry in SAMPLERS says of a sampler, and what an example of its plans shows."""
    sampler = SAMPLERS[name]
    example = _example(name)
    return {
        "name": name,
        "summary": sampler.summary,
        "order": sampler.order,
        "stochastic": example.stochastic,
        "made_stochastic_by": [] if example.stochastic else list(_ways_to_noise(name)),
        "calls": _calls(sampler),
        "history": example.history,
        "closed": example.closed,
        "kinds": list(sampler.kinds),
        "spacing": sampler.spacing,
        "predictions": list(sampler.predictions),
        "options": list(sampler.options),
    }


def cells(name: str) -> tuple[str, ...]:
    """A sampler as a line of the table."""
    known = facts(name)
    with_noise = f"with {' or '.join(known['made_stochastic_by'])}" if known["made_stochastic_by"] else "-"
    return (
        name,
        known["summary"],
        ", ".join(known["kinds"]),
        known["spacing"],
        "yes" if known["stochastic"] else with_noise,
        str(known["order"] or "-"),
        known["calls"],
        str(known["history"] or "-"),
        "yes" if known["closed"] else "-",
    )


def _example(name: str, **own: float) -> Plan:
    sampler = SAMPLERS[name]
    prediction = "v" if "v" in sampler.predictions else None
    return build_plan(name, EXAMPLES[sampler.kinds[0]], sampler.calls(LEVELS), prediction, **own)  # type: ignore[arg-type]


def _ways_to_noise(name: str) -> Iterator[str]:
    """The options that are 0 and with which, above it, noise is drawn."""
    for option, default in SAMPLERS[name].options.items():
        if not isinstance(default, bool) and real(default) == 0 and _example(name, **{option: 0.5}).stochastic:
            yield option


def _calls(sampler: Sampler) -> str:
    """Calls at N noise levels: "N", "2N - 1", as a line through the first two counts above one level."""
    each = sampler.calls(3) - sampler.calls(2)
    more = sampler.calls(2) - 2 * each
    sign = f" {'+' if more > 0 else '-'} {abs(more)}" if more else ""
    return f"{'' if each == 1 else each}N{sign}"
