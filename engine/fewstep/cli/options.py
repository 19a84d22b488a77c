"""The options of `fewstep generate`, and those that several commands share."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from fewstep.run.backends.names import BACKENDS
from fewstep.samplers import SAMPLERS

WHAT, HOW, START, WHERE = "What to make", "How to sample", "Start from a picture", "Output and machine"
DTYPES = ("float32", "float16", "bfloat16", "float64")


def one_of(names: Iterable[str]) -> str:
    """The names as a sentence has them: a, b or c."""
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


AsJson = Annotated[bool, Option("--json", help="Print one JSON object, for a script to read.")]
Quiet = Annotated[bool, Option("--quiet", "-q", help="No progress bar.")]

Variant = Annotated[
    str | None, Option(help="Which weights of a diffusers folder, such as fp16. Default: the plain or only ones.")
]
AllowPickle = Annotated[bool, Option("--allow-pickle", help="Also read weights stored as pickles; trust their source.")]

Download = Annotated[bool, Option("--download", help="Fetch a model of the Hugging Face hub that is not here yet.")]

Model = Annotated[str, Argument(metavar="MODEL", help="A model folder or file, or digits: in the box.")]

Prompt = Annotated[
    list[str] | None,
    Option(
        help="What to draw, by a pipeline of diffusers: once for all samples, or once for each. Default: none.",
        rich_help_panel=WHAT,
        metavar="TEXT",
    ),
]
NegativePrompt = Annotated[
    list[str] | None,
    Option(
        help="What guidance leads away from: once, or once for each. Default: none.",
        rich_help_panel=WHAT,
        metavar="TEXT",
    ),
]
Height = Annotated[
    int | None, Option(help="Pixels, of a pipeline that reads prompts. Default: its own.", rich_help_panel=WHAT)
]
Width = Annotated[int | None, Option(help="As --height. Default: its own.", rich_help_panel=WHAT)]
Lora = Annotated[
    list[str] | None,
    Option(
        help="A LoRA, or FILE:WEIGHT for 0.8 of it, say; again for another. Default: none.",
        rich_help_panel=HOW,
        metavar="FILE",
    ),
]

ControlImage = Annotated[
    Path | None,
    Option(
        help="Edges, depth or the like, which a ControlNet draws after. Default: none.",
        rich_help_panel=WHAT,
        metavar="FILE",
    ),
]
ControlScale = Annotated[float | None, Option(help="How much of it. Default: 1.", rich_help_panel=WHAT)]

Labels = Annotated[
    str | None,
    Option(
        help="One a sample, or one for all: 3,7, names or start:stop:count; none: no class. Default: a spread of them.",
        rich_help_panel=WHAT,
    ),
]
Count = Annotated[
    int | None,
    Option("--n", "-n", help="Samples. Default: as many as labels or seeds, else 1.", rich_help_panel=WHAT),
]
Seed = Annotated[
    int | None,
    Option(help="Of the first sample; the others count up. Default: at random.", rich_help_panel=WHAT),
]
Seeds = Annotated[
    str | None, Option(help="One a sample, or one for all: 0,1,2. Default: as --seed.", rich_help_panel=WHAT)
]

Steps = Annotated[int | None, Option(help="Model calls a sample. Default: the model's own.", rich_help_panel=HOW)]
Sampler = Annotated[
    str | None,
    Option(help=f"Default: the model's own. {one_of(SAMPLERS)}; see fewstep info --samplers.", rich_help_panel=HOW),
]
Plan = Annotated[
    str | None,
    Option(metavar="PRESET", help="Such as lightning-4; fewstep info --presets. Default: none.", rich_help_panel=HOW),
]
GuidanceScale = Annotated[
    float | None,
    Option(help="w in uncond + w (cond - uncond). Default: the model's own, else 1.", rich_help_panel=HOW),
]
GuidanceRescale = Annotated[
    float, Option(help="0 to 1: how far guidance keeps the prediction's spread.", rich_help_panel=HOW)
]

Image = Annotated[
    Path | None, Option(help="PNG, JPEG or WebP; its middle, at the model's size.", rich_help_panel=START)
]
Strength = Annotated[
    float | None, Option(help="Its share of noise: near 0 little, 1 nothing else.", rich_help_panel=START)
]
Mask = Annotated[Path | None, Option(help="A picture: white is made anew, black is kept.", rich_help_panel=START)]

Out = Annotated[Path, Option("--out", "-o", help="out.png, or out.npy for the numbers.", rich_help_panel=WHERE)]
Columns = Annotated[int | None, Option(help="Of the sheet. Default: as square as it gets.", rich_help_panel=WHERE)]
Singles = Annotated[
    bool,
    Option("--singles/--no-singles", help="out-000.png ... beside the sheet.", rich_help_panel=WHERE),
]
Colormap = Annotated[
    str,
    Option(help="For 1 channel: gray, terrain or a matplotlib name.", rich_help_panel=WHERE),
]
Device = Annotated[
    str | None, Option(help="cpu, cuda or cuda:1. Default: CUDA if there is one.", rich_help_panel=WHERE)
]
Dtype = Annotated[str, Option(help=f"{', '.join(DTYPES)}.", rich_help_panel=WHERE)]
Backend = Annotated[str, Option(help=f"What executes the network: auto, {one_of(BACKENDS)}.", rich_help_panel=WHERE)]
Threads = Annotated[int | None, Option(help="CPU threads. Default: torch's choice.", rich_help_panel=WHERE)]
