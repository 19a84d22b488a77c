"""`fewstep evaluate`: how good a model's digits are, at each number of steps."""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fewstep.cli import options
from fewstep.cli.evaluate_view import page
from fewstep.cli.machine import check_device, dtype_of, set_threads
from fewstep.cli.shared import MAX_SEED, emit, emit_fields, examples, progress, whole_numbers, write_out
from fewstep.errors import ArgumentError

if TYPE_CHECKING:
    from fewstep.engine import Engine
    from fewstep.evaluate.bound import Bound
    from fewstep.evaluate.features import DigitClassifier
    from fewstep.evaluate.real import Digits
    from fewstep.evaluate.report import Curve, Report
    from fewstep.evaluate.run import Settings

EXAMPLES = examples(
    "Scores at 1, 2, 4, 8 and 50 steps beside those of real digits, a plot and sheets:",
    "  fewstep evaluate MODEL --out out/evaluate",
    "A student, its curve drawn beside its teacher's:",
    "  fewstep evaluate STUDENT --steps 4 --beside out/evaluate/evaluate.json --out out/student",
    "The variational bound on 64 held-out digits, term by term:",
    "  fewstep evaluate MODEL --steps 50 --n 500 --bpd",
)
MIN_N, MAX_N = 10, 5000  # half of the real digits are 5,000
MAX_STEPS, MAX_BATCH, MAX_BOUND = 100_000, 1024, 2000


