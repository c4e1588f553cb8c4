"""Which sampler and which model answer a request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qshower.sampler.errors import InvalidInputError, SamplerUnavailableError
from qshower.sampler.protocol import Availability, Sampler, SamplerCapabilities, StoredSampler
from qshower.sampler.registry import SamplerRegistry
from qshower.service.catalogue import FAMILIES, Catalogue
from qshower.service.generation.availability import (
    availability_of,
    first_available,
    in_waiting_thread,
    solver_availability,
)
from qshower.service.generation.shower_request import ShowerRequest
from qshower.service.sampler_table import SAMPLERS

if TYPE_CHECKING:
    from qshower.model.bundle import Bundle


class Selection:
    """Chooses among the samplers of a registry and the bundles of a catalogue."""

    def __init__(self, catalogue: Catalogue, registry: SamplerRegistry) -> None:
        self.catalogue = catalogue
        self.registry = registry

    def auto(self) -> tuple[str, ...]:
        """The samplers that ``auto`` tries, in order."""
        ranks = {sampler.name: sampler.capabilities.auto_rank for sampler in self.registry}
        return tuple(name for _, name in sorted((rank, name) for name, rank in ranks.items() if rank is not None))

    def candidates(self, sampler: str, fallback: Sequence[str]) -> tuple[str, ...]:
        """The samplers to try, in order."""
        first = self.auto() if sampler == "auto" else (sampler,)
        return tuple(dict.fromkeys([*first, *fallback]))

    def sampler(self, name: str) -> Sampler:
        """The sampler of that name; SamplerUnavailableError if it is one that is not configured here."""
        if name not in self.registry and name in SAMPLERS and (how := SAMPLERS[name].capabilities.how_to_configure):
            raise SamplerUnavailableError(how)
        return self.registry.get(name)

    def capabilities(self, name: str) -> SamplerCapabilities:
        """What a sampler can do, whether or not it is configured here."""
        return SAMPLERS[name].capabilities if name not in self.registry else self.registry.get(name).capabilities

    def default_model(self, sampler: Sampler) -> Bundle:
        """The bundle of a request that names none: the default, unless a bank was drawn from one other alone."""
        default = self.catalogue.get(None)
        if not isinstance(sampler, StoredSampler) or sampler.drawn_from(default.machine):
            return default
        fitting = [bundle for bundle in self.catalogue.bundles() if sampler.drawn_from(bundle.machine)]
        return fitting[0] if len(fitting) == 1 else default

    async def model(self, sampler: Sampler, request: ShowerRequest) -> tuple[Bundle, Availability]:
        """The bundle to use and whether the sampler can draw from it.

        By name, or the default one; for a bank the one it was drawn from, on a solver the default one for a topology
        that the solver has. InvalidInputError if the one that is named does not fit the solver.
        """
        named = None if request.model is None else self.catalogue.get(request.model)
        if "solver" not in sampler.capabilities.options:
            bundle = named or self.default_model(sampler)
            return bundle, await availability_of(sampler, bundle)
        solver = request.options.get("solver")
        defaults = self.catalogue.defaults((solver,) if solver in FAMILIES else FAMILIES)
        if not (named or defaults) or (named and solver in FAMILIES and named.machine.topology_family != solver):
            raise self._unfit(named or self.catalogue.get(None), defaults)
        chosen, state = await in_waiting_thread(first_available, sampler, [named] if named else defaults, solver)
        if named and not state.available and not request.fallback:
            for other in defaults:
                if other.machine.topology_family != named.machine.topology_family:
                    fits = await in_waiting_thread(solver_availability, sampler, other, solver)
                    if fits.available:
                        raise self._unfit(named, [other])
        return chosen, state

    def _unfit(self, bundle: Bundle, fitting: Sequence[Bundle]) -> InvalidInputError:
        families = {other.machine.topology_family for other in fitting}
        names = [other.name for family in sorted(families) for other in self.catalogue.fitting(family)]
        known = ", ".join(names) or "none of the loaded models does"
        return InvalidInputError("model", bundle.name, f"a model that fits the solver's topology: {known}")
