"""`fewstep evaluate`: how good a model's samples are, at each number of steps, and what distilling cost."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewstep.checks import integer
from fewstep.cli import evaluate_options, options
from fewstep.cli.evaluate_options import MAX_N
from fewstep.cli.evaluate_view import page
from fewstep.cli.failures import keep
from fewstep.cli.machine import check_backend, check_device, dtype_of, set_threads
from fewstep.cli.shared import MAX_SEED, emit, emit_fields, examples, progress, whole_numbers, write_out
from fewstep.diffusion.trained import MAX_STEPS
from fewstep.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fewstep.engine import Engine
    from fewstep.evaluate.bound import Bound
    from fewstep.evaluate.choice import ChosenClassifier
    from fewstep.evaluate.real import Real
    from fewstep.evaluate.report import Curve, Report
    from fewstep.evaluate.run import Settings

EXAMPLES = examples(
    "Scores at 1, 2, 4, 8 and 50 steps beside those of real images, a plot and sheets:",
    "  fewstep evaluate MODEL --data pictures/ --out out/evaluate",
    "A student beside its teacher, seed by seed; the classifier is trained once and kept in --out:",
    "  fewstep evaluate STUDENT --teacher TEACHER --data pictures/ --out out/student",
    "A student of the digits, its curve drawn beside its teacher's:",
    "  fewstep evaluate STUDENT --steps 4 --beside out/evaluate/evaluate.json --out out/student",
    "The variational bound on 64 held-out digits, term by term:",
    "  fewstep evaluate digits/teacher --steps 50 --n 500 --bpd",
)
MIN_N = 10
MAX_BATCH = 1024


def evaluate(
    model: evaluate_options.Subject = None,
    data: evaluate_options.Data = None,
    size: evaluate_options.Size = None,
    held_out: evaluate_options.HeldOut = None,
    classifier: evaluate_options.ClassifierFile = None,
    train_classifier: evaluate_options.TrainClassifier = False,
    n: evaluate_options.Count = None,
    steps: evaluate_options.Steps = None,
    sampler: options.Sampler = None,
    guidance_scale: options.GuidanceScale = None,
    seed: evaluate_options.Seed = 0,
    batch: evaluate_options.Batch = 64,
    teacher: evaluate_options.TeacherModel = None,
    teacher_steps: evaluate_options.TeacherSteps = None,
    bpd: evaluate_options.Bpd = False,
    bpd_images: evaluate_options.BpdImages = None,
    beside: evaluate_options.Beside = None,
    out: evaluate_options.Out = None,
    device: options.Device = None,
    dtype: evaluate_options.Dtype = "float32",
    backend: options.Backend = "auto",
    threads: options.Threads = None,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Score a model beside the real images that it was trained on.

    Frechet distance, precision and recall in a classifier's features,
    class accuracy, sliced Wasserstein distance of the pixels,
    distance to the nearest training image, ms per image.
    With --teacher also PSNR to the teacher's image of the same seed.

    The classifier is trained on the classes of the data; images without
    classes are compared in the features of an untrained network.
    """
    set_threads(threads)
    silent = quiet or as_json
    if train_classifier:
        _train(model, data, size, out, seed, quiet=silent, as_json=as_json)
        return
    if model is None:
        raise ArgumentError("model", None, "a model folder")
    for name, value, least, most in (
        ("n", n, MIN_N, MAX_N),
        ("seed", seed, 0, MAX_SEED - MAX_N),
        ("batch", batch, 1, MAX_BATCH),
        ("teacher_steps", teacher_steps, 1, MAX_STEPS),
    ):
        if value is not None:
            integer(name, value, least, most)
    if teacher_steps is not None and teacher is None:
        raise ArgumentError("teacher_steps", teacher_steps, "nothing without --teacher")
    if bpd_images is not None and not bpd:
        raise ArgumentError("bpd_images", bpd_images, "nothing without --bpd")
    counts = None
    if steps is not None:
        counts = [integer("steps", value, 1, MAX_STEPS) for value in dict.fromkeys(whole_numbers("steps", steps))]

    from fewstep.engine import Engine
    from fewstep.evaluate.report import Curve
    from fewstep.evaluate.run import Settings, check_bound, check_request, usual_steps

    real = _real(model, data, size, held_out)
    check_device(device)
    weights = dtype_of(dtype)
    check_backend(backend, device, weights)
    ways: dict[str, Any] = {"device": device, "dtype": weights, "max_batch": batch, "backend": backend}
    engine = Engine.from_pretrained(model, **ways)
    taught = None if teacher is None else Engine.from_pretrained(teacher, **ways)
    settings = Settings(
        n=min(MAX_N, len(real.all) // 2) if n is None else n,
        steps=counts or usual_steps(engine),
        sampler=sampler,
        guidance_scale=guidance_scale,
        seed=seed,
        teacher_steps=teacher_steps,
    )
    check_request(engine, real, settings, taught)
    _check_output(out, settings.steps, bpd, teacher is not None)
    bound_images = 0
    if bpd:
        check_bound(engine)
        held = len(real.held_out)
        bound_images = min(64, held) if bpd_images is None else integer("bpd_images", bpd_images, 2, held)
    chosen, kept = _classifier(real, classifier, out, quiet=silent)
    about = _about(engine, settings, chosen, batch)
    curves = [Curve.read(path, about) for path in beside or []]
    report = _report(engine, taught, chosen, real, settings, about, bound_images, quiet=silent)

    def show(paths: list[Path], more: Mapping[str, Any]) -> None:
        paths = [*paths, *kept]
        if as_json:
            emit({**report.to_dict(), "files": paths, **more})
        else:
            write_out(page(report, paths))

    keep(lambda: [] if out is None else report.save(out, _pictures(report, curves)), show)


def _real(model: str, data: str | None, size: int | None, held_out: str | None) -> "Real":
    """What the model is compared with: what was named, or the digits for a model of these."""
    from fewstep.evaluate.real import load_real
    from fewstep.models.load import open_folder
    from fewstep.train.data import source_of

    spec = open_folder(model)[1]
    return load_real(source_of(data, spec.notes), size, held_out, spec.shape)


def _classifier(
    real: "Real", given: Path | None, out: Path | None, *, quiet: bool
) -> "tuple[ChosenClassifier, list[Path]]":
    """The classifier, and its files: a new one is kept in `out` at once, so that the next run has it whatever comes."""
    from fewstep.evaluate.choice import choose

    with progress("classifier", quiet=quiet) as advance:
        chosen = choose(real, given, out, advance)
    return chosen, [] if chosen.made is None or out is None else chosen.made.save(out)


def _about(engine: "Engine", settings: "Settings", chosen: "ChosenClassifier", batch: int) -> dict[str, object]:
    """The settings as the report has them."""
    scale = settings.guidance_scale
    if scale is None and engine.model.guidance.default != 1:
        scale = engine.model.guidance.default
    return {
        "n": settings.n, "seed": settings.seed, "guidance_scale": scale, "batch": batch,
        "classifier": chosen.fingerprint, "classifier_is": chosen.words,
    }  # fmt: skip


def _report(
    engine: "Engine",
    teacher: "Engine | None",
    chosen: "ChosenClassifier",
    real: "Real",
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
            bounds = model_bound(engine, real, bound_images, seed=settings.seed, advance=advance)
    with progress("samples", quiet=quiet) as advance:
        found = score(engine, chosen.classifier, real, settings, advance, teacher)
    about_model = {
        "name": engine.model.name,
        "parameters": count_parameters(engine.module),
        "prediction": engine.model.prediction,
        "schedule": engine.model.schedule.name,
        "dtype": str(engine.dtype).removeprefix("torch."),
        "backend": engine.backend,
        "conditional": bool(engine.model.conditions.inputs),
    }
    beside = None if teacher is None or found.teacher is None else (teacher.model.name, found.teacher)
    return Report(
        about_model, machine, about, found.floor, found.rows, bounds, found.sheets, real.to_dict(), beside, found.notes
    )


def _train(
    model: str | None, data: str | None, size: int | None, out: Path | None, seed: int, *, quiet: bool, as_json: bool
) -> None:
    from fewstep.evaluate import train_classifier
    from fewstep.evaluate.real import load_real
    from fewstep.files import check_writable
    from fewstep.train.data import DIGITS

    if model is not None:
        raise ArgumentError("model", model, "nothing beside --train-classifier")
    if out is None:
        raise ArgumentError("out", None, "a folder for the classifier")
    integer("seed", seed, 0, MAX_SEED)
    for name in (train_classifier.WEIGHTS_FILE, train_classifier.CARD_FILE):
        check_writable(out / name)
    real = load_real(DIGITS if data is None else data, size)
    with progress("epochs", quiet=quiet) as advance:
        trained = train_classifier.train_classifier(real, seed=seed, advance=advance)
    paths = trained.save(out)
    if as_json:
        emit({**trained.card, "files": paths})
    else:
        emit_fields(str(paths[0]), trained.card)


def _check_output(out: Path | None, steps: "Sequence[int]", bpd: bool, pairs: bool) -> None:
    """What would fail after the sampling fails before it."""
    from fewstep.evaluate.report import BOUND_FILE, PLOT_FILE, RESULT_FILE, pair_name, sheet_name
    from fewstep.evaluate.train_classifier import CARD_FILE, WEIGHTS_FILE
    from fewstep.files import check_writable

    if out is not None:
        names = [RESULT_FILE, PLOT_FILE, WEIGHTS_FILE, CARD_FILE, *map(sheet_name, steps)]
        for name in (*names, *([BOUND_FILE] if bpd else []), *(map(pair_name, steps) if pairs else [])):
            check_writable(out / name)


def _pictures(report: "Report", beside: "list[Curve]") -> dict[str, bytes]:
    """None without matplotlib: the numbers must not be lost for want of a picture."""
    from fewstep.evaluate.plots import bound_picture, quality_picture
    from fewstep.evaluate.report import BOUND_FILE, PLOT_FILE

    if not importlib.util.find_spec("matplotlib"):
        return {}
    pictures = {PLOT_FILE: quality_picture(report, beside)}
    return pictures | ({BOUND_FILE: bound_picture(report.bounds)} if report.bounds else {})
