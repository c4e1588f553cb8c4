"""The threads that kernels run on: one pool for the process."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from qshower.sampler.cores import usable_cores

CALLS = 4
"""Calls that may run side by side with all their threads: a short one does not wait for the end of a long one."""


def each_slice(work: Callable[[slice], None], rows: int, size: int, threads: int | None) -> None:
    """Call ``work`` on slices of at most ``size`` rows, on up to ``threads`` threads of the shared pool."""
    slices = [slice(start, min(start + size, rows)) for start in range(0, rows, size)]
    workers = min(threads if threads is not None else usable_cores(), len(slices))
    if workers <= 1:
        for part in slices:
            work(part)
        return

    def lane(number: int) -> None:
        for part in slices[number::workers]:
            work(part)

    futures = [_pool().submit(lane, number) for number in range(workers)]
    for future in futures:
        future.result()


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=CALLS * usable_cores(), thread_name_prefix="gibbs")
