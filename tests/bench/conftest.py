"""What the tests of the benchmark share: what takes seconds, compilers and ceilings, runs where it is tested."""

from functools import partial

import pytest

from fewstep.bench import ceilings
from fewstep.bench.contenders import RACERS, WAYS, Compiled


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile takes no part, and says so."""
    for kind in WAYS:
        monkeypatch.setitem(RACERS, kind, partial(Compiled, lacks="left out of this test"))


@pytest.fixture(autouse=True)
def low_ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured on small operands."""
    monkeypatch.setattr(ceilings, "rates", partial(ceilings.rates, quick=True))
