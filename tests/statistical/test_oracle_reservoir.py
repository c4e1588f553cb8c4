"""What a reservoir serves, time after time, follows the exact law: fresh states, and chains advanced in between."""

from __future__ import annotations

import numpy as np
import pytest

from qshower.sampler.annealing import AnnealingSampler
from qshower.sampler.diagnostics import chain_autocorrelation_times
from qshower.sampler.gibbs.gibbs_sampler import GibbsSampler, refine
from qshower.sampler.request import SamplerOptions
from qshower.sampler.reservoir import Reservoir, WarmChains

PER_LEVEL, SERVINGS = 250, 16


@pytest.mark.parametrize("kind", ["warm gibbs", "fresh annealing"])
def test_served_states_follow_the_exact_law(kind, rng, judge, checks, random_machine, random_spins, enumerate_law):
    machine = random_machine(rng, free=10, condition=4, coupling=0.4)
    levels = rng.permutation(np.unique(random_spins(rng, (32, 4)), axis=0))[:3]
    warm = None
    if kind == "warm gibbs":
        with GibbsSampler() as source:
            times = chain_autocorrelation_times(machine, levels, source.sample, refine, sweeps=64)
            tau = max(time.steps for time in times.values())
        warm = WarmChains(refine, sweeps=int(np.ceil(10 * tau)), tau_sweeps=tau, renew_after=6)
    served = []
    with AnnealingSampler() if kind == "fresh annealing" else GibbsSampler() as sampler:
        reservoir = Reservoir(
            sampler,
            machine,
            levels,
            per_level=PER_LEVEL,
            max_bytes=10**6,
            options=SamplerOptions(sweeps=64),
            warm=warm,
            rows_per_refill=1000,
        )
        for _ in range(SERVINGS):
            while reservoir.refill():
                pass
            taken = reservoir.take(rng.permutation(np.repeat(levels, PER_LEVEL, axis=0)))
            assert taken.served.all()
            served.append(taken.spins)
    spins = np.concatenate(served)
    laws = {level.tobytes(): enumerate_law(machine, level) for level in levels}
    judge(checks.exact(laws, spins, spins[:, machine.condition_nodes]))
