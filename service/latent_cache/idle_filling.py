"""Filling latent caches with classical samplers while the processor is idle."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from secrets import randbits
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.latent_cache import LatentCache
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.protocol import Sampler
from qshower.sampler.request import LatentRequest, SamplerOptions, streams_of
from qshower.service.background.background_task import BackgroundTask

FILL_S = 0.05
"""About how long one draw may take: a request that comes meanwhile waits for it."""
FIRST_ROWS, MOST_ROWS = 16, 256
DEADLINE_S = 60.0
POLL_S = 0.05
PAUSES_S = (1.0, 60.0)


@dataclass(slots=True, eq=False)
class FilledCache:
    """The cache of one classical sampler and model, whose bins are filled.

    Attributes:
        name: of the model.
        sampler: draws what is missing.
        machine: the law.
        conditions: (bins, condition nodes) int8, the conditions whose bins are filled.
        per_condition: states to have in each.
        cache: what is filled.
        options: of the draws: what a request without options is drawn with.
        wanted: whether to fill it at all.
    """

    name: str
    sampler: Sampler
    machine: BoltzmannMachine
    conditions: NDArray[np.int8]
    per_condition: int
    cache: LatentCache
    options: SamplerOptions
    wanted: bool = True
    _seed: int = field(default_factory=lambda: randbits(64))
    _drawn: int = 0
    _rows: int = FIRST_ROWS

    @property
    def lacks(self) -> bool:
        """Whether a bin is short of states, and there is room for one."""
        return self.wanted and self.cache.room > 0 and bool((self._short() > 0).any())

    def fill(self) -> int:
        """Draw what the emptiest bins are short of, as much as takes about ``FILL_S``; how many states that was."""
        conditions = self.conditions[emptiest(self._short(), min(self._rows, self.cache.room))]
        rows = conditions.shape[0]
        streams = streams_of(self._seed, rows, self._drawn)
        self._drawn += rows
        request = LatentRequest(self.machine, conditions, streams, self.options, DEADLINE_S)
        begun = monotonic()
        batch = self.sampler.sample(request).checked(request)
        seconds = max(monotonic() - begun, 1e-6)
        self._rows = int(np.clip(rows * FILL_S / seconds, 1, min(2 * self._rows, MOST_ROWS)))
        return self.cache.put(batch.spins, batch.provenance, evict=False)

    def status(self) -> Mapping[str, Any]:
        """Counts of the cache, and how many states it is to have."""
        return {**self.cache.status(), "wanted": len(self.conditions) * self.per_condition}

    def _short(self) -> NDArray[np.int64]:
        return self.per_condition - self.cache.count(self.conditions)


def emptiest(short: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """(up to ``most``,) bins to draw a state for, given what each is ``short`` of: those shortest of states first."""
    bins = np.repeat(np.arange(short.size), np.maximum(short, 0))
    # The state after which a bin is short of n - 1 comes before that after which another is short of fewer.
    after = np.concatenate([np.arange(count, 0, -1) for count in short if count > 0] or [np.empty(0, dtype=np.int64)])
    return bins[np.argsort(-after, kind="stable")][:most]


class IdleFilling:
    """One task that fills ``caches`` in turn, whichever lacks states first, while ``idle``."""

    def __init__(self, idle: Callable[[], bool]) -> None:
        self.caches: Sequence[FilledCache] = ()
        self._idle = idle
        self.task = BackgroundTask("filling", self._due, FilledCache.fill, poll_s=POLL_S, pauses_s=PAUSES_S)

    def _due(self) -> FilledCache | None:
        return next((one for one in self.caches if one.lacks), None) if self._idle() else None
