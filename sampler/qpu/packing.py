"""Which conditions share a programming, and how many reads each programming gets.

Every row of a request gets a read of its own. Rows of one condition may be split over several parts; a programming
holds at most one part per copy of the lattice on the chip, and takes as many reads as its largest part has rows. Of
all splits by a common size the one with the least estimated QPU access time is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_TRIED = 64
"""Numbers of parts that the largest group is tried to be split into."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Rows of one condition on one copy: row ``rows[k]`` of the request gets read k.

    Attributes:
        condition: index of the condition.
        copy: index of the placement.
        rows: (rows,) int64.
    """

    condition: int
    copy: int
    rows: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Programming:
    """One problem: its parts, each on its own copy, and its reads."""

    parts: tuple[Part, ...]
    reads: int


def pack(
    members: list[NDArray[np.int64]],
    copies: int,
    cost_us: Callable[[int, int], float],
    most_reads: int,
    num_reads: int | None = None,
) -> tuple[Programming, ...]:
    """The programmings that draw every row once, at the least access time.

    Args:
        members: rows of each condition, none of them empty.
        copies: placements on the chip; copy 0 is the best and gets the most rows.
        cost_us: access time of a programming, from its number of parts and its reads.
        most_reads: limit on the reads of one programming.
        num_reads: reads of every programming, if the request fixes it.
    """
    sizes = np.array([rows.size for rows in members], dtype=np.int64)
    if not sizes.size:
        return ()
    if num_reads is not None:
        limit = min(num_reads, most_reads)
        return tuple(Programming(parts, limit) for parts in _chunks(members, copies, limit))
    largest = int(sizes.max())
    limits = {min(most_reads, -(-largest // pieces)) for pieces in range(1, _TRIED + 1)}
    costs = {limit: _cost(sizes, copies, limit, cost_us) for limit in limits}
    best = min(sorted(costs), key=lambda limit: costs[limit])
    return tuple(Programming(parts, max(part.rows.size for part in parts)) for parts in _chunks(members, copies, best))


def _cost(sizes: NDArray[np.int64], copies: int, limit: int, cost_us: Callable[[int, int], float]) -> float:
    whole, rest = np.divmod(sizes, limit)
    parts = np.sort(np.concatenate([np.full(int(whole.sum()), limit), rest[rest > 0]]))[::-1]
    total = 0.0
    for start in range(0, parts.size, copies):
        total += cost_us(min(copies, parts.size - start), int(parts[start]))
    return total


def _chunks(members: list[NDArray[np.int64]], copies: int, limit: int) -> list[tuple[Part, ...]]:
    pieces = [
        (condition, rows[start : start + limit])
        for condition, rows in enumerate(members)
        for start in range(0, rows.size, limit)
    ]
    pieces.sort(key=lambda piece: -piece[1].size)
    return [
        tuple(Part(condition, copy, rows) for copy, (condition, rows) in enumerate(pieces[start : start + copies]))
        for start in range(0, len(pieces), copies)
    ]
