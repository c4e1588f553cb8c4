"""Energies and samples of thrml (Extropic's block Gibbs in JAX), an implementation by others, as the yardstick.

thrml's law is P(s) ∝ exp(β(Σ b_i s_i + Σ w_ij s_i s_j)): b = −h, w = −J. It runs in a process of its own, because JAX
brings threads that other tests' child processes could not live with.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray

from qshower.sampler.annealing import AnnealingSampler
from qshower.sampler.gibbs.gibbs_sampler import GibbsSampler
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.request import SamplerOptions
from qshower.sampler.tempering import TemperingSampler
from tests.conftest import MachineMaker, RequestMaker, SpinMaker
from tests.judge import Judge
from tests.statistical.conftest import Checks

Compared = tuple[BoltzmannMachine, NDArray[np.int8], NDArray[np.float64], NDArray[np.int8]]

SAMPLERS = {"gibbs": GibbsSampler, "annealing": AnnealingSampler, "tempering": TemperingSampler}
ROWS = 1024
"""So many see a machine that is 3 % off by some eleven standard errors in the mean energy."""
SWEEPS = 32
PROJECTIONS = 8

THRML = """
import sys
import jax
import jax.numpy as jnp
import numpy as np
from thrml import Block, SamplingSchedule, SpinNode, sample_states
from thrml.models import IsingEBM, IsingSamplingProgram

folder, seed, sweeps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
a = np.load(folder + "/machine.npz")
h, j, edges, partitions, spins = a["h"], a["j"], a["edges"], a["partitions"], a["spins"]
nodes = [SpinNode() for _ in h]
pairs = [(nodes[one], nodes[other]) for one, other in edges]
ebm = IsingEBM(nodes, pairs, jnp.asarray(-h), jnp.asarray(-j), jnp.asarray(1.0))
places = [np.flatnonzero(partitions == number) for number in range(4)]
blocks = [Block([nodes[place] for place in members]) for members in places]
up = spins > 0
energies = jax.vmap(lambda *state: ebm.energy(list(state), blocks))(*(jnp.asarray(up[:, p]) for p in places))
program = IsingSamplingProgram(ebm, blocks[1:], clamped_blocks=blocks[:1])
schedule = SamplingSchedule(n_warmup=sweeps, n_samples=1, steps_per_sample=1)
start = jax.random.split(jax.random.key(seed), len(spins))


def one(key, held):
    first, later = jax.random.split(key)
    fair = [jax.random.bernoulli(k, 0.5, (len(b.nodes),)) for k, b in zip(jax.random.split(first, 3), blocks[1:])]
    return [part[0] for part in sample_states(later, program, schedule, fair, [held], blocks[1:])]


drawn = jax.jit(jax.vmap(one))(start, jnp.asarray(up[:, places[0]]))
result = spins.copy()
for place, values in zip(places[1:], drawn, strict=True):
    result[:, place] = 2 * np.asarray(values).astype(np.int8) - 1
np.savez(folder + "/drawn.npz", spins=result, energies=np.asarray(energies))
"""


def by_thrml(
    machine: BoltzmannMachine, spins: NDArray[np.int8], seed: int, folder: Path
) -> tuple[NDArray[np.float64], NDArray[np.int8]]:
    """thrml's energies of ``spins`` (rows, nodes), and as many draws of its own for the conditions in them."""
    h, j, edges, partitions = machine.h, machine.j, machine.edges, machine.partitions
    np.savez(folder / "machine.npz", h=h, j=j, edges=edges, partitions=partitions, spins=spins)
    arguments = [str(folder), str(seed % 2**31), str(SWEEPS)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", THRML, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = np.load(folder / "drawn.npz")
    return found["energies"], found["spins"]


@pytest.fixture(scope="module", params=["zephyr", "pegasus"])
def compared(
    request: pytest.FixtureRequest,
    base_seed: int,
    lattice_machine: MachineMaker,
    random_spins: SpinMaker,
    tmp_path_factory: pytest.TempPathFactory,
) -> Compared:
    """A full machine, random states, and what thrml says of them and draws for their conditions."""
    rng = np.random.default_rng([base_seed, 12, len(request.param)])
    machine = lattice_machine(rng, request.param)
    spins = random_spins(rng, (ROWS, machine.node_count))
    return machine, spins, *by_thrml(machine, spins, base_seed, tmp_path_factory.mktemp("thrml"))


def test_energies_are_thrmls(compared: Compared) -> None:
    machine, spins, energies, _ = compared
    # thrml sums twelve thousand terms in float32.
    assert np.allclose(machine.energies(spins), energies, rtol=1e-5, atol=1e-2)


def figures(
    machine: BoltzmannMachine, spins: NDArray[np.int8], signs: NDArray[np.float32]
) -> dict[str, NDArray[np.floating]]:
    """(rows,) each: energy and its parts, magnetisations, and sums of two-point functions with fixed random signs."""
    biases = cast("NDArray[np.float64]", spins @ machine.h.astype(np.float64))
    energies = machine.energies(spins)
    pairs = (spins[:, machine.edges[:, 0]] * spins[:, machine.edges[:, 1]]).astype(np.float32) @ signs
    sums: dict[str, NDArray[np.floating]] = {
        f"magnetisation {p}": spins[:, machine.nodes_of(p)].mean(axis=1) for p in (1, 2, 3)
    }
    two_point: dict[str, NDArray[np.floating]] = {
        f"two-point functions {number}": column for number, column in enumerate(pairs.T)
    }
    return {"field energy": biases, "coupling energy": energies - biases, "energy": energies, **sums, **two_point}


def checks_against(
    machine: BoltzmannMachine, spins: NDArray[np.int8], theirs: NDArray[np.int8], base_seed: int, checks: Checks
) -> dict[str, float]:
    rng = np.random.default_rng([base_seed, 13])
    signs = rng.choice(np.array([-1, 1], np.float32), (machine.j.shape[0], PROJECTIONS))
    ours, others = figures(machine, spins, signs), figures(machine, theirs, signs)
    # Row by row both have one condition, so their difference has mean 0.
    return {name: checks.mean_test(ours[name] - others[name], 0.0) for name in ours}


@pytest.mark.parametrize("name", SAMPLERS)
def test_samples_agree_with_thrmls(
    name: str, compared: Compared, base_seed: int, judge: Judge, checks: Checks, latent_request: RequestMaker
) -> None:
    machine, spins, _, theirs = compared
    assert np.array_equal(theirs[:, machine.condition_nodes], spins[:, machine.condition_nodes])
    conditions = spins[:, machine.condition_nodes]
    request = latent_request(machine, conditions, seed=base_seed, options=SamplerOptions(sweeps=128))
    with SAMPLERS[name]() as sampler:
        judge(checks_against(machine, sampler.sample(request).spins, theirs, base_seed, checks))


@pytest.mark.parametrize("scale", [0.97, 1.03])
def test_thrml_tells_a_machine_three_percent_off(
    scale: float, compared: Compared, base_seed: int, judge: Judge, checks: Checks, latent_request: RequestMaker
) -> None:
    machine, spins, _, theirs = compared
    wrong = machine.with_parameters(machine.h * np.float32(scale), machine.j * np.float32(scale))
    request = latent_request(wrong, spins[:, machine.condition_nodes], seed=2, options=SamplerOptions(sweeps=128))
    with GibbsSampler() as sampler:
        assert judge.failed(checks_against(machine, sampler.sample(request).spins, theirs, base_seed, checks))
