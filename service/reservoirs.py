"""Latents kept ready, for requests that name neither a seed nor options: drawn while idle, or left over by a QPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import structlog
from numpy.typing import NDArray

from model.energy_code import ThermometerCode
from sampler.registry import SamplerRegistry
from sampler.request import LatentRequest, Provenance, SamplerOptions
from sampler.reservoir import Reservoir
from sampler.stock import LEVEL_BYTES, LEVELS_SOURCES_BYTES, state_bytes
from service.availability import qpu_of
from service.catalogue import Catalogue
from service.kept import KeptReads

if TYPE_CHECKING:
    import numpy as np

    from model.bundle import Bundle

STOCKED_SAMPLER = "gibbs"
ROWS_PER_REFILL = 64
"""Few, so that a request that comes in the midst of a refill waits for little."""

_log = structlog.get_logger("qshower.service")


class Reservoirs:
    """What is kept for each bundle: Gibbs latents if its energies have a finite number of conditions, and QPU reads.

    Every latent of the former is a fresh Gibbs draw of as many sweeps as a request without options gets. All are
    served once.

    Args:
        catalogue: the bundles.
        registry: has the samplers; without ``gibbs`` or ``qpu`` there are no reservoirs of it.
        idle: whether to refill now.
        max_bytes: bound on the memory of all Gibbs reservoirs; 0 for none.
        per_level: most latents of each condition.
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
        kept_bytes: int = 0,
        kept_max_age_s: float = 0.0,
    ) -> None:
        self._reservoirs: dict[str, Reservoir] = {}
        self._kept: dict[str, KeptReads] = {}
        self._bundles = catalogue.bundles()
        if max_bytes and STOCKED_SAMPLER in registry.names():
            self._stock_gibbs(registry, idle, max_bytes, per_level)
        if kept_bytes and "qpu" in registry.names():
            qpu, each = qpu_of(registry.get("qpu")), kept_bytes // len(self._bundles)
            for bundle in self._bundles:
                self._kept[bundle.name] = KeptReads(qpu, bundle, max_bytes=each, max_age_s=kept_max_age_s)
            qpu.keep_surplus(self._keep)

    def get(self, sampler: str, bundle: str) -> Reservoir | KeptReads | None:
        """The reservoir of a sampler and a bundle by their names, None if there is none."""
        if sampler == "qpu":
            return self._kept.get(bundle)
        return self._reservoirs.get(bundle) if sampler == STOCKED_SAMPLER else None

    def kept(self, bundle: str) -> KeptReads | None:
        """The QPU reads of a bundle by its name, None if none are kept."""
        return self._kept.get(bundle)

    def status(self) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
        """Sampler, bundle and status of each reservoir."""
        for name, reservoir in self._reservoirs.items():
            yield STOCKED_SAMPLER, name, reservoir.status()
        for name, kept in self._kept.items():
            yield "qpu", name, kept.status()

    def start(self) -> None:
        """Refill in the background from now on."""
        for reservoir in self._reservoirs.values():
            reservoir.start()

    def close(self) -> None:
        """End the background threads. Idempotent; waits for the refills in hand."""
        for reservoir in self._reservoirs.values():
            reservoir.close()

    def _stock_gibbs(self, registry: SamplerRegistry, idle: Callable[[], bool], max_bytes: int, per_level: int) -> None:
        stocked = [
            (bundle, bundle.energy_code.alphabet())
            for bundle in self._bundles
            if isinstance(bundle.energy_code, ThermometerCode)
        ]
        for bundle, levels in stocked:
            count = _per_level(bundle, len(levels), max_bytes // len(stocked), per_level)
            if count < 1:
                _log.warning("no reservoir", model=bundle.name, reason="QSHOWER_RESERVOIR_BYTES is too small")
                continue
            self._reservoirs[bundle.name] = Reservoir(
                registry.get(STOCKED_SAMPLER),
                bundle.machine,
                levels,
                per_level=count,
                max_bytes=len(levels) * count * state_bytes(bundle.machine),
                options=SamplerOptions(sweeps=bundle.default_sweeps),
                rows_per_refill=ROWS_PER_REFILL,
                idle=idle,
            )

    def _keep(self, request: LatentRequest, states: NDArray[np.int8], provenance: Provenance) -> None:
        for bundle in self._bundles:
            if bundle.machine is request.machine:
                self._kept[bundle.name].keep(request, states, provenance)


def _per_level(bundle: Bundle, levels: int, bytes_bound: int, wanted: int) -> int:
    """How many states of each level fit, at most ``wanted``."""
    of_level = (bytes_bound - LEVELS_SOURCES_BYTES) // levels - LEVEL_BYTES
    return max(0, min(wanted, of_level // state_bytes(bundle.machine)))
