"""Compiling and caching what the first request would otherwise wait for."""

from __future__ import annotations

import numpy as np

from sampler.gibbs.sampler import warm_up as compile_gibbs
from sampler.request import LatentRequest, SamplerOptions
from service.generation import Generator

WARM_SAMPLERS = ("gibbs", "annealing", "tempering")


def warm_up(generator: Generator) -> None:
    """Draw and decode a shower of every model with every classical sampler. Seconds; blocks."""
    compile_gibbs()
    for bundle in generator.catalogue.bundles():
        energies = np.array([np.sqrt(bundle.domain_mev[0] * bundle.domain_mev[1])])
        streams = np.zeros((1, 2), dtype=np.uint64)
        for name in WARM_SAMPLERS:
            if name in generator.registry.names():
                sampler = generator.registry.get(name)
                request = LatentRequest(bundle.machine, bundle.conditions(energies), streams, SamplerOptions(sweeps=2))
                batch = sampler.sample(request)
        bundle.decode(batch.spins, energies, streams, bundle.geometry.threshold_mev)
