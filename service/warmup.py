"""Compiling and caching what the first request would otherwise wait for."""

from __future__ import annotations

import numpy as np

from qshower.sampler.gibbs.gibbs_sampler import SMALL_BATCH
from qshower.sampler.gibbs.gibbs_sampler import warm_up as compile_gibbs
from qshower.sampler.request import LatentRequest, SamplerOptions
from qshower.service.generation.generator import Generator

WARM_SAMPLERS = ("gibbs", "annealing", "tempering")


def warm_up(generator: Generator) -> None:
    """Draw and decode a shower of every model with every classical sampler. Seconds; blocks.

    ``gibbs`` draws more: a GPU is left out where there are few.
    """
    streams = np.zeros((SMALL_BATCH + 1, 2), dtype=np.uint64)
    compile_gibbs()
    for bundle in generator.catalogue.bundles():
        energies = np.full(SMALL_BATCH + 1, np.sqrt(bundle.domain_mev[0] * bundle.domain_mev[1]))
        conditions = bundle.conditions(energies)
        for name in WARM_SAMPLERS:
            if name in generator.registry.names():
                sampler = generator.registry.get(name)
                rows = SMALL_BATCH + 1 if name == "gibbs" else 1
                request = LatentRequest(bundle.machine, conditions[:rows], streams[:rows], SamplerOptions(sweeps=2))
                batch = sampler.sample(request)
        bundle.decode(batch.spins[:1], energies[:1], streams[:1], bundle.geometry.threshold_mev)
