"""Independent vectors in place of numbers: whatever is computed from them linearly shows its own coefficients.

A vector lies along axis 2 of a tensor [B, C, W, 1], the same in each channel, so that it passes for a sample. Entry
j < W - CHECKS of a combination of vectors is the coefficient of vector j. The last CHECKS entries of each vector are
random numbers: there a map that is linear in each element by itself has to give the same combination of these numbers.
"""

import numpy as np
import torch
from torch import Tensor

from fewstep.diffusion.ladders import Array

CHECKS = 3


class Basis:
    """At most `size` independent vectors, handed out one by one, in float64 on the CPU.

    Args:
        size: how many vectors are there.
        batch, channels: B and C, all of them with the same vectors.
    """

    def __init__(self, size: int, batch: int = 1, channels: int = 1) -> None:
        self.size, self.used = size, 0
        self.shape = (batch, channels, size + CHECKS, 1)
        random = np.random.default_rng(0)
        self._random = random.uniform(0.5, 2.0, (size, CHECKS)) * random.choice((-1.0, 1.0), (size, CHECKS))

    def vector(self, length: float = 1.0) -> Tensor:
        """The next vector, of any length."""
        values = np.zeros(self.shape[2])
        values[self.used] = length
        values[self.size :] = length * self._random[self.used]
        self.used += 1
        return self.tensor(values)

    def tensor(self, values: Array) -> Tensor:
        """A combination [W] as a tensor [B, C, W, 1]."""
        one = torch.tensor(values, dtype=torch.float64, device="cpu").reshape(1, 1, -1, 1)
        return one.repeat(self.shape[0], self.shape[1], 1, 1)

    def holds(self, value: object) -> bool:
        """Whether a value is a tensor of combinations."""
        return isinstance(value, Tensor) and tuple(value.shape) == self.shape

    def coefficients(self, combination: Tensor, sample: int = 0) -> Array:
        """[size] the coefficients of a tensor of combinations, of one sample of its batch."""
        return self._numbers(combination, sample)[: self.size].copy()

    def is_linear(self, combination: Tensor, tolerance: float, sample: int = 0) -> bool:
        """Whether the random entries are what the coefficients make of those of the vectors."""
        numbers = self._numbers(combination, sample)
        terms = numbers[: self.size, None] * self._random
        return bool((np.abs(terms.sum(0) - numbers[self.size :]) <= tolerance * np.abs(terms).sum(0)).all())

    @staticmethod
    def _numbers(combination: Tensor, sample: int) -> Array:
        numbers: Array = combination[sample, 0].reshape(-1).double().numpy()
        return numbers
