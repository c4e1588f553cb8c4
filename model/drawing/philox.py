"""The decoder's random numbers: counter-based, one stream per shower.

Stream (seed, index) is Philox4x32-10 (Salmon et al., SC'11) with the seed as key and (block, index, tag) as counter, so
that number k of a shower depends on (seed, index, k) alone, whatever the batch, and never coincides with the samplers'
own streams.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.jit.kernel import kernel

Words = tuple[np.uint64, np.uint64, np.uint64, np.uint64]
_DOMAIN_TAG = np.uint64(0x53485752)


@kernel(inline="always")
def philox_block(counter: Words, key: tuple[np.uint64, np.uint64]) -> Words:
    """Four 32-bit words of Philox4x32-10."""
    mask, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    c0, c1, c2, c3 = np.uint64(counter[0]), np.uint64(counter[1]), np.uint64(counter[2]), np.uint64(counter[3])
    k0, k1 = np.uint64(key[0]), np.uint64(key[1])
    for _ in range(10):
        p0 = np.uint64(0xD2511F53) * c0
        p1 = np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (p1 >> shift) ^ c1 ^ k0, p1 & mask, (p0 >> shift) ^ c3 ^ k1, p0 & mask
        k0 = (k0 + np.uint64(0x9E3779B9)) & mask
        k1 = (k1 + np.uint64(0xBB67AE85)) & mask
    return c0, c1, c2, c3


@kernel()
def _fill(streams: NDArray[np.uint64], out: NDArray[np.float32]) -> None:
    mask, shift, nine = np.uint64(0xFFFFFFFF), np.uint64(32), np.uint64(9)
    half, unit = np.float32(0.5), np.float32(2.0**-23)
    rows, count = out.shape
    for row in range(rows):
        seed, index = streams[row, 0], streams[row, 1]
        key = (seed & mask, seed >> shift)
        whole = count // 4
        for block in range(whole):
            words = philox_block((np.uint64(block), index & mask, index >> shift, _DOMAIN_TAG), key)
            out[row, 4 * block] = (np.float32(words[0] >> nine) + half) * unit
            out[row, 4 * block + 1] = (np.float32(words[1] >> nine) + half) * unit
            out[row, 4 * block + 2] = (np.float32(words[2] >> nine) + half) * unit
            out[row, 4 * block + 3] = (np.float32(words[3] >> nine) + half) * unit
        words = philox_block((np.uint64(whole), index & mask, index >> shift, _DOMAIN_TAG), key)
        for place in range(count - 4 * whole):
            out[row, 4 * whole + place] = (np.float32(words[place] >> nine) + half) * unit


def uniforms(streams: NDArray[np.uint64], count: int) -> NDArray[np.float32]:
    """(rows, count) float32 uniform on (0, 1), 23 bits each, the first ``count`` numbers of each row's stream."""
    out = np.empty((streams.shape[0], count), dtype=np.float32)
    _fill(np.ascontiguousarray(streams, dtype=np.uint64), out)
    return out
