"""What a report says, for every form that it is given: who was measured, who is missing, who is wrong, on what."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fewstep.bench.contenders import EAGER, Case, Contender
from fewstep.bench.parity import MEASURES
from fewstep.bench.results import MEASURED, Report, Row, case_of

WRONG = "wrong"
NOT_ASKED = "not asked for"
COLD_PARTS = {  # of a start, in its order, each with its column
    "import": "import_seconds",
    "load": "load_seconds",
    "compile": "compile_seconds",
    "capture": "capture_seconds",
    "image": "first_image_seconds",  # without what it compiled
}


@dataclass(frozen=True)
class Network:
    """One network of a report.

    Attributes:
        about: what the report says of it.
        rows: its rows, by case and by the name of the contender.
        contenders: who was measured in one of its cases at least, in the order of a table.
    """

    name: str
    about: Mapping[str, object]
    rows: Mapping[tuple[Case, str], Row]
    contenders: Sequence[Contender]

    @property
    def cases(self) -> list[Case]:
        """In the order in which they were asked for, those of one sampler and batch size together."""
        known = list(dict.fromkeys(case for case, _ in self.rows))
        samplers, batches = (list(dict.fromkeys(getattr(case, n) for case in known)) for n in ("sampler", "batch"))
        return sorted(known, key=lambda case: (samplers.index(case.sampler), batches.index(case.batch), case.steps))

    def measured(self, case: Case, contender: Contender) -> Row | None:
        """The row of a contender, where it has a time."""
        row = self.rows.get((case, contender.name))
        return row if row is not None and is_measured(row) else None

    @property
    def heading(self) -> str:
        """Its name, and itself in words."""
        words = self.in_words
        return words if words.startswith(self.name) else f"{self.name}: {words}"

    @property
    def in_words(self) -> str:
        """Its title, its size and what it predicts."""
        parts = [str(self.about.get("title", self.name))]
        parameters, shape, prediction = (self.about.get(name) for name in ("parameters", "shape", "prediction"))
        if isinstance(parameters, int):
            parts.append(f"{parameters / 1e6:.3g} M parameters")
        if isinstance(shape, Sequence):
            parts.append("x".join(map(str, shape)))
        if prediction:
            parts.append(f"{prediction} prediction")
        if self.about.get("weights") == "random" and "random" not in parts[0].lower():
            parts.append("random weights")
        return ", ".join(parts)


def is_measured(row: Row) -> bool:
    """Whether it has a time: its images are right, and it took part."""
    return row.status == MEASURED and row.ms_per_image is not None


def networks(report: Report) -> list[Network]:
    """In the order of the rows."""
    found = []
    for name in dict.fromkeys(row.model for row in report.rows):
        rows = {(case_of(row), row.contender): row for row in report.rows if row.model == name}
        names = {row.contender for row in rows.values() if is_measured(row)}
        taking_part = [each for each in report.contenders if each.name in names]
        found.append(Network(name, report.models.get(name, {}), rows, taking_part))
    return found


def host_case(network: Network, report: Report) -> Case:
    """Where the host is looked at: the first sampler's most steps at the smallest batch, or at what is promised."""
    cases = [case for case in network.cases if case.sampler == network.cases[0].sampler]
    promised = [case for case in cases if report.target_us(case, network.name) is not None]
    return max(promised or cases, key=lambda case: (case.steps, -case.batch))


def largest(network: Network) -> Case:
    """Where the network is looked at: the first sampler's largest batch and most steps."""
    cases = [case for case in network.cases if case.sampler == network.cases[0].sampler]
    return max(cases, key=lambda case: (case.batch, case.steps))


@dataclass(frozen=True)
class Missing:
    """Contenders without a time.

    Attributes:
        names: who, each in one `Missing` only; both dtypes of one that lacks in both are one name.
        why: each reason with the networks that it holds for, none where it holds for all.
    """

    names: Sequence[str]
    why: Sequence[tuple[str, Sequence[str]]]

    @property
    def reason(self) -> str:
        """In one line."""
        return "; ".join(f"{why} ({', '.join(models)})" if models else why for why, models in self.why)

    def __str__(self) -> str:
        """Who, and why."""
        return f"{', '.join(self.names)}: {self.reason}"


def missing(report: Report) -> list[Missing]:
    """Who has no time and why, what was not asked for last; not those whose images are wrong."""
    everywhere = {row.model for row in report.rows}
    found: dict[str, dict[str, dict[str, None]]] = {}
    for row in report.rows:
        if row.status != MEASURED and not row.status.startswith(WRONG):
            found.setdefault(row.contender, {}).setdefault(row.status, {})[row.model] = None
    groups: dict[tuple[tuple[str, tuple[str, ...]], ...], list[Contender]] = {}
    for contender in report.contenders:
        if why := found.get(contender.name):
            key = tuple((each, () if models.keys() == everywhere else tuple(models)) for each, models in why.items())
            groups.setdefault(key, []).append(contender)
    dtypes = len({each.dtype for each in report.contenders})
    told = [Missing(_names(contenders, dtypes), key) for key, contenders in groups.items()]
    return sorted(told, key=lambda each: all(why == NOT_ASKED for why, _ in each.why))


def _names(contenders: Sequence[Contender], dtypes: int) -> list[str]:
    plain = [Contender(each.kind, each.backend).name for each in contenders]
    named = zip(contenders, plain, strict=True)
    return list(dict.fromkeys(short if plain.count(short) == dtypes else each.name for each, short in named))


