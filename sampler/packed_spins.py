"""Spins packed one bit each: what the latent cache and banks hold."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.request import rows_by_condition


def pack_spins(spins: NDArray[np.int8]) -> NDArray[np.uint8]:
    """(rows, ⌈nodes/8⌉) uint8, one bit per spin of ``spins`` (rows, nodes); set: +1, most significant bit first."""
    return np.packbits(spins > 0, axis=1)


def unpack_spins(packed: NDArray[np.uint8], nodes: int) -> NDArray[np.int8]:
    """(rows, nodes) int8 of −1 and +1, the inverse of ``pack_spins``."""
    bits = np.unpackbits(packed, axis=1, count=nodes).view(np.int8)
    return bits * np.int8(2) - np.int8(1)


def rows_by_key(conditions: NDArray[np.int8]) -> dict[bytes, NDArray[np.int64]]:
    """Ascending rows of each condition of ``conditions`` (rows, width), by the condition's packed spins."""
    distinct, rows = rows_by_condition(conditions)
    return {key.tobytes(): some for key, some in zip(pack_spins(distinct), rows, strict=True)}
