"""Maximum likelihood of a Boltzmann machine whose spins are partly seen: code bits on some, all others hidden.

Law of ``sampler.machine``; with v the bits that a shower has and u the spins that it leaves open (hidden ones, and bits
that are missing), the gradient of -ln P(v | c) is

    d/dJ_ij = <s_i s_j>_data - <s_i s_j>_machine,      d/dh_i = <s_i>_data - <s_i>_machine

with u drawn from P(u | v, c) in the first mean and everything free from P(. | c) in the second. Both come from chains
that are kept: one for each shower (its open spins), and ``chains`` free ones whose conditions follow the showers'
energies. |J| and |h| are bounded to what a chip can hold at its temperature. The machine is the mean over the last
fifth of the steps.

Every step draws its random numbers from (seed, step); a state holds everything else, so that a fit that is stopped and
goes on ends as one that was not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from qshower.model.open_spins import Graph, pair_means
from qshower.sampler.errors import InvalidInputError
from qshower.sampler.gibbs.chains import refine
from qshower.sampler.machine import BoltzmannMachine

AVERAGED = 0.2
MOMENTUM, SQUARE_MOMENTUM = 0.9, 0.99
LEAST_RATE = 0.01
START_COUPLING = 0.1
START_MEAN = 0.98
TRAJECTORY = 12

Spins = NDArray[np.int8]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


class Advance(Protocol):
    """Where the negative phase comes from: free chains moved on by some sampler that keeps their law."""

    def __call__(self, machine: BoltzmannMachine, spins: Spins, sweeps: int, streams: NDArray[np.uint64]) -> Spins:
        """States (rows, nodes) after ``sweeps`` sweeps, conditions held; streams (rows, 2)."""


@dataclass(frozen=True, slots=True)
class FitSchedule:
    """How the machine is fitted: ``steps`` of Adam whose rate falls from ``rate`` along a cosine.

    ``chains`` free chains move ``sweeps`` sweeps a step, the open spins of as many showers ``open_sweeps``. ``bound``
    is the largest |J| in kT, twice that the largest |h|.
    """

    steps: int
    rate: float = 0.006
    chains: int = 1024
    sweeps: int = 6
    open_sweeps: int = 3
    bound: float = 2.0
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Coded:
    """What is fitted to.

    ``bits`` (rows, bits) of -1, +1, 0 (missing) on ``nodes`` (bits,), ``conditions`` (rows, condition nodes), incident
    ``energies_mev`` (rows,) and the ``weights`` (rows,) with which rows are drawn.
    """

    bits: Spins
    nodes: NDArray[np.int64]
    conditions: Spins
    energies_mev: Doubles
    weights: Doubles


@dataclass(frozen=True, slots=True, eq=False)
class FitState:
    """A fit between two steps; ``slopes`` and ``squares`` are Adam's moments of (h, J), ``means`` their running sums.

    ``open`` (showers, nodes) and ``free`` (chains, nodes) are the chains; ``trajectory`` holds (h, J) at about a dozen
    steps.
    """

    step: int
    h: Floats
    j: Floats
    slopes: tuple[Doubles, Doubles]
    squares: tuple[Doubles, Doubles]
    means: tuple[Doubles, Doubles]
    averaged: int
    open: Spins
    free: Spins
    trajectory: tuple[tuple[int, Floats, Floats], ...]


class MachineFit:
    """A fit of one machine to one coded sample: ``start``, then ``advance`` until ``schedule.steps``."""

    def __init__(
        self, lattice: BoltzmannMachine, coded: Coded, schedule: FitSchedule, advance: Advance | None = None
    ) -> None:
        if len(np.unique(coded.nodes)) != coded.bits.shape[1] or (lattice.partitions[coded.nodes] == 0).any():
            raise InvalidInputError("nodes", coded.nodes.shape, "one free node for each bit")
        self.lattice, self.coded, self.schedule = lattice, coded, schedule
        self._advance: Advance = advance if advance is not None else _gibbs
        condition = lattice.partitions == 0
        self._fitted = ~(condition[lattice.edges[:, 0]] & condition[lattice.edges[:, 1]])
        order = np.argsort(coded.energies_mev, kind="stable")
        self._order, self._below = order, np.cumsum(coded.weights[order]) / coded.weights.sum()
        self._graph = Graph.of(lattice)

    @classmethod
    def kept(cls, state: FitState) -> dict[str, Any]:
        """A state as arrays, for a checkpoint."""
        return {
            "step": np.array([state.step, state.averaged]),
            "h": state.h,
            "j": state.j,
            **{
                f"{name}_{part}": getattr(state, name)[i]
                for name in ("slopes", "squares", "means")
                for i, part in enumerate("hj")
            },
            "open": state.open,
            "free": state.free,
            "trajectory_steps": np.array([step for step, _, _ in state.trajectory], dtype=np.int64),
            "trajectory_h": np.array([h for _, h, _ in state.trajectory], dtype=np.float32),
            "trajectory_j": np.array([j for _, _, j in state.trajectory], dtype=np.float32),
        }

    @classmethod
    def restored(cls, kept: dict[str, Any]) -> FitState:
        """The state that ``kept`` wrote."""
        pairs = {name: (kept[f"{name}_h"], kept[f"{name}_j"]) for name in ("slopes", "squares", "means")}
        path = zip(kept["trajectory_steps"].tolist(), kept["trajectory_h"], kept["trajectory_j"], strict=True)
        step, averaged = kept["step"].tolist()
        return FitState(
            step=step, averaged=averaged, h=kept["h"], j=kept["j"], open=kept["open"], free=kept["free"],
            slopes=pairs["slopes"], squares=pairs["squares"], means=pairs["means"], trajectory=tuple(path),
        )  # fmt: skip

    def start(self) -> FitState:
        """Biases of independent bits, small random couplings at hidden spins, random open spins."""
        lattice, coded = self.lattice, self.coded
        rng = np.random.default_rng((self.schedule.seed, 0))
        nodes, pairs = lattice.node_count, len(lattice.j)
        seen = coded.bits != 0
        mean = coded.weights @ coded.bits / np.maximum(coded.weights @ seen, 1e-12)
        h = np.zeros(nodes, dtype=np.float32)
        h[coded.nodes] = -np.arctanh(np.clip(mean, -START_MEAN, START_MEAN))
        hidden = lattice.partitions != 0
        hidden[coded.nodes] = False
        touches = hidden[lattice.edges].any(axis=1) & self._fitted
        j = np.where(touches, rng.normal(0.0, START_COUPLING, pairs), 0.0).astype(np.float32)
        opened = np.where(rng.random((len(coded.bits), nodes)) < 0.5, -1, 1).astype(np.int8)
        opened[:, lattice.condition_nodes] = coded.conditions
        opened[:, coded.nodes] = np.where(seen, coded.bits, opened[:, coded.nodes])
        free = opened[self._stratified(rng)]
        zeros = (np.zeros(nodes), np.zeros(pairs))
        return FitState(0, h, j, zeros, zeros, zeros, 0, opened, free, ())

    def step(self, state: FitState) -> tuple[FitState, dict[str, float]]:
        """The state after one more step, and its figures; ``state`` is not to be used again: its chains move on."""
        schedule, lattice, coded = self.schedule, self.lattice, self.coded
        rng = np.random.default_rng((schedule.seed, 1, state.step))
        done = state.step / schedule.steps
        rate = schedule.rate * (LEAST_RATE + (1 - LEAST_RATE) * 0.5 * (1 + np.cos(np.pi * done)))
        streams = rng.integers(0, 2**63, size=(len(state.free), 2), dtype=np.uint64)
        free = self._advance(lattice.with_parameters(state.h, state.j), state.free, schedule.sweeps, streams)
        rows = self._stratified(rng)
        data = self.fill((state.h, state.j), state.open[rows], coded.bits[rows], schedule.open_sweeps, rng)
        state.open[rows] = data
        slope_h = (data.mean(axis=0) - free.mean(axis=0)) * (lattice.partitions != 0)
        slope_j = (pair_means(data, lattice.edges) - pair_means(free, lattice.edges)) * self._fitted
        h, j = state.h.astype(np.float64), state.j.astype(np.float64)
        parameters, slopes, squares = [], [], []
        for value, slope, kept, square, bound in (
            (h, slope_h, state.slopes[0], state.squares[0], 2 * schedule.bound),
            (j, slope_j, state.slopes[1], state.squares[1], schedule.bound),
        ):
            kept = MOMENTUM * kept + (1 - MOMENTUM) * slope
            square = SQUARE_MOMENTUM * square + (1 - SQUARE_MOMENTUM) * slope**2
            unbiased = kept / (1 - MOMENTUM ** (state.step + 1))
            size = np.sqrt(square / (1 - SQUARE_MOMENTUM ** (state.step + 1))) + 1e-4
            parameters.append(np.clip(value - rate * unbiased / size, -bound, bound).astype(np.float32))
            slopes.append(kept)
            squares.append(square)
        means, averaged = state.means, state.averaged
        if state.step >= (1 - AVERAGED) * schedule.steps:
            means = (means[0] + parameters[0], means[1] + parameters[1])
            averaged += 1
        step = state.step + 1
        path = state.trajectory
        if step % max(1, schedule.steps // TRAJECTORY) == 0:
            path = (*path, (step, parameters[0], parameters[1]))
        figures = {"moment_gap": float(np.sqrt((slope_j**2).mean())), "coupling": float(np.abs(parameters[1]).mean())}
        return replace(
            state, step=step, h=parameters[0], j=parameters[1], slopes=(slopes[0], slopes[1]),
            squares=(squares[0], squares[1]), means=means, averaged=averaged, free=free, trajectory=path,
        ), figures  # fmt: skip

    def machine(self, state: FitState) -> BoltzmannMachine:
        """The averaged machine, or the latest where no step was averaged yet."""
        if not state.averaged:
            return self.lattice.with_parameters(state.h, state.j)
        h, j = (mean / state.averaged for mean in state.means)
        return self.lattice.with_parameters(h.astype(np.float32), j.astype(np.float32))

    def fill(
        self, law: tuple[Floats, Floats], spins: Spins, bits: Spins, sweeps: int, rng: np.random.Generator
    ) -> Spins:
        """``spins`` (rows, nodes), those that ``bits`` (rows, bits; 0 where missing) leave open swept by law (h, J)."""
        held = np.zeros(spins.shape, dtype=np.bool_)
        held[:, self.lattice.condition_nodes] = True
        held[:, self.coded.nodes] = bits != 0
        return self._graph.sweep(law, spins, held, sweeps, rng)

    def _stratified(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """As many rows as chains, spread evenly over the weighted energies."""
        count = self.schedule.chains
        places = np.searchsorted(self._below, (np.arange(count) + rng.random(count)) / count)
        rows: NDArray[np.int64] = self._order[np.minimum(places, len(self._order) - 1)]
        return rows


def _gibbs(machine: BoltzmannMachine, spins: Spins, sweeps: int, streams: NDArray[np.uint64]) -> Spins:
    return refine(machine, spins, sweeps, streams, threads=1)