def evaluate(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="A model folder.")] = None,
    n: Annotated[int, typer.Option("--n", "-n", help="Samples at each number of steps.")] = MAX_N,
    steps: Annotated[str, typer.Option(help="Model calls a sample.")] = "1,2,4,8,50",
    sampler: options.Sampler = None,
    guidance_scale: options.GuidanceScale = None,
    seed: Annotated[int, typer.Option(help="Of the first sample; the others count up.")] = 0,
    bpd: Annotated[
        bool,
        typer.Option(
            "--bpd",
            help="Also the variational bound, in bits a dimension. Quoted as by Ho et al.: variance fixed_large, for "
            "the decoder that of the posterior at t = 1; of a model that learned its variance, with that.",
        ),
    ] = False,
    bpd_images: Annotated[int, typer.Option(help="Held-out digits for the bound.")] = 64,
    beside: Annotated[list[Path] | None, typer.Option(help="An evaluate.json to draw too; may be given again.")] = None,
    batch: Annotated[int, typer.Option(help="lanes at once.")] = 64,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="A folder for evaluate.json, quality.png and sheets.")
    ] = None,
    classifier: Annotated[
        Path | None, typer.Option(help="Another classifier.safetensors than the bundled one.")
    ] = None,
    train_classifier: Annotated[
        bool, typer.Option("--train-classifier", help="Train the digit classifier into --out instead.")
    ] = False,
    device: options.Device = None,
    dtype: Annotated[str, typer.Option(help=f"Of the model: {', '.join(options.DTYPES)}.")] = "float32",
    threads: options.Threads = None,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Score a model of digits beside real digits at the same counts.

    Frechet distance, precision and recall in a classifier's features,
    class accuracy, sliced Wasserstein distance of the pixels,
    distance to the nearest training image, ms per image.
    """
    set_threads(threads)
    if train_classifier:
        _train(model, out, seed, quiet=quiet, as_json=as_json)
        return
    if model is None:
        raise ArgumentError("model", None, "a model folder")
    _checked("n", n, MIN_N, MAX_N)
    _checked("seed", seed, 0, MAX_SEED - MAX_N)
    _checked("batch", batch, 1, MAX_BATCH)
    _checked("bpd_images", bpd_images, 2, MAX_BOUND)
    counts = [_checked("steps", value, 1, MAX_STEPS) for value in dict.fromkeys(whole_numbers("steps", steps))]

    from fewstep.engine import Engine
    from fewstep.evaluate.features import BUNDLED, fingerprint, load_classifier
    from fewstep.evaluate.real import load_digits
    from fewstep.evaluate.report import Curve
    from fewstep.evaluate.run import Settings, check_model

    _check_output(out, counts, bpd)
    weights = BUNDLED if classifier is None else classifier
    judge = load_classifier(weights)
    about: dict[str, object] = {"n": n, "seed": seed, "guidance_scale": guidance_scale, "batch": batch}
    about["classifier"] = fingerprint(weights)
    check_device(device)
    engine = Engine.from_pretrained(model, device=device, dtype=dtype_of(dtype), max_batch=batch)
    check_model(engine)
    if guidance_scale is None and engine.model.guidance.default != 1:
        about["guidance_scale"] = engine.model.guidance.default
    curves = [Curve.read(path, about) for path in beside or []]
    settings = Settings(n, counts, sampler, guidance_scale, seed)
    silent = quiet or as_json
    report = _report(engine, judge, load_digits(), settings, about, bpd_images if bpd else 0, quiet=silent)
    paths = [] if out is None else report.save(out, _pictures(report, curves))
    if as_json:
        emit({**report.to_dict(), "files": paths})
    else:
        write_out(page(report, paths))


def _report(
    engine: "Engine",
    classifier: "DigitClassifier",
    digits: "Digits",
    settings: "Settings",
    about: dict[str, object],
    bound_images: int,
    *,
    quiet: bool,
) -> "Report":
    from fewstep.bench.machine import describe_machine
    from fewstep.evaluate.report import Report
    from fewstep.evaluate.run import evaluate as score
    from fewstep.evaluate.run import model_bound
    from fewstep.models.net.unet import count_parameters

    machine = describe_machine(engine.device)
    bounds: list[Bound] = []
    if bound_images:
        about = about | {"bpd_images": bound_images}
        with progress("bound", quiet=quiet) as advance:
            bounds = model_bound(engine, digits, bound_images, seed=settings.seed, advance=advance)
    with progress("samples", quiet=quiet) as advance:
        found = score(engine, classifier, digits, settings, advance)
    about_model = {
        "name": engine.model.name,
        "parameters": count_parameters(engine.module),
        "prediction": engine.model.prediction,
        "schedule": engine.model.schedule.name,
        "dtype": str(engine.dtype).removeprefix("torch."),
        "conditional": engine.model.conditions.example is not None,
    }
    return Report(about_model, machine, about, found.floor, found.rows, bounds, found.sheets)


def _train(model: str | None, out: Path | None, seed: int, *, quiet: bool, as_json: bool) -> None:
    from fewstep.evaluate import train_classifier
    from fewstep.evaluate.real import load_digits
    from fewstep.files import check_writable

    if model is not None:
        raise ArgumentError("model", model, "nothing beside --train-classifier")
    if out is None:
        raise ArgumentError("out", None, "a folder for the classifier")
    _checked("seed", seed, 0, MAX_SEED)
    for name in (train_classifier.WEIGHTS_FILE, train_classifier.CARD_FILE):
        check_writable(out / name)
    with progress("epochs", quiet=quiet or as_json) as advance:
        trained = train_classifier.train_classifier(load_digits(), seed=seed, advance=advance)
    paths = trained.save(out)
    if as_json:
        emit({**trained.card, "files": paths})
    else:
        emit_fields(str(paths[0]), trained.card)


def _check_output(out: Path | None, steps: list[int], bpd: bool) -> None:
    """What would fail after the sampling fails before it."""
    from fewstep.evaluate.report import BOUND_FILE, PLOT_FILE, RESULT_FILE, sheet_name
    from fewstep.files import check_writable

    if out is not None:
        for name in (RESULT_FILE, PLOT_FILE, *([BOUND_FILE] if bpd else []), *map(sheet_name, steps)):
            check_writable(out / name)


def _pictures(report: "Report", beside: "list[Curve]") -> dict[str, bytes]:
    """None without matplotlib: the numbers must not be lost for want of a picture."""
    from fewstep.evaluate.plots import bound_picture, quality_picture
    from fewstep.evaluate.report import BOUND_FILE, PLOT_FILE

    if not importlib.util.find_spec("matplotlib"):
        return {}
    pictures = {PLOT_FILE: quality_picture(report, beside)}
    return pictures | ({BOUND_FILE: bound_picture(report.bounds)} if report.bounds else {})


def _checked(argument: str, value: int, least: int, most: int) -> int:
    if not least <= value <= most:
        raise ArgumentError(argument, value, f"an integer from {least} to {most}")
    return value
