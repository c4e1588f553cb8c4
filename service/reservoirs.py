"""Latents kept ready, for requests that name neither a seed nor options: drawn while idle, or left over by a QPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import structlog
from numpy.typing import NDArray

from qshower.sampler.protocol import Sampler
from qshower.sampler.registry import SamplerRegistry
from qshower.sampler.reservoir import Reservoir
from qshower.sampler.stock import LEVEL_BYTES, LEVELS_SOURCES_BYTES, state_bytes
from qshower.service.catalogue import Catalogue
from qshower.service.generation.availability import qpu_of
from qshower.service.generation.request_options import default_options
from qshower.service.kept import KeptReads
from qshower.service.surplus import SurplusQueue

if TYPE_CHECKING:
    import numpy as np

    from qshower.model.bundle import Bundle

_log = structlog.get_logger("qshower.service")


class Reservoirs:
    """What is kept for each bundle: latents of classical samplers if its energy code is finite, and QPU reads.

    Every latent of the former is a fresh draw of as many sweeps as a request without options gets. All are served
    once.

    Args:
        catalogue: the bundles.
        registry: has the samplers; of one that it lacks there are no reservoirs.
        idle: whether the processor is idle, so that classical samplers may refill.
        max_bytes: bound on the memory of all classical reservoirs; 0 for none.
        per_level: most latents of each condition.
        samplers: the classical samplers whose latents are kept.
        kept_bytes: bound on the memory of all kept QPU reads; 0 for none.
        kept_max_age_s: for how long QPU reads are kept.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        registry: SamplerRegistry,
        idle: Callable[[], bool],
        *,
        max_bytes: int,
        per_level: int,
        samplers: Sequence[str] = ("gibbs",),
        kept_bytes: int = 0,
        kept_max_age_s: float = 0.0,
    ) -> None:
        self._reservoirs: dict[tuple[str, str], Reservoir] = {}
        self._kept: dict[str, KeptReads] = {}
        self._bundles = catalogue.bundles()
        self.surplus: SurplusQueue | None = None
        stocked = [registry.get(name) for name in samplers if name in registry.names()]
        if max_bytes and stocked:
            self._stock(stocked, idle, max_bytes, per_level)
        qpu = qpu_of(registry) if kept_bytes else None
        self._qpu_name = None if qpu is None else qpu.name
        if qpu is not None:
            each = kept_bytes // len(self._bundles)
            for bundle in self._bundles:
                self._kept[bundle.name] = KeptReads(
                    qpu, bundle, max_bytes=max(0, each - LEVELS_SOURCES_BYTES), max_age_s=kept_max_age_s
                )
            self.surplus = surplus = SurplusQueue([(one.machine, self._kept[one.name]) for one in self._bundles])
            qpu.hand_unused_reads_to(surplus.keep)

    def get(self, sampler: str, bundle: str) -> Reservoir | KeptReads | None:
        """The reservoir of a sampler and a bundle by their names, None if there is none."""
        if sampler == self._qpu_name:
            return self._kept.get(bundle)
        return self._reservoirs.get((sampler, bundle))

    def kept(self, bundle: str) -> KeptReads | None:
        """The QPU reads of a bundle by its name, None if none are kept."""
        return self._kept.get(bundle)

    def status(self) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
        """Sampler, bundle and status of each reservoir."""
        for (sampler, name), reservoir in self._reservoirs.items():
            yield sampler, name, reservoir.status()
        states = {} if self.surplus is None else {"surplus": self.surplus.status()}
        for name, kept in self._kept.items():
            yield str(self._qpu_name), name, {**kept.status(), **states}

    def start(self) -> None:
        """Refill in the background from now on, and keep what QPU draws leave."""
        for reservoir in self._reservoirs.values():
            reservoir.start()
        if self.surplus is not None:
            self.surplus.start()

    def stop(self) -> None:
        """Begin no more refills; waits for those in hand."""
        for reservoir in self._reservoirs.values():
            reservoir.close()

    def close(self) -> None:
        """Stop, and end the background threads. Idempotent."""
        self.stop()
        if self.surplus is not None:
            self.surplus.close()

    def _stock(self, samplers: list[Sampler], idle: Callable[[], bool], max_bytes: int, per_level: int) -> None:
        stocked = [
            (sampler, bundle, levels)
            for sampler in samplers
            for bundle in self._bundles
            if (levels := _alphabet(bundle)) is not None
        ]
        for sampler, bundle, levels in stocked:
            count = _per_level(bundle, len(levels), max_bytes // len(stocked), per_level)
            if count < 1:
                reason = "QSHOWER_RESERVOIR_BYTES is too small"
                _log.warning("no reservoir", sampler=sampler.name, model=bundle.name, reason=reason)
                continue
            self._reservoirs[sampler.name, bundle.name] = Reservoir(
                sampler,
                bundle.machine,
                levels,
                per_level=count,
                max_bytes=len(levels) * count * state_bytes(bundle.machine),
                options=default_options(sampler, bundle),
                rows_per_refill=sampler.capabilities.cache_rows,
                idle=idle,
            )


@runtime_checkable
class _Finite(Protocol):
    """An energy code that can name all its conditions."""

    def alphabet(self) -> NDArray[np.int8]:
        """All of them (levels, width)."""


def _alphabet(bundle: Bundle) -> NDArray[np.int8] | None:
    """All conditions (levels, width) of a bundle, None if there is one for nearly every energy."""
    code = bundle.energy_code
    return code.alphabet() if code.level_count is not None and isinstance(code, _Finite) else None


def _per_level(bundle: Bundle, levels: int, bytes_bound: int, wanted: int) -> int:
    """How many states of each level fit, at most ``wanted``."""
    of_level = (bytes_bound - LEVELS_SOURCES_BYTES) // levels - LEVEL_BYTES
    return max(0, min(wanted, of_level // state_bytes(bundle.machine)))
