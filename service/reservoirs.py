"""Latents kept ready while nobody asks, for requests that name neither a seed nor options."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import structlog

from model.energy_code import ThermometerCode
from sampler.registry import SamplerRegistry
from sampler.request import SamplerOptions
from sampler.reservoir import Reservoir
from sampler.stock import BOOKKEEPING_BYTES
from service.catalogue import Catalogue

if TYPE_CHECKING:
    from model.bundle import Bundle

STOCKED_SAMPLER = "gibbs"
LEVEL_BYTES = 2048
"""What a level takes beside its states, at most."""
ROWS_PER_REFILL = 64
"""Few, so that a request that comes in the midst of a refill waits for little."""

_log = structlog.get_logger("qshower.service")


class Reservoirs:
    """One reservoir for each bundle whose energies have a finite number of conditions.

    Every latent in it is a fresh Gibbs draw of as many sweeps as a request without options gets, and is served once.

    Args:
        catalogue: the bundles.
        registry: has the sampler; without it there are no reservoirs.
        idle: whether to refill now.
        max_bytes: bound on the memory of all reservoirs; 0 for none.
        per_level: most latents of each condition.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        registry: SamplerRegistry,
        idle: Callable[[], bool],
        *,
        max_bytes: int,
        per_level: int,
    ) -> None:
        self._reservoirs: dict[str, Reservoir] = {}
        if max_bytes == 0 or STOCKED_SAMPLER not in registry.names():
            return
        sampler = registry.get(STOCKED_SAMPLER)
        stocked = [
            (bundle, bundle.energy_code.alphabet())
            for bundle in catalogue.bundles()
            if isinstance(bundle.energy_code, ThermometerCode)
        ]
        for bundle, levels in stocked:
            count, state_bytes = _per_level(bundle, len(levels), max_bytes // len(stocked), per_level)
            if count < 1:
                _log.warning("no reservoir", model=bundle.name, reason="QSHOWER_RESERVOIR_BYTES is too small")
                continue
            self._reservoirs[bundle.name] = Reservoir(
                sampler,
                bundle.machine,
                levels,
                per_level=count,
                max_bytes=len(levels) * count * state_bytes,
                options=SamplerOptions(sweeps=bundle.default_sweeps),
                rows_per_refill=ROWS_PER_REFILL,
                idle=idle,
            )

    def get(self, sampler: str, bundle: str) -> Reservoir | None:
        """The reservoir of a sampler and a bundle by their names, None if there is none."""
        return self._reservoirs.get(bundle) if sampler == STOCKED_SAMPLER else None

    def status(self) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
        """Sampler, bundle and ``Reservoir.status`` of each."""
        for name, reservoir in self._reservoirs.items():
            yield STOCKED_SAMPLER, name, reservoir.status()

    def start(self) -> None:
        """Refill in the background from now on."""
        for reservoir in self._reservoirs.values():
            reservoir.start()

    def close(self) -> None:
        """End the background threads. Idempotent; waits for the refills in hand."""
        for reservoir in self._reservoirs.values():
            reservoir.close()


def _per_level(bundle: Bundle, levels: int, bytes_bound: int, wanted: int) -> tuple[int, int]:
    """How many states of each level fit, at most ``wanted``, and the bytes of each."""
    state_bytes = -(-bundle.machine.node_count // 8) + BOOKKEEPING_BYTES
    return min(wanted, (bytes_bound // levels - LEVEL_BYTES) // state_bytes), state_bytes
