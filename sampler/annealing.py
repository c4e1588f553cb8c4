"""Simulated annealing on the CPU (dwave-samplers), run as a Boltzmann sampler.

Law: P(s_free | s_0 = c) ∝ exp(−E(s)), β = 1. The condition is folded into the biases, h_eff = h + J·c, and the free
spins are annealed by heat-bath updates along a schedule that ramps β up to 1 and then *holds* it there. The hold makes
it a draw from the law; the default schedules of dwave-samplers end colder than β = 1 and search for ground states.

dwave-samplers seeds one call, not one read, so each row is a call of its own, seeded from its stream: a row never
depends on its neighbours. The compiled function is called directly, because the class around it costs 4 ms a call (half
of a draw) and takes seeds of 31 bits, with which two rows of a large batch would share their random numbers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.closing import Closing
from qshower.sampler.cores import checked_threads, usable_cores
from qshower.sampler.errors import SamplerUnavailableError
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.protocol import Availability, SamplerCapabilities
from qshower.sampler.provenance import Provenance
from qshower.sampler.request import DEFAULT_SWEEPS, LatentBatch, LatentRequest, rows_by_condition

RAMP_START_BETA = 0.05
_SWEEPS_PER_CALL = 1024
_STREAM_DOMAIN = 0x616E6E65616C
"""Keeps the numbers drawn here apart from those another consumer draws from the same stream."""


def annealing_schedule(sweeps: int) -> NDArray[np.float64]:
    """β of each sweep, (sweeps,): a linear ramp from 0.05 over the first half, then β = 1 for the rest.

    >>> annealing_schedule(4).tolist()
    [0.05, 0.525, 1.0, 1.0]
    """
    ramp = sweeps // 2
    return np.concatenate([np.linspace(RAMP_START_BETA, 1.0, ramp, endpoint=False), np.ones(sweeps - ramp)])


@dataclass(frozen=True, slots=True, eq=False)
class _FreeProblem:
    """Couplings among the free spins, as the lists the compiled function converts fastest."""

    starts: list[int]
    ends: list[int]
    weights: list[float]

    @classmethod
    def of(cls, machine: BoltzmannMachine) -> Self:
        position = np.full(machine.node_count, -1, dtype=np.int64)
        position[machine.free_nodes] = np.arange(machine.free_nodes.shape[0])
        between_free = (machine.partitions[machine.edges] != 0).all(axis=1)
        pairs = position[machine.edges[between_free]]
        return cls(pairs[:, 0].tolist(), pairs[:, 1].tolist(), machine.j[between_free].astype(np.float64).tolist())


class AnnealingSampler(Closing):
    """Draws from P(s_free | s_0 = c) with dwave-samplers' simulated annealing; see the module for the law.

    Args:
        threads: rows annealed at once; None for one per core this process may use. Spins do not depend on it.
    """

    name = "annealing"
    capabilities = SamplerCapabilities(reproducible=True, options=frozenset({"sweeps"}), auto_rank=2, cacheable=True)

    def __init__(self, threads: int | None = None) -> None:
        self._threads = checked_threads(threads) or usable_cores()
        self._pool = ThreadPoolExecutor(2 * self._threads, thread_name_prefix="annealing")  # two calls
        self._closed = False

    def availability(self, machine: BoltzmannMachine) -> Availability:  # noqa: ARG002 - it draws from any machine
        """Available until closed."""
        if self._closed:
            return Availability(available=False, reason="the annealing sampler is closed")
        return Availability(available=True, detail={"device": "cpu", "threads": self._threads})

    def sample(self, request: LatentRequest) -> LatentBatch:
        """One latent per row.

        Raises:
            InvalidInputError: an option other than ``sweeps`` is set, or ``sweeps`` is out of range.
            SamplerTimeoutError, SamplerCancelledError: the deadline passed, or nobody waits any more; looked at
                between rows, and every 1024 sweeps within one.
            SamplerUnavailableError: the sampler is closed.
        """
        start_s, limit = time.monotonic(), request.time_limit()
        sweeps = request.options.sweeps_or(DEFAULT_SWEEPS, self.name)
        if self._closed:
            raise SamplerUnavailableError("the annealing sampler is closed")
        machine = request.machine
        spins = np.empty((request.rows, machine.node_count), dtype=np.int8)
        spins[:, machine.condition_nodes] = request.conditions
        problem, stop = _FreeProblem.of(machine), threading.Event()

        def stopped() -> bool:
            if limit.given_up() or limit.left_s <= 0:
                stop.set()
            return stop.is_set()

        distinct, rows_of = rows_by_condition(request.conditions)
        fields = machine.folded_fields(distinct)
        level_of = np.empty(request.rows, dtype=np.int64)
        for number, members in enumerate(rows_of):
            level_of[members] = number
        # Rows of one condition lie together, so that each worker converts few fields to lists.
        parts = [part for part in np.array_split(np.argsort(level_of, kind="stable"), self._threads) if part.size]
        schedule = annealing_schedule(sweeps).tolist()

        def anneal_rows(rows: NDArray[np.int64]) -> None:
            level, h = -1, []
            for row in rows:
                if level_of[row] != level:
                    level = level_of[row]
                    h = fields[level].tolist()
                state = _anneal(problem, h, schedule, request.streams[row], stopped)
                if state is None:
                    return
                spins[row, machine.free_nodes] = state

        try:
            futures = [self._pool.submit(anneal_rows, part) for part in parts]
        except RuntimeError as error:
            raise SamplerUnavailableError("the annealing sampler was closed during the call") from error
        try:
            for future in futures:
                future.result()
        finally:
            # An error, or an interrupt in this thread, must not leave workers annealing for nobody.
            stop_requested = stop.is_set()
            stop.set()
        if stop_requested:
            limit.check(f"annealing of {request.rows} latents at {sweeps} sweeps")
        provenance = Provenance(
            sampler=self.name,
            sweeps=sweeps,
            beta=1.0,
            condition_mode="fold",
            elapsed_s={"sample": time.monotonic() - start_s},
        )
        return LatentBatch(spins, machine.energies(spins), provenance).checked(request)

    def close(self) -> None:
        """Wait for running draws and end the threads."""
        self._closed = True
        self._pool.shutdown(wait=True)


def _anneal(
    problem: _FreeProblem,
    h: list[float],
    schedule: Sequence[float],
    stream: NDArray[np.uint64],
    stopped: Callable[[], bool],
) -> NDArray[np.int8] | None:
    """One annealed state of the free spins, (free nodes,) int8; None once ``stopped`` says so."""
    from dwave.samplers.sa.simulated_annealing import simulated_annealing  # loads dimod

    random = np.random.Generator(np.random.Philox(key=stream, counter=[0, 0, 0, _STREAM_DOMAIN]))
    state = random.integers(0, 2, size=(1, len(h)), dtype=np.int8) * np.int8(2) - np.int8(1)
    for start in range(0, len(schedule), _SWEEPS_PER_CALL):
        if stopped():
            return None
        betas = schedule[start : start + _SWEEPS_PER_CALL]
        seed = int(random.integers(1, 2**64, dtype=np.uint64))
        weights = problem.weights
        state, _ = simulated_annealing(
            1, h, problem.starts, problem.ends, weights, 1, betas, seed, state, proposal_acceptance_criteria="Gibbs"
        )
    flat: NDArray[np.int8] = state[0]
    return flat
