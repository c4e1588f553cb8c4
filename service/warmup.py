"""Compiling and caching what the first request would otherwise wait for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qshower.sampler.gibbs.gibbs_sampler import warm_up as compile_kernels
from qshower.sampler.request import LatentRequest, SamplerOptions
from qshower.service.generation.selection import Selection

if TYPE_CHECKING:
    from qshower.model.bundle import Bundle


def to_warm(selection: Selection) -> tuple[Bundle, ...]:
    """One model for each kind of code that draws and decodes, the default among them."""
    kinds: dict[tuple[str, str], Bundle] = {}
    for bundle in selection.catalogue.bundles():
        kinds.setdefault((bundle.machine.topology_family, bundle.manifest.likelihood), bundle)
    return tuple(kinds.values())


def warm_up(selection: Selection, bundle: Bundle) -> None:
    """Draw and decode showers of a model with every sampler that has something to warm up. Seconds; blocks."""
    compile_kernels()
    for sampler in selection.registry:
        if not (rows := sampler.capabilities.warm_up_rows):
            continue
        energies = np.full(rows, np.sqrt(bundle.domain_mev[0] * bundle.domain_mev[1]))
        streams = np.zeros((rows, 2), dtype=np.uint64)
        options = SamplerOptions(sweeps=2 if "sweeps" in sampler.capabilities.options else None)
        batch = sampler.sample(LatentRequest(bundle.machine, bundle.conditions(energies), streams, options))
        bundle.decode(batch.spins[:1], energies[:1], streams[:1], bundle.geometry.threshold_mev)
