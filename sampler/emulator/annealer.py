"""Boltzmann draws on any part of a chip's graph: annealed block Gibbs, forward from noise or back from a state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.emulator.schedules import AnnealSchedule
from qshower.sampler.gibbs.chains import refine
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.request import streams_of

RAMP_START = 0.05
RAMP_STAGES = 16
_ROWS = 2048


class StoppedError(Exception):
    """The draw was told to stop."""


def draw(
    machine: BoltzmannMachine,
    reads: int,
    sweeps: int,
    seed: int,
    stop: Callable[[], bool] = lambda: False,
) -> NDArray[np.int8]:
    """(reads, nodes) spins from P(s) ∝ exp(−E(s)), every node free, partition 0 included.

    Chains start at random. Over three quarters of the sweeps β rises in steps from 0.05 to 1; the last quarter is at
    1, so that the law is the machine's as far as a chain forgets its start in the ramp and the hold together.
    Raises StoppedError between two steps once ``stop`` says so.
    """
    ramp = max(sweeps * 3 // 4 // RAMP_STAGES, 1)
    stages = [(float(beta), ramp) for beta in np.linspace(RAMP_START, 1.0, RAMP_STAGES, endpoint=False)]
    stages.append((1.0, max(sweeps - ramp * RAMP_STAGES, 1)))
    rng = np.random.default_rng(seed)
    stage_seeds = rng.integers(2**64, size=len(stages), dtype=np.uint64)
    result = np.empty((reads, machine.node_count), dtype=np.int8)
    for start in range(0, reads, _ROWS):
        rows = min(_ROWS, reads - start)
        spins = np.where(rng.random((rows, machine.node_count), dtype=np.float32) < 0.5, -1, 1).astype(np.int8)
        for (beta, steps), stage_seed in zip(stages, stage_seeds, strict=True):
            if stop():
                raise StoppedError
            # A stream must not be used twice: each stage has a seed of its own.
            streams = streams_of(int(stage_seed), rows, start)
            spins = refine(machine, spins, steps, streams, beta=beta, free_condition=True)
        result[start : start + rows] = spins
    return result


@dataclass(frozen=True, slots=True, eq=False)
class ReverseAnneal:
    """How to anneal back from a state.

    Attributes:
        schedule: anneal fraction over time; β is proportional to it, from 0.05 of its value up.
        initial: (nodes,) int8 spins, the state that the first read starts from.
        each_time: whether every read starts from it, or from the read before.
        sweeps_per_us: Gibbs sweeps for each µs of the schedule; each of its pieces has at least one.
    """

    schedule: AnnealSchedule
    initial: NDArray[np.int8]
    each_time: bool
    sweeps_per_us: float

    def draw(
        self, machine: BoltzmannMachine, reads: int, seed: int, stop: Callable[[], bool] = lambda: False
    ) -> NDArray[np.int8]:
        """(reads, nodes) spins. Raises StoppedError between two pieces once ``stop`` says so."""
        rng = np.random.default_rng(seed)
        if self.each_time:
            return self._annealed(machine, np.tile(self.initial, (reads, 1)), rng, stop)
        result = np.empty((reads, machine.node_count), dtype=np.int8)
        state = self.initial[None]
        for read in range(reads):
            state = self._annealed(machine, state, rng, stop)
            result[read] = state[0]
        return result

    def _annealed(
        self, machine: BoltzmannMachine, spins: NDArray[np.int8], rng: np.random.Generator, stop: Callable[[], bool]
    ) -> NDArray[np.int8]:
        streams = np.empty((spins.shape[0], 2), dtype=np.uint64)
        streams[:, 1] = np.arange(spins.shape[0], dtype=np.uint64)
        for duration_us, fraction in self.schedule.pieces(RAMP_STAGES):
            if stop():
                raise StoppedError
            streams[:, 0] = rng.integers(2**64, dtype=np.uint64)
            sweeps = max(round(duration_us * self.sweeps_per_us), 1)
            spins = refine(machine, spins, sweeps, streams, beta=max(fraction, RAMP_START), free_condition=True)
        return spins
