"""Every sampler's distribution against enumeration: small machines, random fields, several conditions at once."""

from __future__ import annotations

import os
from collections.abc import Iterator

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from qshower.sampler.annealing import AnnealingSampler
from qshower.sampler.gibbs.gibbs_sampler import GibbsSampler
from qshower.sampler.protocol import Sampler
from qshower.sampler.request import SamplerOptions
from tests.conftest import LawMaker, MachineMaker, RequestMaker, SpinMaker
from tests.judge import Judge
from tests.statistical.conftest import Checks

ROWS_PER_CONDITION = 8000

MACHINES: dict[str, dict[str, str | float]] = {
    "five spins": {"free": 5, "condition": 2, "coupling": 0.7},
    "sixteen spins": {"free": 16, "condition": 4, "coupling": 0.4},
    "nine spins, strong": {"free": 9, "condition": 3, "coupling": 0.8, "density": 0.4},
    "zephyr": {"family": "zephyr"},
    "pegasus": {"family": "pegasus"},
}


@pytest.fixture(scope="module", params=["gibbs", "annealing"])
def sampler(request: pytest.FixtureRequest) -> Iterator[Sampler]:
    with {"gibbs": GibbsSampler, "annealing": AnnealingSampler}[request.param]() as built:
        yield built


@pytest.mark.parametrize("kind", MACHINES)
def test_distribution_is_the_exact_one(
    sampler: Sampler,
    kind: str,
    rng: np.random.Generator,
    base_seed: int,
    judge: Judge,
    checks: Checks,
    random_machine: MachineMaker,
    lattice_machine: MachineMaker,
    random_spins: SpinMaker,
    latent_request: RequestMaker,
    enumerate_law: LawMaker,
) -> None:
    shape = dict(MACHINES[kind])
    if "family" in shape:
        machine = lattice_machine(rng, shape["family"], nodes_per_partition=4, coupling=0.4)
    else:
        machine = random_machine(rng, **shape)
    levels = np.unique(random_spins(rng, (32, machine.condition_nodes.shape[0])), axis=0)
    levels = rng.permutation(levels)[:3]
    # Rows of the conditions are mixed, so that a sampler that groups them has to put them back.
    conditions = rng.permutation(np.repeat(levels, ROWS_PER_CONDITION, axis=0))
    laws = {level.tobytes(): enumerate_law(machine, level) for level in levels}
    options = SamplerOptions(sweeps=checks.sweeps_for(laws.values(), ROWS_PER_CONDITION))
    batch = sampler.sample(latent_request(machine, conditions, seed=base_seed, options=options))
    assert np.array_equal(batch.spins[:, machine.condition_nodes], conditions)
    judge(checks.exact(laws, batch.spins, conditions))


@hypothesis.seed(int(os.environ.get("QSHOWER_TEST_SEED", "1")))
@hypothesis.settings(max_examples=20, deadline=None, database=None, print_blob=False)
@hypothesis.given(
    free=st.integers(1, 20),
    condition=st.integers(0, 5),
    coupling=st.floats(0.0, 1.0),
    field=st.floats(0.0, 2.0),
    density=st.floats(0.1, 1.0),
    seed=st.integers(0, 2**32 - 1),
)
def test_random_fields_and_conditions(
    free: int,
    condition: int,
    coupling: float,
    field: float,
    density: float,
    seed: int,
    judge: Judge,
    checks: Checks,
    random_machine: MachineMaker,
    random_spins: SpinMaker,
    latent_request: RequestMaker,
    enumerate_law: LawMaker,
) -> None:
    rng = np.random.default_rng(seed)
    # The width of the field on a spin grows with its neighbours; this keeps the machines within reach of 256 sweeps.
    coupling /= max(1.0, np.sqrt((free + condition) * density / 4))
    machine = random_machine(rng, free=free, condition=condition, coupling=coupling, field=field, density=density)
    level = random_spins(rng, (1, condition))
    law = enumerate_law(machine, level[0])
    assert np.allclose(machine.energies(law.spins[:4096]), law.energies[:4096], rtol=1e-6, atol=1e-5)
    fields = machine.folded_fields(level)[0]
    flipped = law.energies[np.int64(1) << np.arange(free)] - law.energies[0]
    coupled = np.zeros(free)
    for (one, other), weight in zip(machine.edges, machine.j, strict=True):
        if machine.partitions[one] and machine.partitions[other]:
            coupled[np.searchsorted(law.free, [one, other])] += weight
    assert np.allclose(flipped, 2.0 * (fields - coupled), rtol=1e-5, atol=1e-4)
    conditions = np.repeat(level, 2000, axis=0)
    with GibbsSampler() as sampler:
        batch = sampler.sample(latent_request(machine, conditions, seed=seed, options=SamplerOptions(sweeps=256)))
    assert np.allclose(batch.energies, law.energies[law.index_of(batch.spins)], rtol=1e-6, atol=1e-5)
    judge(checks.exact({level[0].tobytes(): law}, batch.spins, conditions))
