"""The table of presets: every row makes the plans it names, and these are its source's."""

import re
import warnings
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from fewstep import schedules
from fewstep.cli.presets_view import HEADINGS, cells
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.presets import PRESETS, Preset, preset_named
from fewstep.diffusion.samplers import SAMPLERS, make_plan
from fewstep.diffusion.schedules import Schedule
from fewstep.diffusion.trained import counted
from fewstep.errors import ArgumentError
from fewstep_kernels.row import COLUMN
from support.diffusers_loops import TOLERANCE, difference, dummy_model, noise_for, run_diffusers, run_ours
from support.tree import ROOT

SCHEDULES: dict[str, Schedule] = {
    "vp": schedules.scaled_linear(),
    "flow": schedules.flow(1000, 3.0),
    "ve": schedules.karras(),
    "trig": schedules.trigflow(),
}
every_preset = pytest.mark.parametrize("preset", PRESETS.values(), ids=list(PRESETS))


def plan_of(preset: Preset, **changes: Any) -> Plan:
    return make_plan(
        schedule=SCHEDULES[preset.network.kind],
        prediction=preset.network.prediction,
        **{**preset.defaults, "guidance_scale": 1.0, **changes},
    )


@every_preset
def test_every_row_makes_the_plans_it_names(preset: Preset) -> None:
    assert preset.defaults["steps"] in preset.steps
    assert preset.family.source.startswith("https://")
    for steps in preset.steps:
        plan = plan_of(preset, steps=steps, guidance_scale=preset.scale or 1.0)
        assert preset.trained.lists(plan.sampler, len(plan))
        assert not plan.wasted
        assert np.isfinite(np.delete(plan.rows, COLUMN["clip"], axis=1)).all()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            preset.trained.warn("it", plan, lambda steps: plan_of(preset, steps=steps), 1)
    assert preset.network.kind in SAMPLERS[preset.sampler].kinds


@every_preset
def test_a_preset_is_for_its_network_and_its_kind_of_schedule(preset: Preset) -> None:
    for kind, schedule in SCHEDULES.items():
        for prediction in ("eps", "x_0", "v", "flow", "consistency"):
            if (prediction, kind) == preset.network:
                preset.check("plan", schedule, prediction)
            else:
                with pytest.raises(ArgumentError, match=f"plan: got {preset.name}, for a .*; allowed: one for"):
                    preset.check("plan", schedule, prediction)


def test_guidance_is_none_where_it_is_in_the_weights() -> None:
    assert PRESETS["lightning-4"].trained.scales == (1.0, 1.0)
    assert PRESETS["lcm-lora"].trained.scales == (1.0, 2.0)
    assert PRESETS["lcm"].trained.scales is None  # its network is told the scale, and knows its range
    assert PRESETS["pcm-8-cfg"].defaults["guidance_scale"] == 3.0
    assert "guidance_scale" not in PRESETS["lightning-4"].defaults


@pytest.mark.parametrize(
    ("name", "preset"),
    [
        ("LCM_Dreamshaper_v7", "lcm"),
        ("lcm-sdxl", "lcm"),
        ("lcm-lora-sdxl", "lcm-lora"),
        ("sd-turbo", "sd-turbo"),
        ("sdxl-turbo", "sdxl-turbo"),
        ("sdxl_lightning_1step_unet_x0", "lightning-1"),
        ("sdxl_lightning_4step_lora", "lightning-4"),
        ("SDXL-Lightning-2steps", "lightning-2"),
        ("8-step-lightning", "lightning-8"),
        ("Hyper-SDXL-1step-Unet", "hyper-1"),
        ("Hyper-SD15-1step-lora", "hyper-unified"),
        ("Hyper-SD15-2steps-lora", "hyper-2"),
        ("Hyper-SDXL-8steps-lora", "hyper-8"),
        ("Hyper-SDXL-8steps-CFG-lora", "hyper-8-cfg"),
        ("Hyper-SD15-12steps-CFG-lora", "hyper-12-cfg"),
        ("dmd2_sdxl_1step_unet", "dmd2-1"),
        ("dmd2_sdxl_4step_unet_fp16", "dmd2-4"),
        ("pcm_sd15_smallcfg_2step_converted", "pcm-2"),
        ("pcm_sdxl_smallcfg_16step_converted", "pcm-16"),
        ("pcm_sdxl_normalcfg_16step_converted", "pcm-16-cfg"),
        ("TCD-SDXL-LoRA", "tcd"),
        ("sdxs-512-0.9", "sdxs"),
        ("nitrosd-realism_unet", "nitro-realism"),
        ("nitrosd-vibrant_unet", "nitro-vibrant"),
        ("Sana_Sprint_1.6B_1024px_diffusers", "sana-sprint"),
        ("FastGen-AYF", "ayf"),
        ("AnyFlow-Wan2.1-T2V-1.3B-Diffusers", "anyflow"),
        ("stable-diffusion-xl-base-1.0", None),
        ("ddpm-celebahq-256", None),
        ("sdxl_lightning_16step", None),
    ],
)
def test_names_that_models_have_find_their_row_and_no_other(name: str, preset: str | None) -> None:
    found = [row.name for row in PRESETS.values() if row.known_by and re.search(row.known_by, name, re.IGNORECASE)]
    assert found == ([] if preset is None else [preset])