def wrong(report: Report) -> dict[str, list[str]]:
    """Whose images are wrong: by contender the networks where they are."""
    found: dict[str, dict[str, None]] = {}
    for row in report.rows:
        if row.status.startswith(WRONG):
            found.setdefault(row.contender, {})[row.model] = None
    return {name: list(models) for name, models in found.items()}


def wrong_words(report: Report) -> list[str]:
    """A sentence for each contender whose images are wrong, without any number."""
    return [
        f"{name}: its images of {', '.join(models)} are not the reference's, so no speed is given"
        for name, models in wrong(report).items()
    ]


def several(count: object, word: str) -> str:
    """1 run, 2 runs."""
    return f"{count} {word}{'s' * (count != 1)}"


def method(report: Report) -> str:
    """How often all was measured, and what the interval is."""
    runs, repeats = (report.settings.get(name, 1) for name in ("runs", "repeats"))
    most = "at most " if report.settings.get("seconds") else ""  # a slow case has fewer
    rounds = f"{most}{several(repeats, 'round')} after a warm-up; the contenders take turns, in a new order each round"
    if isinstance(runs, int) and runs > 1:
        return f"{runs} independent runs of {rounds}; the interval is Student's t over the runs"
    return f"one run of {rounds}; the interval is a bootstrap over its rounds, and knows nothing of other runs"


def parity(report: Report) -> str:
    """How far images were from the reference's, and how far they may be."""
    found: dict[str, float] = {}
    for row in report.rows:
        if is_measured(row) and row.difference is not None:
            found[row.dtype] = max(found.get(row.dtype, 0.0), row.difference)
    tolerances = report.settings.get("tolerances", {})
    allowed = tolerances if isinstance(tolerances, Mapping) else {}
    told = [
        f"in {dtype} by {value:.1e} at most"
        + (f" (allowed {allowed[dtype]:.0e} {MEASURES[dtype]})" if dtype in allowed else "")
        for dtype, value in found.items()
    ]
    return f"parity: images differ from the eager reference's {', '.join(told) or 'by what nobody has measured'}"


def machine_lines(report: Report) -> list[str]:
    """Hardware, then versions, then the state of the machine; what is not known is left out."""
    known = {name: value for name, value in report.machine.items() if value not in (None, "", {}, [])}
    cpu = f"{known.get('cpu', 'unknown CPU')}" + (f" ({known['instructions']})" if "instructions" in known else "")
    hardware = [cpu, several(known.get("cores", "?"), "core"), several(known.get("threads", "?"), "thread")]
    hardware.append(f"device {known.get('device', 'cpu')}")
    packages = ("fewstep", "torch", "diffusers", "openvino", "onnxruntime", "numpy", "triton", "cuda", "python")
    versions = [f"{name} {known[name]}" for name in packages if name in known]
    versions += [str(known["system"])] if "system" in known else []
    state = [f"load {known['load']} before"] if "load" in known else []
    state += [f"{known['load_after']} after"] if "load_after" in known else []
    return [line for line in (", ".join(hardware), ", ".join(versions), ", ".join(state)) if line]


def cold_part(start: Mapping[str, object], part: str) -> float | None:
    """The seconds of a part of a cold start, see `COLD_PARTS`: they add up to the time until there is an image."""
    found = _seconds(start, COLD_PARTS[part])
    if part == "image" and found is not None:
        return max(0.0, found - (_seconds(start, COLD_PARTS["compile"]) or 0.0))
    return found


def cold_total(start: Mapping[str, object]) -> float:
    """Seconds until there is an image."""
    return sum(cold_part(start, part) or 0.0 for part in COLD_PARTS)


def cold_again(start: Mapping[str, object]) -> float | None:
    """The seconds to compile where an earlier process has filled the caches."""
    return _seconds(start, "cached_seconds")


def _seconds(start: Mapping[str, object], name: str) -> float | None:
    value = start.get(name)
    return float(value) if isinstance(value, int | float) else None


def cold_starts(report: Report) -> list[tuple[str, str, Mapping[str, object]]]:
    """Those that were measured: network, contender, what was found; none of one whose images are wrong there."""
    only = report.rows[0].model if report.rows else ""
    bad = wrong(report)
    found = [(str(start.get("model", only)), str(start.get("contender", "")), start) for start in report.cold]
    return [each for each in found if each[2].get("status") == MEASURED and each[0] not in bad.get(each[1], ())]


def ceilings(report: Report) -> list[tuple[str, float, float]]:
    """By dtype: 1e12 operations and 1e9 bytes a second that the machine was measured to do beside the rows."""
    found = []
    for dtype, rates in report.ceilings.items():
        tflops, gb_s = rates.get("tflops"), rates.get("gb_s")
        if isinstance(tflops, int | float) and isinstance(gb_s, int | float):
            found.append((dtype, float(tflops), float(gb_s)))
    return found


def short(value: float | None) -> str:
    """Three digits; a dash for nothing."""
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")


def ratio_words(row: Row) -> str:
    """The ratio and its interval, "0.31 (0.28..0.34)"; "1" for the reference itself."""
    if row.ratio is None:
        return "-"
    if row.contender == Contender(EAGER, dtype=row.dtype).name:
        return "1"
    if row.ratio_low is None or row.ratio_high is None:
        return f"{row.ratio:.2f}"
    low, middle, high = (_ratio(value) for value in (row.ratio_low, row.ratio, row.ratio_high))
    return f"{middle} ({low}..{high})"


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value < 9.995 else f"{value:.3g}"
