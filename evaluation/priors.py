"""Five laws for the latents of one bundle: what its Boltzmann machine contributes shows in the showers of each.

At the incident energies of real showers, latents are

==================  ==============================================================================================
``codes``           of the real showers themselves: the ceiling of this decoder
``machine``         drawn from the machine, as the service does
``uncoupled``       from the machine without its couplings between free spins
``independent``     bit by bit, with the frequencies that the machine has at the shower's condition
``other_energy``    drawn from the machine for another shower's energy, half of all showers away in energy
==================  ==============================================================================================

and decoded with the same random numbers. A decoder that makes nothing of its latents gives the same showers for all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qshower.evaluation.posterior import Posterior, encode_showers
from qshower.model.bundle import Bundle
from qshower.sampler.gibbs.gibbs_sampler import GibbsSampler
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.request import LatentRequest, SamplerOptions, streams_of

PRIORS = {
    "codes": "real codes",
    "machine": "machine",
    "uncoupled": "machine without couplings between free spins",
    "independent": "independent bits",
    "other_energy": "another energy's draws",
}
"""Names for people, in the order of the report."""

SEED = 1
CONDITION_DRAWS = 32_768
LEAST_DRAWS, MOST_DRAWS = 64, 1024
CHUNK_DRAWS = 8192

Array = NDArray[np.float64]
Spins = NDArray[np.int8]


@dataclass(frozen=True, slots=True, eq=False)
class Latents:
    """Latents of all priors at the same energies.

    Attributes:
        spins: by prior, (rows, nodes) each; without ``codes`` where a bundle has neither code nor encoder.
        posterior: what ``codes`` came from.
        conditions: (levels, condition nodes) the different conditions.
        level: (rows,) which of them each row has.
        draws: (levels, draws, nodes) independent draws of the machine at each condition.
        streams: (rows, 2) to decode with.
    """

    spins: dict[str, Spins]
    posterior: Posterior | None
    conditions: Spins
    level: NDArray[np.int64]
    draws: Spins
    streams: NDArray[np.uint64]


def draw_latents(bundle: Bundle, energies_mev: Array, showers_mev: NDArray[np.float32], seed: int = 0) -> Latents:
    """Latents of each prior for real showers (rows, voxels) in MeV at energies (rows,), by block Gibbs."""
    rows = len(energies_mev)
    wanted = bundle.conditions(energies_mev)
    conditions, level = np.unique(wanted, axis=0, return_inverse=True)
    level = level.reshape(-1)
    decoding = streams_of(SEED + seed, rows)
    machine = bundle.machine
    count = int(np.clip(CONDITION_DRAWS // len(conditions), LEAST_DRAWS, MOST_DRAWS))
    rng = np.random.default_rng((seed, 0))
    order = np.argsort(energies_mev, kind="stable")
    other = np.empty(rows, dtype=np.int64)
    other[order] = np.roll(order, rows // 2)
    with GibbsSampler() as sampler:

        def draw(law: BoltzmannMachine, asked: Spins, first: int) -> Spins:
            options = SamplerOptions(sweeps=bundle.default_sweeps)
            parts = []
            for start in range(0, len(asked), CHUNK_DRAWS):
                part = asked[start : start + CHUNK_DRAWS]
                streams = streams_of(SEED + seed, len(part), first + start)
                parts.append(sampler.sample(LatentRequest(law, part, streams, options)).spins)
            return np.concatenate(parts)

        spins = {
            "machine": draw(machine, wanted, 0),
            "uncoupled": draw(uncoupled(machine), wanted, rows),
            "other_energy": draw(machine, wanted[other], 2 * rows),
        }
        spins["other_energy"][:, machine.condition_nodes] = wanted
        draws = draw(machine, np.repeat(conditions, count, axis=0), 3 * rows)
    draws = draws.reshape(len(conditions), count, -1)
    up = (draws > 0).mean(axis=1)
    spins["independent"] = np.where(rng.random(spins["machine"].shape) < up[level], 1, -1).astype(np.int8)
    posterior = encode_showers(bundle, energies_mev, showers_mev, decoding)
    if posterior is not None:
        spins["codes"] = posterior.spins
    return Latents({key: spins[key] for key in PRIORS if key in spins}, posterior, conditions, level, draws, decoding)


def between_free(machine: BoltzmannMachine) -> NDArray[np.bool_]:
    """(edges,) which couplings join two free spins."""
    joined: NDArray[np.bool_] = (machine.partitions[machine.edges] != 0).all(axis=1)
    return joined


def uncoupled(machine: BoltzmannMachine) -> BoltzmannMachine:
    """The machine without its couplings between free spins."""
    return machine.with_parameters(machine.h, np.where(between_free(machine), np.float32(0), machine.j))