class Shifted(diffusers.LCMScheduler):  # type: ignore[misc]
    """LCM that tells the network, and takes x for, a share of each timestep: as NitroFusion describes its own."""

    share = 1.0

    def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        super().set_timesteps(*args, **kwargs)
        self.own, self.timesteps = self.timesteps, (self.timesteps * self.share).long()

    def step(self, output: torch.Tensor, t: torch.Tensor, x: torch.Tensor, **kwargs: Any) -> Any:
        if self.step_index is None:
            self._init_step_index(t)
        told, self.timesteps = self.timesteps, self.own
        stepped = super().step(output, t, x, **kwargs)
        self.timesteps = told
        return stepped


Shifted.__module__ = diffusers.LCMScheduler.__module__


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("steps", [1, 2, 3, 4])
@pytest.mark.parametrize("name", ["nitro-realism", "nitro-vibrant"])
def test_nitrofusion_is_diffusers_lcm_at_a_share_of_its_timesteps(
    name: str, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = Shifted(original_inference_steps=4)
    scheduler.share = PRESETS[name].options["shifted_timestep"] / 1000
    scheduler.set_timesteps(steps)
    model, noise = dummy_model(), noise_for(steps, last=1.0)
    theirs, timesteps = run_diffusers(scheduler, model, noise, monkeypatch)
    plan = plan_of(PRESETS[name], steps=steps)
    assert plan.column("t").tolist() == timesteps
    assert difference(run_ours(plan, model, noise), theirs) < TOLERANCE


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", ["dmd2-1", "dmd2-4", "hyper-1"])
def test_timesteps_of_a_card_are_diffusers_lcm_with_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    timesteps = list(PRESETS[name].options["spacing"])
    scheduler = diffusers.LCMScheduler(original_inference_steps=1000)  # which takes any of them
    scheduler.set_timesteps(timesteps=timesteps)
    model, noise = dummy_model(), noise_for(len(timesteps), last=1.0)
    theirs, _ = run_diffusers(scheduler, model, noise, monkeypatch)
    assert difference(run_ours(plan_of(PRESETS[name]), model, noise), theirs) < TOLERANCE


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", ["hyper-2", "hyper-8", "pcm-4", "pcm-8-cfg"])
def test_ddim_of_a_card_is_diffusers_with_the_config_of_stable_diffusion(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    betas = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    scheduler = diffusers.DDIMScheduler(
        timestep_spacing="trailing", set_alpha_to_one=False, clip_sample=False, steps_offset=1, **betas
    )
    steps = PRESETS[name].steps[0]
    scheduler.set_timesteps(steps)
    model, noise = dummy_model(), noise_for(steps)
    theirs, _ = run_diffusers(scheduler, model, noise, monkeypatch)
    assert difference(run_ours(plan_of(PRESETS[name]), model, noise), theirs) < TOLERANCE


def test_a_name_that_is_none_says_the_nearest() -> None:
    with pytest.raises(ArgumentError, match=r"plan: got 'lightening-4'; .* did you mean 'lightning-4'\?"):
        preset_named("plan", "lightening-4")


def test_numbers_of_steps_in_words() -> None:
    assert counted((4,)) == "4"
    assert counted((1, 2, 8)) == "1, 2 or 8"
    assert counted((1, 2, 3)) == "1, 2 or 3"
    assert counted((1, 2, 3, 4, 8)) == "1 to 4 or 8"


def test_the_page_has_the_table() -> None:
    page = Path(ROOT / "docs" / "presets.md").read_text()
    lines = [line for line in page.splitlines() if line.startswith("| ") and "---" not in line]
    rows = [re.sub(r"`|\[|\]\([^)]*\)", "", line) for line in lines]
    said = [tuple(cell.strip() for cell in row.strip("|").split("|")) for row in rows]
    assert said[0] == HEADINGS
    assert said[1:] == [cells(preset) for preset in PRESETS.values()]
    for preset in PRESETS.values():
        assert f"]({preset.family.source})" in page
