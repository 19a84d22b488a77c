"""How long a matrix takes, said before it starts: by the cells that are there, else by a few numbers of two cores."""

from collections.abc import Mapping

from fewstep.bench.contenders import COMPILE, FREEZING, MAX_AUTOTUNE, REDUCE_OVERHEAD, REGIONAL, Case
from fewstep.bench.matrix import Race
from fewstep.bench.race import LEAST, WARM_UP

# Seconds on two cores of an EPYC with AVX2: a call of the network on one sample, and to compile it for a batch size.
CALL: Mapping[str, float] = {"digits": 0.02, "cifar10-ddpm": 0.15, "terrain": 0.3}
COMPILED: Mapping[str, float] = {"digits": 84.0, "cifar10-ddpm": 78.0, "terrain": 193.0}
OTHER_CALL, OTHER_COMPILED = 0.3, 60.0  # of another network, for each GiB of its weights
START = 8.0  # of a process: imports, weights, ceilings
COLD = 30.0  # of the cold starts of a network
COMPILES = (COMPILE, REGIONAL, REDUCE_OVERHEAD, MAX_AUTOTUNE, FREEZING)
PARITY = 3  # times a round that making ready and parity take


def expected(race: Race, case: Case, gib: float, run: int = 1) -> float:
    """Seconds of a cell in one run, roughly.

    Args:
        race: what it belongs to; its process and what is compiled for a batch size count with the first of its cells.
        case: the cell's.
        gib: the size of the network's weights in float32.
        run: which of the independent ones.
    """
    settings, name = race.settings, str(race.source.get("name", "")).partition("/")[0]
    call = CALL.get(name, OTHER_CALL * gib)
    many = len(settings.dtypes) * (1 + len(settings.backends or ("torch",)) + len(settings.beside))
    turn = many * case.steps * call * float(case.batch**0.75)
    rounds = max(LEAST, min(settings.repeats, settings.seconds / turn if turn else 0)) + WARM_UP
    seconds: float = turn * (rounds + PARITY)
    first = next(each for each in race.cases if each.batch == case.batch)
    if case == first:
        here = [kind for kind in settings.beside if kind not in settings.narrow or case.batch == min(settings.batches)]
        compiles = sum(kind in COMPILES for kind in here) + ("compile" in (settings.backends or ()))
        compiles *= run == 1  # and is found in the cache from then on
        seconds += compiles * len(settings.dtypes) * COMPILED.get(name, OTHER_COMPILED * gib)
    return seconds + (START if case == race.cases[0] else 0.0)


def spoken(seconds: float) -> str:
    """As people say it: 40 seconds, 12 minutes, 3.5 hours."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
