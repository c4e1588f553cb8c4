"""The law of one Gibbs update, written out plainly, and a kernel that follows it spin by spin.

Update number n of a chain sets the spin of a node whose field is x kT to::

    s = −sign(x)   unless   V < σ(−2β|x|),   then   s = sign(x)          (sign(0) = +1)

V is the update's uniform number in [0, 1): 16 bits of the chain's generator followed by 32 further bits, so that
probabilities are exact to 2⁻⁴⁸. That is P(s = +1) = σ(−2βx), the conditional of P(s) ∝ exp(−βE(s)).

This kernel serves machines whose fields need 32 bits, and tests, where it is the yardstick of the fast ones: they must
give the same spins to the bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.gibbs.streams import further_bits
from qshower.sampler.jit.kernel import kernel


@kernel()
def unlikely(bits: np.int64, size: float, key: np.uint64, update: int) -> Any:
    """Whether V < σ(−2β|x|), for the first 16 bits of V and size = 2β|x|."""
    chance = 65536.0 / (1.0 + np.exp(size))
    whole = np.int64(chance)
    if bits != whole:
        return bits < whole
    return np.float64(further_bits(key, update)) < (chance - whole) * 4294967296.0


@kernel()
def run_reference(
    up: NDArray[np.uint8],
    fields: NDArray[np.int32],
    indptr: NDArray[np.int32],
    neighbours: NDArray[np.int32],
    step: NDArray[np.int32],
    twice_betas: NDArray[np.float64],
    keys: NDArray[np.uint64],
    states: NDArray[np.uint32],
    start: int,
) -> None:
    """Sweep the chains of one block in place.

    Args:
        up: (rows, updates) uint8, 1 where the spin of an update is +1.
        fields: (rows, updates) field of each update with every free spin down.
        indptr: (updates + 1,) int32, rows of ``neighbours``.
        neighbours: (entries,) int32, positions of neighbours.
        step: (entries,) twice the coupling.
        twice_betas: (sweeps,) 2β per unit of field.
        keys: (rows,) keys of the streams.
        states: (4, rows) generators; left where the sweeps end.
        start: sweeps these chains have behind them.
    """
    updates = up.shape[1]
    padded = updates + updates % 2
    for row in range(up.shape[0]):
        s0, s1, s2, s3 = states[0, row], states[1, row], states[2, row], states[3, row]
        for sweep in range(twice_betas.shape[0]):
            bits = np.uint32(0)
            for position in range(updates):
                if position % 2 == 0:
                    total = np.uint32(s0 + s3)
                    bits = np.uint32(np.uint32((total << np.uint32(7)) | (total >> np.uint32(25))) + s0)
                    shifted = np.uint32(s1 << np.uint32(9))
                    s2 ^= s0
                    s3 ^= s1
                    s1 ^= s2
                    s0 ^= s3
                    s2 ^= shifted
                    s3 = np.uint32((s3 << np.uint32(11)) | (s3 >> np.uint32(21)))
                    half = bits & np.uint32(0xFFFF)
                else:
                    half = bits >> np.uint32(16)
                field = np.int64(fields[row, position])
                for entry in range(indptr[position], indptr[position + 1]):
                    field += np.int64(step[entry]) * np.int64(up[row, neighbours[entry]])
                size = twice_betas[sweep] * abs(field)
                rare = unlikely(np.int64(half), size, keys[row], (start + sweep) * padded + position)
                up[row, position] = 1 if (field < 0) != rare else 0
        states[0, row], states[1, row], states[2, row], states[3, row] = s0, s1, s2, s3
