"""Noise as a function: Philox4x32-10 and Box-Muller, in plain torch.

z = normal(seed, step, element): the key is a sample's 64-bit seed, the counter is (element // 4, step, stream, 0), and
the four words of one counter become four neighbouring normals. So the noise of a sample depends on its seed alone: not
on its batch mates, its slot, the batch size or the device.

Source: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (SC 2011); Box and Muller (1958).
"""

import torch
from torch import Tensor

STREAM_INITIAL = 0  # the noise a run starts from
STREAM_STEP = 1  # the noise a row adds
STREAM_FORWARD = 2  # forward noising, as in training
STREAM_KNOWN = 3  # re-noising of a known region

MASK = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10

# sin(2 pi y) = y P(y^2) on |y| <= 1/4: minimax in relative error (5.3e-9). A polynomial, because a GPU's own sine has a
# stack frame in Triton, and so that every device evaluates the same one.
SINE = (6.2831854820251465, -41.341678619384766, 81.60223388671875, -76.57498931884766, 39.71091842651367)


def philox4x32(counter: Tensor, key: Tensor) -> Tensor:
    """Ten rounds of Philox4x32.

    Args:
        counter: [4, ...] int64, each a 32-bit word.
        key: [2, ...] int64, each a 32-bit word; broadcasts against one word of the counter.

    Returns:
        [4, ...] int64 random 32-bit words.
    """
    ones = [1] * (counter.ndim - 1)
    multipliers = torch.tensor(MULTIPLIERS, device=counter.device).view(2, *ones)
    weyl = torch.tensor(WEYL, device=counter.device).view(2, *ones)
    even, odd = counter[0::2], counter[1::2]
    for _ in range(ROUNDS):
        product = torch.mul(even, multipliers).flip(0)  # wraps in int64, which keeps all 64 bits
        even = (product >> 32).bitwise_xor_(odd).bitwise_xor_(key).bitwise_and_(MASK)
        odd = product  # its high half is masked away where it next enters `even`, as is the key's carry
        key = key + weyl
    return torch.stack((even, odd & MASK), 1).flatten(0, 1)


def normals_from_words(words: Tensor) -> Tensor:
    """Box-Muller on pairs of words: sqrt(-2 ln u) cos(2 pi v), sqrt(-2 ln u) sin(2 pi v).

    Args:
        words: [4, ...] int64 random 32-bit words; u in (0, 1] from the even ones, v in [-1/2, 1/2] from the odd ones.

    Returns:
        [..., 4] float32 standard normals.
    """
    u = words[0::2].to(torch.float32).mul_(2.0**-32).add_(2.0**-33)
    v = ((words[1::2] ^ 0x80000000) - 0x80000000).to(torch.float32).mul_(2.0**-32)
    radius = u.log_().mul_(-2.0).sqrt_()
    magnitude = v.abs()
    cosine = _sine_of_turns(0.25 - magnitude)
    sine = _sine_of_turns(0.25 - (magnitude - 0.25).abs_()).copysign_(v)
    pairs = torch.stack((cosine.mul_(radius), sine.mul_(radius)), 1)  # [2, 2, ...]
    return pairs.flatten(0, 1).movedim(0, -1)


def _sine_of_turns(y: Tensor) -> Tensor:
    square = y * y
    series = torch.full_like(square, SINE[-1])
    for coefficient in reversed(SINE[:-1]):
        series.mul_(square).add_(coefficient)
    return series.mul_(y)
