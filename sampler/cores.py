"""How many threads are worth starting."""

from __future__ import annotations

import operator
import os

from qshower.sampler.errors import InvalidInputError


def usable_cores() -> int:
    """Cores this process may run on; a container may hold fewer than the machine has.

    >>> usable_cores() >= 1
    True
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def checked_threads(threads: int | None) -> int | None:
    """A number of worker threads as a Python integer; None stays None.

    >>> checked_threads(4), checked_threads(None)
    (4, None)
    """
    if threads is None:
        return None
    try:
        count = 0 if isinstance(threads, bool) else operator.index(threads)
    except TypeError:
        count = 0
    if count < 1:
        raise InvalidInputError("threads", threads, "an integer of at least 1, or None")
    return count
