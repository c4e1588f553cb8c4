"""Which conditions share a programming, and how many reads each programming gets.

Every row of a request gets a read of its own. Rows of one condition may be split over several parts; a programming
holds at most one part per copy of the lattice on the chip, and takes as many reads as its largest part has rows.

The best split of all is a bin-packing problem. What is searched are splits with two sizes: the conditions of most rows,
down to some place in their order, are split into parts of at most one size, and the others into parts of at most
another. Of these the one with the least estimated QPU access time is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_TRIED = 64
"""Numbers of parts that the largest group is tried to be split into."""
_CUTS = 32
"""Places at most where the groups are tried to be cut in two."""

Cost = Callable[[NDArray[np.int64], NDArray[np.float64]], NDArray[np.float64]]
"""Access times of programmings, from their numbers of parts and their reads."""


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
class Packed:
    """What lies side by side on the chip, before it is known over how many gauges its reads are shared out.

    Attributes:
        parts: the parts, each on its own copy.
        reads: reads of each part.
    """

    parts: tuple[Part, ...]
    reads: int


@dataclass(frozen=True, slots=True)
class Programming:
    """What is programmed together.

    Attributes:
        parts: the parts, each on its own copy.
        reads: reads of each part, all gauges together.
        gauges: problems that the reads are shared out over, each in a spin-reversal gauge of its own.
    """

    parts: tuple[Part, ...]
    reads: int
    gauges: int


def pack(
    members: list[NDArray[np.int64]],
    copies: int,
    cost_us: Cost,
    most_reads: int,
    num_reads: int | None = None,
) -> tuple[Packed, ...]:
    """What draws every row once, at the least access time found.

    Args:
        members: rows of each condition, none of them empty.
        copies: placements on the chip; copy 0 is the best and gets the most rows.
        cost_us: see ``Cost``.
        most_reads: limit on the reads of one programming, all its gauges together.
        num_reads: reads of every programming, if the request fixes it; ``most_reads`` does not count then.

    Returns:
        The conditions that lie side by side in each programming, and its reads.
    """
    order = sorted(range(len(members)), key=lambda condition: -members[condition].size)
    if num_reads is not None:
        return tuple(Packed(parts, num_reads) for parts in _chunks(members, order, copies, num_reads))
    sizes = np.array([members[condition].size for condition in order], dtype=np.int64)
    least, best = np.inf, (0, 1, 1)
    for cut in np.unique(np.linspace(0, max(0, sizes.size - 1), min(_CUTS, sizes.size)).round().astype(int)):
        first_us, first = _best_limit(sizes[:cut], copies, cost_us, most_reads, least)
        second_us, second = _best_limit(sizes[cut:], copies, cost_us, most_reads, least - first_us)
        if first_us + second_us < least:
            least, best = first_us + second_us, (int(cut), first, second)
    cut, *limits = best
    packed = [
        Packed(parts, max(part.rows.size for part in parts))
        for some, limit in zip((order[:cut], order[cut:]), limits, strict=True)
        for parts in _chunks(members, some, copies, limit)
    ]
    return tuple(sorted(packed, key=lambda one: -one.reads))


def _best_limit(
    sizes: NDArray[np.int64], copies: int, cost_us: Cost, most_reads: int, below_us: float
) -> tuple[float, int]:
    """Least access time of groups split by one size, and that size; inf if it is not below ``below_us``."""
    if not sizes.size:
        return 0.0, 1
    total, least, best = int(sizes.sum()), np.inf, 1
    for limit in sorted({min(most_reads, -(-int(sizes[0]) // pieces)) for pieces in range(1, _TRIED + 1)})[::-1]:
        # So many full programmings are the least that smaller parts take: from here on it only gets dearer.
        full = max(-(-total // (copies * limit)), -(-sizes.size // copies))
        if full * float(cost_us(np.array([copies]), np.array([total / (copies * full)]))[0]) >= min(least, below_us):
            break
        cost = _cost(sizes, copies, limit, cost_us)
        if cost < least:
            least, best = cost, limit
    return least, best


def _cost(sizes: NDArray[np.int64], copies: int, limit: int, cost_us: Cost) -> float:
    whole, rest = np.divmod(sizes, limit)
    parts = np.sort(np.concatenate([np.full(int(whole.sum()), limit), rest[rest > 0]]))[::-1]
    heads = parts[::copies]
    counts = np.full(heads.size, copies, dtype=np.int64)
    counts[-1] = parts.size - copies * (heads.size - 1)
    return float(cost_us(counts, heads.astype(np.float64)).sum())


def _chunks(members: list[NDArray[np.int64]], some: list[int], copies: int, limit: int) -> list[tuple[Part, ...]]:
    pieces = [
        (condition, members[condition][start : start + limit])
        for condition in some
        for start in range(0, members[condition].size, limit)
    ]
    pieces.sort(key=lambda piece: -piece[1].size)
    return [
        tuple(Part(condition, copy, rows) for copy, (condition, rows) in enumerate(pieces[start : start + copies]))
        for start in range(0, len(pieces), copies)
    ]
