"""All that is random in training, as functions of (seed, step): nothing has a state, so a resumed run draws the same.

One Philox4x32 call gives each sample of a step four words: two are the key of its noise, one its place in time, one
decides whether its label is dropped. A second call gives what only some losses draw. See `fewstep_kernels.philox`.
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from fewstep_kernels.philox import philox4x32

# Philox streams of the run's own key; 0 to 3 belong to the noise of samples.
STREAM_SAMPLE: Final = 16
STREAM_ORDER: Final = 17
STREAM_SPARE: Final = 18

_MASK = 0xFFFFFFFF


@dataclass(frozen=True)
class Draws:
    """What chance decides for the B samples of one step."""

    seeds: Tensor  # [B] int64, the keys of their noise
    u: Tensor  # [B] float64 in [0, 1), the share of the schedule that lies below their timestep
    drop: Tensor  # [B] float64 in [0, 1)
    spare: Tensor  # [B] float64 in [0, 1), for what a loss draws besides


def draw(seed: int, step: int, batch: int) -> Draws:
    """The draws of a step.

    u is stratified, u_b = (b + uniform) / B, so that every batch covers the whole schedule (Kingma et al., Variational
    Diffusion Models, 2107.00630, appendix I.1). The data's order is random, so no image prefers a stratum.
    """
    words = _words(seed, step, STREAM_SAMPLE, batch)
    u = (torch.arange(batch) + words[2].double() / 2**32) / batch
    spare = _words(seed, step, STREAM_SPARE, batch)[0]
    return Draws(_keys(words), u, words[3].double() / 2**32, spare.double() / 2**32)


class Order:
    """The order in which `count` images are shown: a new permutation for each epoch, a function of (seed, epoch)."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed
        self._epoch, self._permutation = -1, torch.empty(0, dtype=torch.int64)

    def indices(self, step: int, batch: int) -> Tensor:
        """The images [batch] int64 of a step; a batch may reach into the next epochs."""
        parts, place, wanted = [], step * batch, batch
        while wanted:
            epoch, start = divmod(place, self.count)
            part = self._of(epoch)[start : start + wanted]
            parts.append(part)
            place, wanted = place + len(part), wanted - len(part)
        return torch.cat(parts)

    def _of(self, epoch: int) -> Tensor:
        if epoch != self._epoch:
            self._epoch, self._permutation = epoch, permutation(self.count, self.seed, epoch)
        return self._permutation


def permutation(count: int, seed: int, epoch: int) -> Tensor:
    """A permutation of 0 .. count - 1, int64: the order of 64 random bits each."""
    return _keys(_words(seed, epoch, STREAM_ORDER, count)).argsort(stable=True)


def _keys(words: Tensor) -> Tensor:
    """The first two words as 64-bit numbers; the sign bit is a bit like any other."""
    return words[0] | (words[1] << 32)


def _words(seed: int, step: int, stream: int, count: int) -> Tensor:
    """Random 32-bit words [4, count]."""
    counter = torch.empty(4, count, dtype=torch.int64)
    counter[0] = torch.arange(count)
    counter[1], counter[2], counter[3] = step & _MASK, stream, step >> 32
    key = torch.tensor([[seed & _MASK], [seed >> 32 & _MASK]])
    return philox4x32(counter, key)
