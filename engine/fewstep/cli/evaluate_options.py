"""The options of `fewstep evaluate` that are its own."""

from pathlib import Path
from typing import Annotated

import typer

from fewstep.cli.options import DTYPES, HOW, WHERE

DATA, TEACHER, BOUND = "What it is compared with", "Beside a teacher", "The variational bound"
MAX_N = 5000

Subject = Annotated[str | None, typer.Argument(metavar="MODEL", help="A model folder, or one in the box.")]
Data = Annotated[
    str | None,
    typer.Option(
        help="What it was trained on, as `fewstep train` reads it. Default: digits, for a model of these.",
        rich_help_panel=DATA,
    ),
]
Size = Annotated[
    int | None, typer.Option(help="Scale pictures to so many pixels. Default: the model's.", rich_help_panel=DATA)
]
HeldOut = Annotated[
    str | None, typer.Option(help="Images of the same kind that it has not seen.", rich_help_panel=DATA)
]
ClassifierFile = Annotated[
    Path | None,
    typer.Option(
        help="A classifier.safetensors. Default: the one in --out, if it is of these images, else a new one.",
        rich_help_panel=DATA,
    ),
]
TrainClassifier = Annotated[
    bool,
    typer.Option("--train-classifier", help="Train the classifier into --out, and no more.", rich_help_panel=DATA),
]
Count = Annotated[
    int | None,
    typer.Option(
        "--n",
        "-n",
        help=f"Samples at each number of steps. Default: {MAX_N}, or half the images.",
        rich_help_panel=HOW,
    ),
]
Steps = Annotated[
    str | None,
    typer.Option(help="Model calls a sample. Default: what a student is for, else 1,2,4,8,50.", rich_help_panel=HOW),
]
Seed = Annotated[int, typer.Option(help="Of the first sample; the others count up.", rich_help_panel=HOW)]
Batch = Annotated[int, typer.Option(help="Lanes at once.", rich_help_panel=HOW)]
TeacherModel = Annotated[
    str | None,
    typer.Option(help="A model to compare each sample with, at the same seeds and labels.", rich_help_panel=TEACHER),
]
TeacherSteps = Annotated[
    int | None, typer.Option(help="Of the teacher. Default: 50, or a student's own.", rich_help_panel=TEACHER)
]
Bpd = Annotated[
    bool,
    typer.Option(
        "--bpd",
        help="Also the variational bound, in bits a dimension. Quoted as by Ho et al.: variance fixed_large, for "
        "the decoder that of the posterior at t = 1; of a model that learned its variance, with that.",
        rich_help_panel=BOUND,
    ),
]
BpdImages = Annotated[
    int | None, typer.Option(help="Held-out images for it. Default: 64, or all.", rich_help_panel=BOUND)
]
Beside = Annotated[
    list[Path] | None,
    typer.Option(help="An evaluate.json to draw too; may be given again.", rich_help_panel=WHERE),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        help="A folder for evaluate.json, quality.png, sheets, a new classifier.",
        rich_help_panel=WHERE,
    ),
]
Dtype = Annotated[str, typer.Option(help=f"Of the model: {', '.join(DTYPES)}.", rich_help_panel=WHERE)]
