"""The Gibbs kernels on a CUDA device: the CPU's spins to the bit, and the exact law."""

from __future__ import annotations

import numpy as np
import pytest

from qshower.sampler.gibbs.chains import draw, refine
from qshower.sampler.gibbs.gibbs_sampler import GibbsSampler
from qshower.sampler.gibbs.kernels import cuda
from qshower.sampler.gibbs.program import program_of
from qshower.sampler.gibbs.schedule import ramp_and_hold
from qshower.sampler.gibbs.streams import DRAW, stream_keys
from qshower.sampler.request import SamplerOptions, streams_of
from tests.conftest import LawMaker, MachineMaker, RequestMaker, SpinMaker

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(cuda.missing() is not None, reason=str(cuda.missing())),
]


@pytest.mark.parametrize("coupling", [0.3, 2.0, 60.0])
@pytest.mark.parametrize("family", ["pegasus", "zephyr"])
def test_fused_kernel_gives_the_cpus_spins(
    rng: np.random.Generator, lattice_machine: MachineMaker, random_spins: SpinMaker, family: str, coupling: float
) -> None:
    machine = lattice_machine(rng, family, coupling=coupling)
    conditions = random_spins(rng, (1000, 302))
    streams = streams_of(6, 1000)
    on_cpu = draw(machine, conditions, streams, 40)
    assert np.array_equal(draw(machine, conditions, streams, 40, device="cuda"), on_cpu)
    again = refine(machine, on_cpu, 7, streams, free_condition=True)
    assert np.array_equal(refine(machine, on_cpu, 7, streams, free_condition=True, device="cuda"), again)


def test_law_of_small_machines(
    rng: np.random.Generator, random_machine: MachineMaker, random_spins: SpinMaker, enumerate_law: LawMaker
) -> None:
    """Mean energy and magnetisations within 6 standard errors: false alarms below 1e-7 a run."""
    machine = random_machine(rng, free=10, condition=3, coupling=0.3)
    condition, rows = random_spins(rng, (3,)), 100_000
    law = enumerate_law(machine, condition)
    spins = random_spins(rng, (rows, machine.node_count))
    spins[:, machine.condition_nodes] = condition
    keys = stream_keys(streams_of(1, rows), DRAW)
    cuda.run_on_device(program_of(machine), spins, ramp_and_hold(200), keys)
    assert (spins[:, machine.condition_nodes] == condition).all()
    for values, drawn in ((law.energies, machine.energies(spins)), (law.spins[:, law.free], spins[:, law.free])):
        mean = law.mean(values)
        deviation = np.sqrt(np.maximum(law.mean(np.square(values, dtype=np.float64)) - mean**2, 1e-3))
        assert (np.abs(drawn.mean(axis=0) - mean) < 6 * deviation / np.sqrt(rows)).all()


def test_no_number_of_sweeps_or_rows_has_a_fused_kernel_of_its_own(
    rng: np.random.Generator, random_machine: MachineMaker, random_spins: SpinMaker
) -> None:
    from qshower.sampler.gibbs.kernels.triton_sweep import sweep_kernel

    machine = random_machine(rng)
    compiled = set()
    for rows, sweeps in ((70, 2), (70, 1), (1000, 16), (96, 23), (65, 256)):
        spins, keys = random_spins(rng, (rows, machine.node_count)), stream_keys(streams_of(1, rows), DRAW)
        cuda.run_on_device(program_of(machine), spins, np.ones(sweeps), keys)
        compiled.add(sum(len(kernels[0]) for kernels in sweep_kernel.device_caches.values()))
    assert len(compiled) == 1


def test_sampler_on_cuda_answers_a_request(
    rng: np.random.Generator, lattice_machine: MachineMaker, random_spins: SpinMaker, latent_request: RequestMaker
) -> None:
    machine = lattice_machine(rng, "zephyr", nodes_per_partition=20)
    conditions = random_spins(rng, (77, 20))
    request = latent_request(machine, conditions, seed=3, options=SamplerOptions(sweeps=30))
    sampler = GibbsSampler(device="cuda")
    assert sampler.availability(machine).available
    whole = sampler.sample(request).spins
    alone = latent_request(machine, conditions[70:71], seed=3, first_index=70, options=SamplerOptions(sweeps=30))
    assert np.array_equal(sampler.sample(alone).spins[0], whole[70])
