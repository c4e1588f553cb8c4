"""The fast CPU kernel: as many chains at a time as the state's integers have bits, fields in 16 bits.

It gives the same spins as ``kernels.reference``, to the bit. An update has to know whether V < q, q =
σ(−2β|x|). With e = exp(−2β|x|) this is V·(1 + e) < e: no division. The kernel computes e in 16 bits, as a power of two
by a cubic polynomial, compares with the first 16 bits of V, and takes the answer wherever its rounding errors cannot
have decided it. In the few lanes where V is within ``MARGIN`` units of 2⁻¹⁶ of the edge, one update in several
thousand, the plain rule decides.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.gibbs.kernels import simd, simd32
from qshower.sampler.gibbs.kernels.reference import unlikely
from qshower.sampler.jit.kernel import kernel

MARGIN = 8
"""Units of 2⁻¹⁶ within which the 16-bit comparison leaves the decision to the plain rule."""

# 2**-f = C0 - f (C1 - f (C2 - f C3)) on [0, 1), coefficients in units of 2**-16.
C0, C1, C2, C3 = 65523, 45310, 15142, 2596

OCTAVE = 4096
"""Units of the exponent in one factor of two of e."""


def exponent_factors(twice_betas: NDArray[np.float64]) -> NDArray[np.int32]:
    """(sweeps, 3) for 2β per unit of field: cap of |x|, whole part and 16-bit fraction of units of exponent per unit.

    exponent = min(|x|, cap)·factor, in units of 1/OCTAVE octaves, never above 16 bits.
    """
    factor = twice_betas * np.log2(np.e) * OCTAVE
    whole = np.floor(factor)
    fraction = np.floor((factor - whole) * 65536.0)
    cap = np.minimum(np.floor(65535.0 / (whole + (fraction + 1.0) / 65536.0)), 32767.0)
    return np.stack([cap, np.minimum(whole, 65535.0), fraction], axis=1).astype(np.int32)


@kernel()
def run_many_chains(
    up: NDArray[Any],
    fields: NDArray[np.int16],
    indptr: NDArray[np.int32],
    neighbours: NDArray[np.int32],
    step: NDArray[np.int32],
    twice_betas: NDArray[np.float64],
    factors: NDArray[np.int32],
    keys: NDArray[np.uint64],
    states: NDArray[np.uint32],
    scratch: NDArray[np.int16],
    start: int,
) -> None:
    """Sweep the chains of one block in place.

    Args:
        up: (updates,) uint8 … uint64; bit l of ``up[p]`` is set where update p's spin in chain l is +1.
        fields: (updates, lanes) field of each update with the condition folded in and every free spin down.
        indptr: (updates + 1,) int32, rows of ``neighbours``.
        neighbours: (entries,) int32, positions of neighbours.
        step: (entries,) int32, twice the coupling modulo 2¹⁶, in both halves.
        twice_betas: (sweeps,) 2β per unit of field.
        factors: ``exponent_factors(twice_betas)``.
        keys: (lanes,) keys of the streams.
        states: (4, lanes) generators, those of the even lanes first; left where the sweeps end.
        scratch: (5, lanes) int16.
        start: sweeps these chains have behind them.
    """
    updates = up.shape[0]
    padded = updates + updates % 2
    a0, a1 = simd32.load_pairs(up, states, 0, 0), simd32.load_pairs(up, states, 1, 0)
    a2, a3 = simd32.load_pairs(up, states, 2, 0), simd32.load_pairs(up, states, 3, 0)
    b0, b1 = simd32.load_pairs(up, states, 0, 1), simd32.load_pairs(up, states, 1, 1)
    b2, b3 = simd32.load_pairs(up, states, 2, 1), simd32.load_pairs(up, states, 3, 1)
    for sweep in range(twice_betas.shape[0]):
        # Kept in memory on purpose: hoisted out of the loop, they would be widened there and the products with them.
        for row in range(3):
            simd.store_words(simd.splat(up, factors[sweep, row]), scratch, row)
        for first in range(0, updates, 2):
            total = simd.add(a0, a3)
            even = simd.add(simd.exclusive_or(simd.shift_left(total, 7), simd.shift_right(total, 25)), a0)
            shifted = simd.shift_left(a1, 9)
            a2, a3 = simd.exclusive_or(a2, a0), simd.exclusive_or(a3, a1)
            a1, a0 = simd.exclusive_or(a1, a2), simd.exclusive_or(a0, a3)
            a2 = simd.exclusive_or(a2, shifted)
            a3 = simd.exclusive_or(simd.shift_left(a3, 11), simd.shift_right(a3, 21))
            total = simd.add(b0, b3)
            odd = simd.add(simd.exclusive_or(simd.shift_left(total, 7), simd.shift_right(total, 25)), b0)
            shifted = simd.shift_left(b1, 9)
            b2, b3 = simd.exclusive_or(b2, b0), simd.exclusive_or(b3, b1)
            b1, b0 = simd.exclusive_or(b1, b2), simd.exclusive_or(b0, b3)
            b2 = simd.exclusive_or(b2, shifted)
            b3 = simd.exclusive_or(simd.shift_left(b3, 11), simd.shift_right(b3, 21))
            for position in range(first, min(first + 2, updates)):
                field = simd.field_words(up, fields, position)
                for entry in range(simd.at(indptr, position), simd.at(indptr, position + 1)):
                    field = simd.add_where(field, up, neighbours, step, entry)
                bits = simd32.low_halves(even, odd) if position == first else simd32.high_halves(even, odd)
                size = simd.smaller(simd.absolute(field), simd.field_words(up, scratch, 0))
                exponent = simd.add(
                    simd.multiply_low(size, simd.field_words(up, scratch, 1)),
                    simd.multiply_high(size, simd.field_words(up, scratch, 2)),
                )
                rest = simd.shift_left(exponent, 4)
                power = simd.subtract(simd.splat(up, C2), simd.multiply_high(rest, simd.splat(up, C3)))
                power = simd.subtract(simd.splat(up, C1), simd.multiply_high(rest, power))
                power = simd.subtract(simd.splat(up, C0), simd.multiply_high(rest, power))
                power = simd.shift_right_each(power, simd.shift_right(exponent, 12))
                edge = simd.subtract(power, simd.multiply_high(bits, power))
                rare = simd.below(up, bits, edge)
                distance = simd.add(simd.subtract(bits, edge), simd.splat(up, MARGIN))
                if simd.any_below(distance, simd.splat(up, 2 * MARGIN + 1)):
                    open_lanes = simd.below(up, distance, simd.splat(up, 2 * MARGIN + 1))
                    update = (start + sweep) * padded + position
                    rare = settle(rare, open_lanes, field, bits, scratch, keys, twice_betas[sweep], update, 0)
                up[position] = simd.negative(up, field) ^ rare
    for row, (even, odd) in enumerate(((a0, b0), (a1, b1), (a2, b2), (a3, b3))):
        simd32.store_pairs(even, up, states, row, 0)
        simd32.store_pairs(odd, up, states, row, 1)


@kernel()
def settle(
    rare: Any, open_lanes: Any, field: Any, bits: Any, scratch: Any, keys: Any, twice_beta: Any, update: Any, apart: Any
) -> Any:
    """``rare`` with the open lanes decided by the plain rule; update numbers of neighbouring lanes are ``apart``."""
    simd.store_words(field, scratch, 3)
    simd.store_words(bits, scratch, 4)
    rare_bits, open_bits = np.uint64(rare), np.uint64(open_lanes)
    rare_bits &= ~open_bits
    while open_bits != 0:
        lane = simd.trailing_zeros(open_bits)
        open_bits &= open_bits - np.uint64(1)
        size = twice_beta * abs(np.int64(scratch[3, lane]))
        if unlikely(np.int64(scratch[4, lane]) & 0xFFFF, size, keys[lane], update + apart * lane):
            rare_bits |= np.uint64(1) << np.uint64(lane)
    return rare_bits
