"""Whether chains forget where they started: R-hat of dispersed starts (Gelman and Rubin, 1992).

At each of a few conditions, chains start from random spins, from all spins up and from all down. After the sweeps that
a draw has, one state is recorded after every sweep. For a figure with n records of each of m chains, W the mean
variance within chains and B/n the variance of the chains' means,

    R-hat = sqrt((n - 1) / n + B / (n W))

1 where chains cannot be told apart by their starts. Autocorrelation alone is blind to modes that no chain leaves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.diagnostics import figures_of
from qshower.sampler.gibbs.chains import refine
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.request import streams_of

CONDITIONS = 8
CHAINS = 24
LEAST_RECORDS = 512
LEAST_VARIANCE = 1e-3
"""Within chains, of a spin that is not counted as frozen."""

Array = NDArray[np.float64]
Spins = NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class Mixing:
    """R-hat of dispersed starts, the largest over conditions.

    Attributes:
        conditions: how many.
        chains: at each condition.
        sweeps: before the first record.
        records: of each chain, a sweep apart.
        energy: of the machine's energy.
        magnetisation: of the mean spins of the free partitions.
        spin: of the single free spins, the largest.
        most_spins: the value that 99 % of the single free spins stay below.
        frozen: share of the spins that hardly ever turn, and so have no R-hat.
    """

    conditions: int
    chains: int
    sweeps: int
    records: int
    energy: float
    magnetisation: float
    spin: float
    most_spins: float
    frozen: float


def mixing(
    machine: BoltzmannMachine,
    conditions: Spins,
    *,
    sweeps: int,
    chains: int = CHAINS,
    records: int | None = None,
    seed: int = 0,
) -> Mixing:
    """R-hat of chains at each of ``conditions`` (rows, condition nodes) after ``sweeps`` sweeps.

    ``chains`` start at each condition, a third of them each way; ``records`` are 512 or ``sweeps`` if those are more.
    """
    count, free = len(conditions), machine.free_nodes
    steps = max(LEAST_RECORDS, sweeps) if records is None else records
    rng = np.random.default_rng((seed, 3))
    spins = np.where(rng.random((count, chains, machine.node_count)) < 0.5, -1, 1).astype(np.int8)
    spins[:, 1::3], spins[:, 2::3] = 1, -1
    spins[:, :, machine.condition_nodes] = conditions[:, None]
    flat = refine(machine, spins.reshape(count * chains, -1), sweeps, streams_of(seed, count * chains))
    sums: dict[str, Array] = {}
    squares: dict[str, Array] = {}
    for step in range(steps):
        flat = refine(machine, flat, 1, streams_of(seed, len(flat), (step + 1) * len(flat)))
        found = {name: values[:, None] for name, values in figures_of(machine, flat).items()}
        found["spin"] = flat[:, free].astype(np.float64)
        for name, values in found.items():
            if step == 0:
                sums[name], squares[name] = np.zeros(values.shape), np.zeros(values.shape)
            sums[name] += values
            squares[name] += values**2
    r_hat = {name: _r_hat(sums[name], squares[name], steps, chains) for name in sums}
    single = r_hat.pop("spin")
    moved = ~np.isnan(single)
    ranked = np.sort(single[moved])
    return Mixing(
        conditions=count,
        chains=chains,
        sweeps=sweeps,
        records=steps,
        energy=float(r_hat.pop("energy").max()),
        magnetisation=float(max(values.max() for values in r_hat.values())),
        spin=float(ranked[-1]),
        most_spins=float(ranked[int(0.99 * (len(ranked) - 1))]),
        frozen=float(1 - moved.mean()),
    )


def _r_hat(sums: Array, squares: Array, steps: int, chains: int) -> Array:
    """(conditions, figures) of sums over steps (conditions * chains, figures); nan where nothing moves."""
    means = (sums / steps).reshape(-1, chains, sums.shape[1])
    within = (squares / steps).reshape(means.shape) - means**2
    within = within.mean(axis=1) * steps / (steps - 1)
    between = means.var(axis=1, ddof=1)
    still = within < LEAST_VARIANCE
    # All chains stuck, but in different places, is the worst mixing and not a spin without one.
    stuck = still & (between > LEAST_VARIANCE)
    ratio = between / np.where(still, 1.0, within)
    found: Array = np.sqrt((steps - 1) / steps + ratio)
    return np.where(stuck, np.inf, np.where(still, np.nan, found))
