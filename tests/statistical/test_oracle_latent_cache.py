"""What a latent cache gives out, time after time, follows the exact law."""

from __future__ import annotations

import numpy as np
import pytest

from qshower.sampler.annealing import AnnealingSampler
from qshower.sampler.gibbs.gibbs_sampler import GibbsSampler
from qshower.sampler.latent_cache import LatentCache
from qshower.sampler.request import SamplerOptions
from qshower.service.latent_cache.idle_filling import FilledCache
from tests.conftest import LawMaker, MachineMaker, SpinMaker
from tests.judge import Judge
from tests.statistical.conftest import Checks

PER_CONDITION, SERVINGS = 250, 16


@pytest.mark.parametrize("kind", [GibbsSampler, AnnealingSampler])
def test_cached_states_follow_the_exact_law(
    kind: type[GibbsSampler] | type[AnnealingSampler],
    rng: np.random.Generator,
    judge: Judge,
    checks: Checks,
    random_machine: MachineMaker,
    random_spins: SpinMaker,
    enumerate_law: LawMaker,
) -> None:
    machine = random_machine(rng, free=10, condition=4, coupling=0.4)
    conditions = rng.permutation(np.unique(random_spins(rng, (32, 4)), axis=0))[:3]
    served = []
    with kind() as sampler:
        cache = LatentCache(machine, 10**6)
        options = SamplerOptions(sweeps=64)
        filled = FilledCache("machine", sampler, machine, conditions, PER_CONDITION, cache, options)
        for _ in range(SERVINGS):
            while filled.lacks:
                filled.fill()
            claim = cache.claim(rng.permutation(np.repeat(conditions, PER_CONDITION, axis=0)))
            assert claim.complete
            served.append(claim.spins())
    spins = np.concatenate(served)
    laws = {condition.tobytes(): enumerate_law(machine, condition) for condition in conditions}
    judge(checks.exact(laws, spins, spins[:, machine.condition_nodes]))
