"""How the reads of a programming are shared out over its spin-reversal gauges, each a problem of its own."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def shares(reads: int, gauges: int) -> list[int]:
    """``reads`` shared out over at most ``gauges`` problems, as evenly as whole reads allow.

    >>> shares(10, 4), shares(2, 4)
    ([3, 3, 2, 2], [1, 1])
    """
    turns = min(gauges, reads)
    return [reads // turns + (turn < reads % turns) for turn in range(turns)]


def gauge_of_reads(reads: int, gauges: int) -> NDArray[np.int64]:
    """(reads,) which of a part's ``gauges`` each of its reads came from: each in its turn.

    So any reads in a row, and a part of fewer rows takes the first ones, are shared out evenly over all of them.

    >>> gauge_of_reads(5, 2).tolist()
    [0, 1, 0, 1, 0]
    """
    return np.arange(reads) % max(1, min(gauges, reads))


def spread_reads(reads: int, gauges: int, most: int) -> NDArray[np.int64]:
    """Up to ``most`` of a part's ``reads``, spread over all of them, as many of each gauge as of any other."""
    turns = max(1, min(gauges, reads))
    if most >= reads:
        return np.arange(reads)
    rounds = np.linspace(0, reads // turns - 1, max(1, most // turns)).round().astype(np.int64)
    return (rounds[:, None] * turns + np.arange(turns)).ravel()[:most]
