"""What the tests of the benchmark share: a compiler takes ten seconds a network, so it runs where it is tested."""

from functools import partial

import pytest

from fewstep.bench.contenders import RACERS, WAYS, Compiled


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile takes no part, and says so."""
    for kind in WAYS:
        monkeypatch.setitem(RACERS, kind, partial(Compiled, lacks="left out of this test"))
