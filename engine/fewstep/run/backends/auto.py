"""What "auto" goes by: whether a program pays for its making, before one is made and after it was dropped."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from fewstep.run.backends.call import Call
from fewstep.run.backends.choice import known_choice
from fewstep.run.backends.kept import Kept
from fewstep.run.backends.worth import pays

IN_VAIN: Final = 2  # times in a row that programs are made which do not live to pay; then it waits
TOO_FEW: Final = "too few calls to save what it costs"


class Auto:
    """The judgement of one network's programs.

    Args:
        kept: what earlier processes have measured.

    Attributes:
        ahead: calls, where they are all that come: then a program has to pay within them. None where more may come.
    """

    def __init__(self, kept: Kept | None = None) -> None:
        self.kept = kept
        self.ahead: int | None = None
        self._pays: bool | None = None  # decided once, so that a request is executed in one way
        self._vain = self._patience = self._until = 0

    def waits(self, call: int) -> bool:
        """Whether torch takes the network's call of this number, since programs have been made in vain before."""
        return call < self._until

    def by_torch(
        self, call: Call, module: Callable[[], object], seconds: float, parameters: int
    ) -> dict[str, object] | None:
        """Why torch takes a kind of call, of which no program is made then; None where one is made and timed.

        Args:
            call: the kind.
            module: calls the network once more.
            seconds: that torch took for the first call.
            parameters: of the network.
        """
        if self.ahead is not None:
            if self._pays is None:
                self._pays = pays(self.ahead, seconds, module, lambda: known_choice(self.kept, call), parameters)
            if not self._pays:
                return {"why": TOO_FEW}
        found = known_choice(self.kept, call)
        return found if found is not None and found["taken"] == "torch" else None

    def judge(self, call: int, programs: Iterable[tuple[int, Mapping[str, Any]]], spent: float) -> None:
        """Before programs are dropped because the network has changed: whether they have saved what they cost.

        Whoever trains the network has them made in vain at every change. So after two of those, torch takes as many
        calls first as the last would have needed to pay.

        Args:
            call: the number of the network's last one.
            programs: how often each was called, and what was found out about it.
            spent: seconds in which they were made.
        """
        found = [(calls, _gain(about)) for calls, about in programs]
        if found:
            saved, best = sum(calls * gain for calls, gain in found), max(gain for _, gain in found)
            self._vain = self._vain + 1 if saved < spent else 0
            self._patience = int(spent / max(best, 1e-6))
        self._until = call + self._patience if self._vain >= IN_VAIN else 0


def _gain(about: Mapping[str, Any]) -> float:
    """Seconds that a program saves in each call, as it was measured."""
    return (float(about.get("torch_milliseconds", 0)) - float(about.get("milliseconds", 0))) / 1e3
