"""Random numbers of one chain: a function of its stream (seed, index), of what it is for, and of nothing else.

A stream is hashed by splitmix64's finaliser into a 64-bit key and the 128-bit state of xoshiro128++ (Blackman and
Vigna, 2019). Each 32-bit output serves two consecutive updates: its low half the first, its high half the second. Start
spins and the rare further bits of an update come from the key by counter.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.jit.kernel import kernel

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_START = np.uint64(0xD1B54A32D192ED03)
_TIES = np.uint64(0x8CB92BA72F3D8DD7)

DRAW = np.uint64(0x6472_6177)
"""Purpose of a draw from scratch."""

REFINE = np.uint64(0x7265_6669)
"""Purpose of a continuation of given states: independent of the draw with the same stream."""


@kernel()
def mix(value: np.uint64) -> np.uint64:
    """Finaliser of splitmix64: a bijection of 64-bit integers."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@kernel()
def stream_keys(streams: NDArray[np.uint64], purpose: np.uint64) -> NDArray[np.uint64]:
    """(rows,) key of each stream, for streams (rows, 2)."""
    keys = np.empty(streams.shape[0], dtype=np.uint64)
    for row in range(streams.shape[0]):
        seeded = mix(mix(streams[row, 0] + GOLDEN) ^ np.uint64(purpose))
        keys[row] = mix(seeded ^ mix(streams[row, 1] + GOLDEN))
    return keys


@kernel()
def generator_states(keys: NDArray[np.uint64]) -> NDArray[np.uint32]:
    """(4, rows) state of the xoshiro128++ of each key, never all zero."""
    states = np.empty((4, keys.shape[0]), dtype=np.uint32)
    for row in range(keys.shape[0]):
        low, high = mix(keys[row] + GOLDEN), mix(keys[row] + GOLDEN + GOLDEN)
        if low == 0 and high == 0:
            low = GOLDEN
        states[0, row], states[1, row] = np.uint32(low), np.uint32(low >> np.uint64(32))
        states[2, row], states[3, row] = np.uint32(high), np.uint32(high >> np.uint64(32))
    return states


@kernel()
def start_word(key: np.uint64, word: int) -> Any:
    """64 start bits: those of updates 64·word … 64·word + 63 of the order, lowest first."""
    return mix(key ^ mix(_START + np.uint64(word)))


@kernel()
def further_bits(key: np.uint64, update: int) -> Any:
    """32 more bits of the uniform number of an update, by the update's number since the chain began."""
    return mix(key ^ mix(_TIES + np.uint64(update))) >> np.uint64(32)


@kernel()
def scatter_start(spins: NDArray[np.int8], order: NDArray[np.int32], keys: NDArray[np.uint64]) -> None:
    """Random spins for the updated nodes of each row of ``spins``, from the row's key."""
    for row in range(spins.shape[0]):
        word = np.uint64(0)
        for position in range(order.shape[0]):
            if position % 64 == 0:
                word = start_word(keys[row], position // 64)
            spins[row, order[position]] = np.int8(2 * np.int64(word & np.uint64(1)) - 1)
            word = word >> np.uint64(1)
