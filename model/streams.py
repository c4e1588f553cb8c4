"""The decoder's random numbers: counter-based, one stream per shower.

Stream (seed, index) is Philox4x32-10 (Salmon et al., SC'11) with the seed as key and (block, index, tag) as counter, so
that number k of a shower depends on (seed, index, k) alone, whatever the batch, and never coincides with the samplers'
own streams.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

_DOMAIN_TAG = np.uint64(0x53485752)


@numba.njit(cache=True, nogil=True, fastmath=False)  # type: ignore[untyped-decorator]
def _fill(streams: NDArray[np.uint64], out: NDArray[np.float32]) -> None:
    mask = np.uint64(0xFFFFFFFF)
    shift = np.uint64(32)
    nine = np.uint64(9)
    for row in range(streams.shape[0]):
        seed, index = streams[row, 0], streams[row, 1]
        count = out.shape[1]
        for block in range((count + 3) // 4):
            c0 = np.uint64(block)
            c1 = index & mask
            c2 = index >> shift
            c3 = _DOMAIN_TAG
            k0 = seed & mask
            k1 = seed >> shift
            for _ in range(10):
                p0 = np.uint64(0xD2511F53) * c0
                p1 = np.uint64(0xCD9E8D57) * c2
                c0, c1, c2, c3 = (p1 >> shift) ^ c1 ^ k0, p1 & mask, (p0 >> shift) ^ c3 ^ k1, p0 & mask
                k0 = (k0 + np.uint64(0x9E3779B9)) & mask
                k1 = (k1 + np.uint64(0xBB67AE85)) & mask
            first = 4 * block
            out[row, first] = (np.float32(c0 >> nine) + np.float32(0.5)) * np.float32(2.0**-23)
            if first + 1 < count:
                out[row, first + 1] = (np.float32(c1 >> nine) + np.float32(0.5)) * np.float32(2.0**-23)
            if first + 2 < count:
                out[row, first + 2] = (np.float32(c2 >> nine) + np.float32(0.5)) * np.float32(2.0**-23)
            if first + 3 < count:
                out[row, first + 3] = (np.float32(c3 >> nine) + np.float32(0.5)) * np.float32(2.0**-23)


def uniforms(streams: NDArray[np.uint64], count: int) -> NDArray[np.float32]:
    """(rows, count) float32 uniform on (0, 1), 23 bits each, the first ``count`` numbers of each row's stream."""
    out = np.empty((streams.shape[0], count), dtype=np.float32)
    _fill(np.ascontiguousarray(streams, dtype=np.uint64), out)
    return out
