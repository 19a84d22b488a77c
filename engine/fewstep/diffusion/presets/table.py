"""The presets, a row for each, as the source of its family has it. What no source says is not here."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from fewstep.diffusion.presets.preset import Family, Guided, Network, Preset

HUB: Final = "https://huggingface.co/"
DIFFUSERS: Final = HUB + "docs/diffusers/main/en/"
LCM: Final = Family("Latent Consistency Models", DIFFUSERS + "using-diffusers/inference_with_lcm")
LCM_LORA: Final = Family("LCM-LoRA", HUB + "latent-consistency/lcm-lora-sdxl")
SD_TURBO: Final = Family("SD-Turbo", HUB + "stabilityai/sd-turbo")
SDXL_TURBO: Final = Family("SDXL-Turbo", HUB + "stabilityai/sdxl-turbo")
LIGHTNING: Final = Family("SDXL-Lightning", HUB + "ByteDance/SDXL-Lightning")
HYPER: Final = Family("Hyper-SD", HUB + "ByteDance/Hyper-SD")
DMD2: Final = Family("DMD2", HUB + "tianweiy/DMD2")
PCM: Final = Family("Phased Consistency Models", HUB + "wangfuyun/PCM_Weights")
TCD: Final = Family("TCD-LoRA", HUB + "h1t/TCD-SDXL-LoRA")
SDXS: Final = Family("SDXS", HUB + "IDKiro/sdxs-512-0.9")
NITRO: Final = Family("NitroFusion", HUB + "ChenDY/NitroFusion")
SANA: Final = Family("SANA-Sprint", DIFFUSERS + "api/pipelines/sana_sprint")
CM: Final = Family("Consistency models", "https://github.com/openai/consistency_models/blob/main/scripts/launch.sh")
AYF: Final = Family("Align Your Flow", HUB + "nvidia/FastGen-AYF")
MEANFLOW: Final = Family("MeanFlow", "https://arxiv.org/abs/2505.13447")
ANYFLOW: Final = Family("AnyFlow", DIFFUSERS + "api/pipelines/anyflow")

IN_WEIGHTS: Final = Guided("distilled", 1.0, 1.0)
X_0, FLOW = Network("x_0"), Network("flow", "flow")
TRIG, BOUNDED = Network("v", "trig"), Network("consistency", "ve")


def to(last: int, first: int = 1) -> tuple[int, ...]:
    """All numbers of steps up to one."""
    return tuple(range(first, last + 1))


def free(low: float, high: float) -> Guided:
    """Guidance by two halves."""
    return Guided("free", low, high)


def options(**values: Any) -> Mapping[str, Any]:
    """Of a sampler and its spacing."""
    return MappingProxyType(values)


def named(family: str, steps: int) -> str:
    """What finds a family and a number of steps in a name, in either order: lightning_4step, 4-steps-lightning."""
    count = rf"(?<!\d){steps}[-_ ]?steps?"
    return rf"{family}.*{count}|{count}.*{family}"


TRAILING, EVEN, ANGLES = options(spacing="trailing"), options(spacing="flow_even"), options(spacing="trigflow")
UNIFIED, GAMMA = options(eta=1.0, final="first"), options(eta=0.3, final="first")
REALISM = options(original_steps=4, shifted_timestep=250)
VIBRANT = options(original_steps=4, shifted_timestep=500)
# set_alpha_to_one is false in the configs of Stable Diffusion, so the last step lands on the first level.
DDIM: Final = options(spacing="trailing", final="first")

ROWS: Final = (
    Preset("lcm", LCM, "lcm", to(8), Guided("embedded", 3.0, 13.0), usual=4, known_by="lcm[-_](dreamshaper|sdxl|ssd)"),
    Preset("lcm-lora", LCM_LORA, "lcm", to(8, 2), free(1.0, 2.0), usual=4, known_by="lcm[-_]lora"),
    Preset("sd-turbo", SD_TURBO, "euler", to(4), IN_WEIGHTS, TRAILING, known_by="sd[-_]turbo"),
    Preset("sdxl-turbo", SDXL_TURBO, "euler_ancestral", to(4), IN_WEIGHTS, TRAILING, known_by="sd_?xl[-_]turbo"),
    Preset("lightning-1", LIGHTNING, "euler", (1,), IN_WEIGHTS, TRAILING, network=X_0, known_by=named("lightning", 1)),
    Preset("lightning-2", LIGHTNING, "euler", (2,), IN_WEIGHTS, TRAILING, known_by=named("lightning", 2)),
    Preset("lightning-4", LIGHTNING, "euler", (4,), IN_WEIGHTS, TRAILING, known_by=named("lightning", 4)),
    Preset("lightning-8", LIGHTNING, "euler", (8,), IN_WEIGHTS, TRAILING, known_by=named("lightning", 8)),
    Preset("hyper-1", HYPER, "lcm", (1,), IN_WEIGHTS, options(spacing=(800,)), known_by="hyper.*1step[-_]unet"),
    Preset("hyper-unified", HYPER, "tcd", to(8), IN_WEIGHTS, UNIFIED, known_by="hyper.*1step[-_]lora"),
    Preset("hyper-2", HYPER, "ddim", (2,), IN_WEIGHTS, DDIM, known_by=named("hyper", 2)),
    Preset("hyper-4", HYPER, "ddim", (4,), IN_WEIGHTS, DDIM, known_by=named("hyper", 4)),
    Preset("hyper-8", HYPER, "ddim", (8,), IN_WEIGHTS, DDIM, known_by=named("hyper(?!.*cfg)", 8)),
    Preset("hyper-8-cfg", HYPER, "ddim", (8,), free(5.0, 8.0), DDIM, known_by="hyper.*8steps?[-_]cfg"),
    Preset("hyper-12-cfg", HYPER, "ddim", (12,), free(5.0, 8.0), DDIM, known_by="hyper.*12steps?[-_]cfg"),
    Preset("dmd2-1", DMD2, "lcm", (1,), IN_WEIGHTS, options(spacing=(399,)), known_by=named("dmd2", 1)),
    Preset("dmd2-4", DMD2, "lcm", (4,), IN_WEIGHTS, options(spacing=(999, 749, 499, 249)), known_by=named("dmd2", 4)),
    Preset("pcm-2", PCM, "ddim", (2,), free(1.0, 2.0), DDIM, known_by=named("pcm.*small", 2)),
    Preset("pcm-4", PCM, "ddim", (4,), free(1.0, 2.0), DDIM, known_by=named("pcm.*small", 4)),
    Preset("pcm-8", PCM, "ddim", (8,), free(1.0, 2.0), DDIM, known_by=named("pcm.*small", 8)),
    Preset("pcm-16", PCM, "ddim", (16,), free(1.0, 2.0), DDIM, known_by=named("pcm.*small", 16)),
    Preset("pcm-4-cfg", PCM, "ddim", (4,), free(2.5, 3.5), DDIM, known_by=named("pcm.*normal", 4)),
    Preset("pcm-8-cfg", PCM, "ddim", (8,), free(3.0, 6.0), DDIM, known_by=named("pcm.*normal", 8)),
    Preset("pcm-16-cfg", PCM, "ddim", (16,), free(2.0, 9.0), DDIM, known_by=named("pcm.*normal", 16)),
    Preset("tcd", TCD, "tcd", to(50), IN_WEIGHTS, GAMMA, 4, known_by="tcd[-_](sd|lora)"),
    Preset("sdxs", SDXS, "euler", (1,), IN_WEIGHTS, TRAILING, known_by="sdxs"),
    Preset("nitro-realism", NITRO, "lcm", to(4), IN_WEIGHTS, REALISM, known_by="nitrosd[-_]realism"),
    Preset("nitro-vibrant", NITRO, "lcm", to(4), IN_WEIGHTS, VIBRANT, known_by="nitrosd[-_]vibrant"),
    Preset("sana-sprint", SANA, "scm", to(4), Guided("embedded"), ANGLES, 2, network=TRIG, known_by="sana[-_]sprint"),
    Preset("consistency", CM, "consistency", (1,), IN_WEIGHTS, network=BOUNDED),
    Preset("cd-imagenet64", CM, "consistency", (2,), IN_WEIGHTS, options(spacing=(39, 17)), network=BOUNDED),
    Preset("cd-bedroom256", CM, "consistency", (2,), IN_WEIGHTS, options(spacing=(39, 22)), network=BOUNDED),
    Preset("ayf", AYF, "flow_map", to(8, 4), Guided("unsaid"), EVEN, network=FLOW, known_by="fastgen[-_]ayf"),
    Preset("meanflow", MEANFLOW, "flow_map", to(2), IN_WEIGHTS, EVEN, network=FLOW, known_by="mean[-_]?flow"),
    Preset("anyflow", ANYFLOW, "flow_map", to(50), IN_WEIGHTS, EVEN, 4, network=FLOW, known_by="any[-_]?flow"),
)
PRESETS: Final = MappingProxyType({row.name: row for row in ROWS})
