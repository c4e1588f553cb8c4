"""Compiling and caching what the first request would otherwise wait for."""

from __future__ import annotations

import numpy as np

from qshower.sampler.gibbs.gibbs_sampler import warm_up as compile_kernels
from qshower.sampler.request import LatentRequest, SamplerOptions
from qshower.service.generation.selection import Selection


def warm_up(selection: Selection) -> None:
    """Draw and decode showers of every model with every sampler that has something to warm up. Seconds; blocks."""
    compile_kernels()
    warmed = [sampler for sampler in selection.registry if sampler.capabilities.warm_up_rows]
    for bundle in selection.catalogue.bundles():
        for sampler in warmed:
            rows = sampler.capabilities.warm_up_rows
            energies = np.full(rows, np.sqrt(bundle.domain_mev[0] * bundle.domain_mev[1]))
            streams = np.zeros((rows, 2), dtype=np.uint64)
            options = SamplerOptions(sweeps=2 if "sweeps" in sampler.capabilities.options else None)
            batch = sampler.sample(LatentRequest(bundle.machine, bundle.conditions(energies), streams, options))
            bundle.decode(batch.spins[:1], energies[:1], streams[:1], bundle.geometry.threshold_mev)
