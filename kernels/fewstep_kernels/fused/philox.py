"""Philox4x32-10 and Box-Muller inside a kernel: the twin is `fewstep_kernels.philox`; one counter gives four normals.

Sine and logarithm are polynomials, rounded after each operation, and the square root is the rounded one, so the bits
are the same on every GPU. The hardware's own logarithm is off by up to 2^-22 where u nears 1: 5e-6 of a normal.
"""

import triton
import triton.language as tl

from fewstep_kernels import philox

STREAM_INITIAL = tl.constexpr(philox.STREAM_INITIAL)
STREAM_STEP = tl.constexpr(philox.STREAM_STEP)
STREAM_KNOWN = tl.constexpr(philox.STREAM_KNOWN)

_SINE = tl.constexpr(philox.SINE)

# ln(1 + f) = f - f^2 / 2 + f^3 P(f) for 1 + f in [sqrt(1/2), sqrt(2)): minimax in relative error (5.8e-9).
_LOG = tl.constexpr(
    (
        0.3333333134651184,
        -0.2500081956386566,
        0.20001226663589478,
        -0.16623356938362122,
        0.14201758801937103,
        -0.13160182535648346,
        0.12761574983596802,
        -0.07634493708610535,
    )
)
_SQRT_HALF = tl.constexpr(0x3F3504F3)  # the bits of the float
_LN_2_HIGH = tl.constexpr(0.693359375)  # ten bits: exact times an exponent
_LN_2_LOW = tl.constexpr(-2.12194440e-4)


@triton.jit
def normals(seed, step, stream, first, BLOCK: tl.constexpr):  # [BLOCK] float32
    """Standard normals for the elements first to first + BLOCK - 1 of one sample; both are multiples of four."""
    counter = first // 4 + tl.arange(0, BLOCK // 4)
    word_0, word_1, word_2, word_3 = random_words(seed, step, stream, counter)
    z_0, z_1 = _box_muller(word_0, word_1)
    z_2, z_3 = _box_muller(word_2, word_3)
    return tl.interleave(tl.interleave(z_0, z_2), tl.interleave(z_1, z_3))


@triton.jit
def random_words(seed, step, stream, counter):
    """Four uint32 words of each counter (counter, step, stream, 0), the two halves of the int64 seed being the key."""
    step, stream = tl.cast(step, tl.uint32), tl.cast(stream, tl.uint32)
    return tl.philox(seed, counter.to(tl.uint32), step, stream, tl.cast(0, tl.uint32))


@triton.jit
def _box_muller(u_word, v_word):
    """sqrt(-2 ln u) cos(2 pi v), sqrt(-2 ln u) sin(2 pi v) with u in (0, 1] and v in [-1/2, 1/2]."""
    u = u_word.to(tl.float32) * 2.0**-32 + 2.0**-33
    v = v_word.to(tl.int32, bitcast=True).to(tl.float32) * 2.0**-32
    radius = tl.sqrt_rn(-2.0 * _log(u))
    magnitude = tl.abs(v)
    cosine = sine_of_turns(0.25 - magnitude)
    sine = sine_of_turns(0.25 - tl.abs(magnitude - 0.25))
    return cosine * radius, tl.where(v < 0.0, -sine, sine) * radius


@triton.jit
def sine_of_turns(y):
    """sin(2 pi y) for y in [-1/4, 1/4], odd to the bit."""
    return y * _polynomial(y * y, _SINE, 5)


@triton.jit
def _log(u):
    """ln u for a positive, normal u: u = 2^exponent (1 + f)."""
    bits = u.to(tl.int32, bitcast=True)
    exponent = (bits - _SQRT_HALF) >> 23
    f = (bits - (exponent << 23)).to(tl.float32, bitcast=True) - 1.0
    e = exponent.to(tl.float32)
    square = f * f
    series = square * f * _polynomial(f, _LOG, 8) + e * _LN_2_LOW
    return e * _LN_2_HIGH + (f + (series - 0.5 * square))


@triton.jit
def _polynomial(x, COEFFICIENTS: tl.constexpr, TERMS: tl.constexpr):
    series = tl.full(x.shape, COEFFICIENTS[TERMS - 1], tl.float32)
    for term in tl.static_range(1, TERMS):
        series = series * x + COEFFICIENTS[TERMS - 1 - term]
    return series
