"""Where latents may come from, so that what the machine contributes can be seen in the showers.

The same decoder draws showers from

======================  ==============================================================================================
``codes``               codes of real showers, missing bits drawn from the machine given the others: the decoder's limit
``machine``             the machine
``no_free_couplings``   the machine with J = 0 between free spins: what condition and biases do by themselves
``independent``         every bit by itself, +1 as often as in the machine's draws at the same level of energy
``another_energy``      the machine's draws for other energies: those of the sample, in another order
======================  ==============================================================================================

If ``independent`` or ``another_energy`` gave showers as good as ``machine``, the machine would do nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from qshower.model.bundle import Bundle, load_shower_code
from qshower.model.energy_code import ThermometerCode
from qshower.model.grid import Grid
from qshower.model.open_spins import Graph, sweep_open
from qshower.model.symmetry import canonical_elements, turn
from qshower.sampler.errors import InvalidInputError
from qshower.sampler.machine import BoltzmannMachine

Prior = Literal["codes", "machine", "no_free_couplings", "independent", "another_energy"]
PRIORS: tuple[Prior, ...] = get_args(Prior)
FILL_SWEEPS = 60
INDEPENDENT_DRAWS = 256
"""Draws of the machine at each level of energy, from which frequencies are counted."""

Spins = NDArray[np.int8]
Draw = Callable[[BoltzmannMachine, Spins, NDArray[np.uint64]], Spins]
"""Machine, conditions (rows, ...) and streams (rows, 2) -> states (rows, nodes)."""


def prior_spins(
    prior: Prior,
    bundle: Bundle,
    incident_energies_mev: NDArray[np.float64],
    draw: Draw,
    *,
    seed: int,
    showers_mev: NDArray[np.float32] | None = None,
) -> Spins:
    """States (rows, nodes) of one prior for energies (rows,), ready for ``Bundle.decode``.

    ``showers_mev`` (rows, voxels) are the real showers at these energies, needed for ``codes``. Every random number
    comes from ``seed``. Errors: InvalidInputError where a prior needs what is missing.
    """
    energies = np.asarray(incident_energies_mev, dtype=np.float64)
    rng = np.random.default_rng((seed, PRIORS.index(prior)))
    conditions = bundle.conditions(energies)
    if prior == "codes":
        if showers_mev is None:
            raise InvalidInputError("showers_mev", None, "the showers whose codes are wanted")
        return _codes(bundle, conditions, showers_mev, rng)
    streams = rng.integers(0, 2**63, size=(len(energies), 2), dtype=np.uint64)
    if prior == "machine":
        return draw(bundle.machine, conditions, streams)
    if prior == "another_energy":
        return draw(bundle.machine, conditions[rng.permutation(len(conditions))], streams)
    if prior == "no_free_couplings":
        return draw(without_free_couplings(bundle.machine), conditions, streams)
    return _independent(bundle, energies, conditions, draw, rng)


def without_free_couplings(machine: BoltzmannMachine) -> BoltzmannMachine:
    """The machine with J = 0 wherever both spins are free."""
    free = (machine.partitions[machine.edges] != 0).all(axis=1)
    return machine.with_parameters(machine.h, np.where(free, np.float32(0), machine.j))


def free_coupling_rms(machine: BoltzmannMachine) -> float:
    """Root mean square, in kT, of the couplings between free spins."""
    free = (machine.partitions[machine.edges] != 0).all(axis=1)
    return float(np.sqrt(np.mean(np.square(machine.j[free], dtype=np.float64)))) if free.any() else 0.0


def _codes(bundle: Bundle, conditions: Spins, showers_mev: NDArray[np.float32], rng: np.random.Generator) -> Spins:
    if not bundle.manifest.code:
        raise InvalidInputError("prior", "codes", f"a bundle with a fixed code of showers; {bundle.name} has none")
    code = load_shower_code(bundle.path)
    machine, grid = bundle.machine, Grid.of(bundle.geometry)
    showers = grid.from_voxels(np.ascontiguousarray(showers_mev, dtype=np.float32))
    if bundle.manifest.symmetry == "dihedral":
        showers = turn(showers, canonical_elements(showers, grid), grid)
    bits = code.bits(grid, showers).reshape(len(showers), -1)
    nodes = code_nodes(bundle)
    spins = np.where(rng.random((len(bits), machine.node_count)) < 0.5, -1, 1).astype(np.int8)
    spins[:, machine.condition_nodes] = conditions
    spins[:, nodes] = np.where(bits != 0, bits, spins[:, nodes])
    held = np.zeros(spins.shape, dtype=np.bool_)
    held[:, machine.condition_nodes] = True
    held[:, nodes] = bits != 0
    return sweep_open(Graph.of(machine), np.array(machine.h), np.array(machine.j), spins, held, FILL_SWEEPS, rng)


def code_nodes(bundle: Bundle) -> NDArray[np.int64]:
    """Node of each bit of the bundle's code, (bits,), layer by layer; InvalidInputError where it has none."""
    visible = getattr(bundle.decoder, "visible", None)
    if visible is None:
        raise InvalidInputError("bundle", bundle.name, "a bundle with a fixed code of showers")
    nodes: NDArray[np.int64] = bundle.machine.free_nodes[visible.numpy().astype(np.int64).reshape(-1)]
    return nodes


def _independent(
    bundle: Bundle,
    energies: NDArray[np.float64],
    conditions: Spins,
    draw: Draw,
    rng: np.random.Generator,
) -> Spins:
    if not isinstance(bundle.energy_code, ThermometerCode):
        raise InvalidInputError("prior", "independent", "a bundle whose energy code has levels")
    levels = bundle.energy_code.levels(energies)
    alphabet, free = bundle.energy_code.alphabet(), bundle.machine.free_nodes
    spins = np.empty((len(energies), bundle.machine.node_count), dtype=np.int8)
    spins[:, bundle.machine.condition_nodes] = conditions
    for level in np.unique(levels):
        streams = rng.integers(0, 2**63, size=(INDEPENDENT_DRAWS, 2), dtype=np.uint64)
        drawn = draw(bundle.machine, np.repeat(alphabet[level][None], INDEPENDENT_DRAWS, axis=0), streams)
        frequency = (drawn[:, free] > 0).mean(axis=0)
        rows = np.flatnonzero(levels == level)
        spins[np.ix_(rows, free)] = np.where(rng.random((len(rows), len(free))) < frequency, 1, -1)
    return spins
