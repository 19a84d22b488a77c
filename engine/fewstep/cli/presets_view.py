"""`fewstep info --presets`: the presets as a page, and as JSON."""

from typing import Final

from fewstep.cli.page import titled_table
from fewstep.cli.shared import emit, write_out
from fewstep.diffusion.presets import PRESETS, Preset

HEADINGS: Final = ("preset", "steps", "sampler", "levels", "guidance_scale", "network", "family")
TITLE: Final = (
    "Presets, for --plan. A guidance_scale of 1 is none, which diffusers writes as 0; an input is the network's own."
)


def show_presets(*, as_json: bool) -> None:
    """All of them."""
    if as_json:
        emit({"presets": [_as_json(preset) for preset in PRESETS.values()]})
        return
    lines = titled_table(TITLE, [HEADINGS, *(cells(preset) for preset in PRESETS.values())], keys=1)
    write_out("\n".join(lines[1:]) + "\n")


def cells(preset: Preset) -> tuple[str, ...]:
    """A preset as a line of the table."""
    network = f"{preset.network.prediction}, {preset.network.kind}"
    guided = str(preset.guidance)
    return preset.name, preset.counts, preset.sampler, preset.levels, guided, network, preset.family.title


def _as_json(preset: Preset) -> dict[str, object]:
    return {
        "name": preset.name,
        "family": preset.family.title,
        "sampler": preset.sampler,
        "steps": preset.steps,
        "defaults": preset.defaults,
        "guidance": {"rule": preset.guidance.rule, "low": preset.guidance.low, "high": preset.guidance.high},
        "prediction": preset.network.prediction,
        "kind": preset.network.kind,
        "source": preset.family.source,
    }
