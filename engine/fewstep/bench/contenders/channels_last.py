"""diffusers with its module in channels-last memory, as its documentation advises for convolutions."""

import copy
from dataclasses import replace
from typing import Any

import torch

from fewstep.bench.contenders.case import Case
from fewstep.bench.contenders.diffusers import Diffusers
from fewstep.bench.contenders.standin import no_room


class ChannelsLast(Diffusers):
    """The same pipeline or loop, around a copy of the module."""

    def prepare(self, case: Case) -> None:
        """Copy the module, once; absent where it has no convolution over images, or where there is no room."""
        if self.absent(case) or case.batch in self.ready:
            return
        if not self.ready:
            self.lacks = self._copied()
        super().prepare(case)

    def _copied(self) -> str:
        theirs: Any = self.subject.theirs
        if not any(each.ndim == 4 for each in theirs.parameters()):
            return "no weights over images, whose channels could be last"
        if why := no_room(self.subject, "a copy of the weights", 1):
            return why
        laid_out = copy.deepcopy(theirs).to(memory_format=torch.channels_last)
        self.subject = replace(self.subject, theirs=laid_out)
        return ""
