"""How many threads are worth starting."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Cores this process may run on; a container may hold fewer than the machine has.

    >>> usable_cores() >= 1
    True
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
