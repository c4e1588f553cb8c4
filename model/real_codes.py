"""Latents of real showers: their fixed code on its nodes, everything else drawn from the machine given that.

These are the best latents that a decoder can be given: how far the machine's own draws fall short of them is the
machine's part in what is wrong with a model's showers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qshower.model.open_spins import Graph
from qshower.sampler.machine import BoltzmannMachine

FILL_SWEEPS = 64

Spins = NDArray[np.int8]


def latents_of_codes(
    machine: BoltzmannMachine,
    nodes: NDArray[np.int64],
    bits: Spins,
    conditions: Spins,
    streams: NDArray[np.uint64],
) -> Spins:
    """States (rows, nodes) of codes ``bits`` (rows, bits) of -1, +1 or 0 (missing) on ``nodes`` (bits,).

    Hidden spins and missing bits are drawn by Gibbs sweeps at beta 1, the given bits and the conditions (rows,
    condition nodes) held. ``streams`` (rows, 2) seed the call as a whole.
    """
    rng = np.random.default_rng(streams.reshape(-1))
    spins = np.where(rng.random((len(bits), machine.node_count)) < 0.5, -1, 1).astype(np.int8)
    spins[:, machine.condition_nodes] = conditions
    spins[:, nodes] = np.where(bits != 0, bits, spins[:, nodes])
    held = np.zeros(spins.shape, dtype=np.bool_)
    held[:, machine.condition_nodes] = True
    held[:, nodes] = bits != 0
    return Graph.of(machine).sweep((machine.h, machine.j), spins, held, FILL_SWEEPS, rng)
