"""How much of a machine's law lies in its couplings between free spins, in nats.

At a condition c the machine's law P is compared with Q, independent bits of the same frequencies::

    nats(c) = KL(P ‖ Q) = Σ_i H(s_i) − H(s) = ⟨−E(s) − ln Q(s)⟩_P − ln Z(c)

the total correlation of the free spins: 0 for a machine whose bits are independent given the condition. ln Z is found
by annealed importance sampling (Neal, arXiv:physics/9803008). The path multiplies the couplings between free spins by
λ from 0 to 1, while a shift δ of the free spins' biases, which gives the machine's mean frequencies at λ = 0, ends::

    E_λ = E_0 + (1 − λ) δ·s + λ E_free        W = Σ_k (λ_k − λ_(k−1)) (E_free − δ·s)      Z(1)/Z(0) = ⟨exp(−W)⟩

Annealing upwards from exact draws at λ = 0 underestimates ln Z on average, annealing downwards from draws of the
machine overestimates it: the value is the mean of both. Errors are those of the chains; half the gap of the two
directions is an error that all conditions share.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qshower.evaluation.priors import between_free
from qshower.sampler.gibbs.chains import refine
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.request import streams_of

STEPS = 256
CHAINS = 32
"""At each condition and in each direction, at most."""

Array = NDArray[np.float64]
Spins = NDArray[np.int8]


@dataclass(frozen=True, slots=True, eq=False)
class CouplingNats:
    """Of each condition: nats of the couplings between free spins, and ln Z, with their standard errors.

    Attributes:
        nats, nats_error: (levels,).
        log_z, log_z_error: (levels,).
        gap: mean difference of ln Z annealed downwards and upwards; small if the path was slow enough.
    """

    nats: Array
    nats_error: Array
    log_z: Array
    log_z_error: Array
    gap: float


def coupling_nats(
    machine: BoltzmannMachine, draws: Spins, *, steps: int = STEPS, chains: int = CHAINS, seed: int = 0
) -> CouplingNats:
    """Nats of the couplings between free spins at each condition (module's law).

    Args:
        machine: the law.
        draws: (levels, draws, nodes) independent draws of it, those of a level with one condition.
        steps: of the path from λ = 0 to 1.
        chains: at each condition and in each direction, at most as many as there are draws.
        seed: of everything.

    Returns:
        The nats of each condition and its ln Z, with errors, and the gap between the two directions of the path.
    """
    levels, count, nodes = draws.shape
    free = machine.free_nodes
    up = np.stack([(of_level[:, free] > 0).mean(axis=0) for of_level in draws])
    path = _Path.of(machine, draws[:, 0, machine.condition_nodes], np.clip(up, 1 / count, 1 - 1 / count))
    size = min(chains, count)
    rng = np.random.default_rng((seed, 1))
    cold = np.repeat(draws[:, :1], size, axis=1)
    cold[:, :, free] = np.where(rng.random((levels, size, free.size)) < path.start_up[:, None, :], 1, -1)
    works = []
    for number, (start, lambdas) in enumerate(
        ((cold, np.linspace(0, 1, steps + 1)), (draws[:, :size], np.linspace(1, 0, steps + 1)))
    ):
        spins, work = start.reshape(-1, nodes), np.zeros(levels * size)
        for step in range(steps):
            work += (lambdas[step + 1] - lambdas[step]) * path.slope.energies(spins)
            if step + 1 < steps:
                streams = streams_of(seed, len(spins), (number * steps + step) * len(spins))
                spins = refine(path.machine(float(lambdas[step + 1])), spins, 1, streams)
        works.append(_log_mean(-work.reshape(levels, size)))
    (upwards, up_error), (downwards, down_error) = works
    gap = -downwards - upwards
    log_z = path.start_log_z + upwards + gap / 2
    log_z_error = np.sqrt(up_error**2 + down_error**2) / 2
    with np.errstate(divide="ignore"):
        log_up, log_down = np.log(up), np.log1p(-up)
    # One level after another: the states of all of them in double precision would fill the memory.
    excess = np.empty((levels, count))
    for level, of_level in enumerate(draws):
        log_q = np.where(of_level[:, free] > 0, log_up[level], log_down[level]).sum(axis=1)
        excess[level] = -machine.energies(of_level) - log_q
    # Frequencies from the draws themselves make their entropy too small (Miller and Madow, 1955).
    missing = ((up > 0) & (up < 1)).sum(axis=1) / (2 * count)
    nats = excess.mean(axis=1) + missing - log_z
    error = np.sqrt(excess.var(axis=1, ddof=1) / count + log_z_error**2)
    return CouplingNats(nats, error, log_z, log_z_error, float(gap.mean()))


@dataclass(frozen=True, slots=True, eq=False)
class _Path:
    """``slope``: the machine whose energy is dE/dλ. ``start_up``, ``start_log_z``: frequencies and ln Z at λ = 0."""

    full: BoltzmannMachine
    shift: NDArray[np.float64]
    joined: NDArray[np.bool_]
    slope: BoltzmannMachine
    start_up: Array
    start_log_z: Array

    @classmethod
    def of(cls, machine: BoltzmannMachine, conditions: Spins, up: Array) -> _Path:
        free, clamped, joined = machine.free_nodes, machine.condition_nodes, between_free(machine)
        fields = machine.folded_fields(conditions)
        shift = np.zeros(machine.node_count)
        # P(s) ∝ exp(−f s) has frequency p at f = ½ ln((1 − p)/p).
        shift[free] = (0.5 * np.log((1 - up) / up) - fields).mean(axis=0)
        shift = shift.astype(np.float32).astype(np.float64)
        slope = machine.with_parameters(-shift.astype(np.float32), np.where(joined, machine.j, np.float32(0)))
        start = fields + shift[free]
        log_z = np.logaddexp(start, -start).sum(axis=1) - conditions @ machine.h[clamped].astype(np.float64)
        return cls(machine, shift, joined, slope, 1 / (1 + np.exp(2 * start)), log_z)

    def machine(self, share: float) -> BoltzmannMachine:
        """The machine at λ = ``share``."""
        h = self.full.h + (np.float32(1 - share) * self.shift).astype(np.float32)
        return self.full.with_parameters(h, np.where(self.joined, np.float32(share) * self.full.j, self.full.j))


def _log_mean(values: Array) -> tuple[Array, Array]:
    """ln of the mean of exp(values) over the last axis, and its standard error."""
    top = values.max(axis=-1, keepdims=True)
    weights = np.exp(values - top)
    mean = weights.mean(axis=-1)
    error = weights.std(axis=-1, ddof=1) / np.sqrt(values.shape[-1]) / mean
    return top[..., 0] + np.log(mean), error
