"""The latent caches of a service, one for each sampler and model, and what fills them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.claim import Claim
from qshower.sampler.latent_cache import LatentCache
from qshower.sampler.registry import SamplerRegistry
from qshower.service.catalogue import Catalogue
from qshower.service.latent_cache.cached_reads import CachedReads
from qshower.service.latent_cache.idle_filling import FilledCache, IdleFilling
from qshower.service.latent_cache.unused_reads_queue import UnusedReadsQueue
from qshower.service.sampler_table import default_options, qpu_of

if TYPE_CHECKING:
    from qshower.model.bundle import Bundle


class LatentCaches:
    """Latents for requests that name neither a seed nor options. Each is served once, and drawn as such a request is.

    A cacheable sampler's cache is filled in idle time, for models whose energy code is finite: that of the first such
    sampler from the start, those of the others once a request has asked for them. A QPU's is filled with the reads that
    its draws did not use.

    Args:
        catalogue: the models.
        registry: the samplers.
        idle: whether the processor is idle.
        max_bytes: bound on the memory of all caches, which share it evenly; 0 for no caches.
        per_condition: states of each condition that are drawn in idle time.
        max_age_s: for how long a QPU's reads are cached.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        registry: SamplerRegistry,
        idle: Callable[[], bool],
        *,
        max_bytes: int,
        per_condition: int,
        max_age_s: float = math.inf,
    ) -> None:
        self._cacheable = [sampler for sampler in registry if sampler.capabilities.cacheable]
        self._qpu = qpu_of(registry)
        self._max_bytes, self._per_condition, self._max_age_s = max_bytes, per_condition, max_age_s
        self._filled: dict[tuple[str, Bundle], FilledCache] = {}
        self._reads: dict[tuple[str, Bundle], CachedReads] = {}
        self.queue: UnusedReadsQueue | None = None
        self._filling = IdleFilling(idle)
        if self._qpu is not None and max_bytes:
            self.queue = UnusedReadsQueue()
            self._qpu.access.receiver = self.queue.receive
        self.follow(catalogue.bundles())

    def follow(self, bundles: Sequence[Bundle]) -> None:
        """Have caches for ``bundles`` and no others from now on; a bundle that had one keeps it, and what is in it.

        The memory is shared evenly anew: a cache whose share has shrunk forgets what is too much.
        """
        each = self._max_bytes // (len(bundles) * (len(self._cacheable) + (self._qpu is not None)) or 1)
        filled: dict[tuple[str, Bundle], FilledCache] = {}
        reads: dict[tuple[str, Bundle], CachedReads] = {}
        for sampler in self._cacheable if each else ():
            for bundle in bundles:
                known = self._filled.get((sampler.name, bundle))
                if known is not None:
                    known.cache.bound(each)
                    filled[sampler.name, bundle] = known
                elif (conditions := _conditions(bundle)) is not None:
                    filled[sampler.name, bundle] = FilledCache(
                        bundle.name,
                        sampler,
                        bundle.machine,
                        conditions,
                        self._per_condition,
                        LatentCache(bundle.machine, each),
                        default_options(sampler, bundle),
                        wanted=sampler is self._cacheable[0],
                    )
        if self._qpu is not None and each:
            for bundle in bundles:
                kept = self._reads.get((self._qpu.name, bundle))
                if kept is None:
                    kept = CachedReads(self._qpu, bundle, max_bytes=each, max_age_s=self._max_age_s)
                kept.bound(each)
                reads[self._qpu.name, bundle] = kept
        self._filled, self._reads = filled, reads
        self._filling.caches = tuple(filled.values())
        if self.queue is not None:
            self.queue.caches = tuple(reads.values())

    def claim(self, sampler: str, bundle: Bundle, conditions: NDArray[np.int8], *, whole: bool = False) -> Claim | None:
        """What the cache of a sampler, by its name, and a model has for ``conditions``; None if it has none of them.

        With ``whole``, None unless there is a latent for each of ``conditions`` (rows, condition nodes).
        """
        filled = self._filled.get((sampler, bundle))
        if filled is not None:
            filled.wanted = True
            claim: Claim | None = filled.cache.claim(conditions, whole=whole)
        else:
            reads = self._reads.get((sampler, bundle))
            claim = None if reads is None else reads.claim(conditions, whole=whole)
        return claim if claim is not None and claim.served.any() else None

    def reads(self, sampler: str, bundle: Bundle) -> CachedReads | None:
        """The cached reads of a QPU, by its name, and a model; None if there is no cache for them."""
        return self._reads.get((sampler, bundle))

    def status(self) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
        """Sampler, model and status of each cache."""
        for (sampler, bundle), filled in self._filled.items():
            yield sampler, bundle.name, {**filled.status(), "last_error": self._filling.task.status()["last_error"]}
        for (sampler, bundle), reads in self._reads.items():
            yield sampler, bundle.name, {**reads.status(), "unused_reads": self.queue.status() if self.queue else {}}

    def start(self) -> None:
        """Fill the caches from now on."""
        self._filling.task.start()
        if self.queue is not None:
            self.queue.task.start()

    def stop(self) -> None:
        """Begin no more draws; waits for the one in hand."""
        self._filling.task.close()

    def close(self) -> None:
        """Stop, and end all threads. Idempotent."""
        self.stop()
        if self.queue is not None:
            self.queue.close()


@runtime_checkable
class _Finite(Protocol):
    """An energy code that can name all its conditions."""

    def alphabet(self) -> NDArray[np.int8]:
        """All of them (conditions, width)."""


def _conditions(bundle: Bundle) -> NDArray[np.int8] | None:
    """All conditions (conditions, width) of a bundle, None if there is one for nearly every energy."""
    code = bundle.energy_code
    return np.unique(code.alphabet(), axis=0) if code.level_count is not None and isinstance(code, _Finite) else None
