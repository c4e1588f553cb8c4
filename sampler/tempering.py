"""Parallel tempering: the choice for machines whose valleys a ramp of β does not weigh right.

Law: P(s_free | s_0 = c) ∝ exp(−E(s)). Each row has one replica at each β of a ladder from a hot one up to 1; after each
sweep neighbours may exchange their states (``gibbs.kernels.replicas``). A row's state is its replica at β = 1.
A sweep costs that of as many chains as the ladder has steps, and half as much again for energies and exchanges.
"""

from __future__ import annotations

from time import monotonic

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.closing import Closing
from qshower.sampler.cores import checked_threads
from qshower.sampler.errors import DefectError, SamplerUnavailableError
from qshower.sampler.gibbs.program import LastUsed, program_of
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.protocol import Availability, SamplerCapabilities
from qshower.sampler.provenance import Provenance
from qshower.sampler.request import DEFAULT_SWEEPS, LatentBatch, LatentRequest
from qshower.sampler.time_limit import UNLIMITED, TimeLimit

HOTTEST_BETA = 0.1
MOST_REPLICAS = 128
_STEP = 1.2
"""β step in units of 1/σ(E): neighbours with normal energies then exchange in erfc(0.6) = 40 % of attempts."""
_PURPOSE = np.uint64(0x74656D706572)


def ladder_of(machine: BoltzmannMachine, limit: TimeLimit = UNLIMITED) -> NDArray[np.float64]:
    """β of each replica, (replicas,), ascending from ``HOTTEST_BETA`` to 1, spaced by the spread of the energy.

    The spread is measured on the machine itself, at random conditions and a fixed seed: the ladder is a function of the
    machine alone. ``limit`` says until when that may take.

    Raises:
        InvalidInputError: the machine is so cold that the ladder would have more than ``MOST_REPLICAS`` steps.
    """
    from qshower.sampler.gibbs.chains import refine  # loads numba

    rows = 128
    random = np.random.default_rng(0)
    level = random.integers(0, 2, (rows, machine.condition_nodes.shape[0]), dtype=np.int8) * np.int8(2) - np.int8(1)
    spins = random.integers(0, 2, (2 * rows, machine.node_count), dtype=np.int8) * np.int8(2) - np.int8(1)
    spins[:, machine.condition_nodes] = np.tile(level, (2, 1))
    betas = [HOTTEST_BETA]
    while betas[-1] < 1.0:
        streams = random.integers(0, 2**64, (2 * rows, 2), dtype=np.uint64)
        spins = refine(machine, spins, 32, streams, beta=betas[-1], limit=limit)
        energies = machine.energies(spins)
        variance = float(((energies[:rows] - energies[rows:]) ** 2).mean() / 2.0)
        # No step wider than the whole range: a machine without energy needs two replicas, not none.
        betas.append(betas[-1] + min(_STEP / max(np.sqrt(variance), 1e-9), 1.0))
        if len(betas) > MOST_REPLICAS:
            raise DefectError("machine", f"a ladder of over {MOST_REPLICAS} steps", "weaker couplings")
    found = np.array(betas, dtype=np.float64) - HOTTEST_BETA
    found = HOTTEST_BETA + found * ((1.0 - HOTTEST_BETA) / found[-1])
    found[-1] = 1.0
    ladder: NDArray[np.float64] = found
    return ladder


def temper(
    machine: BoltzmannMachine,
    conditions: NDArray[np.int8],
    streams: NDArray[np.uint64],
    sweeps: int,
    betas: NDArray[np.float64],
    *,
    threads: int | None = None,
    limit: TimeLimit = UNLIMITED,
) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
    """States (rows, nodes) at the last β, and the share of exchanges accepted between neighbours, (replicas − 1,).

    Args:
        machine: the law.
        conditions: (rows, condition nodes) int8, ±1.
        streams: (rows, 2) uint64; a row depends on its own stream alone.
        sweeps: of each replica, with exchanges after each.
        betas: (replicas,), ascending.
        threads: worker threads, None for one on each processor.
        limit: until when replicas may run, looked at now and then.

    Returns:
        Spins (rows, nodes) int8, and rates of exchange (replicas − 1,), from the hottest pair to the coldest.
    """
    from qshower.sampler.gibbs.kernels.replicas import run_tempering
    from qshower.sampler.gibbs.streams import stream_keys

    def on_time() -> None:
        limit.check("tempering")

    rows = conditions.shape[0]
    spins = np.empty((rows, machine.node_count), dtype=np.int8)
    spins[:, machine.condition_nodes] = conditions
    keys = stream_keys(np.array(streams), _PURPOSE)
    accepted = run_tempering(program_of(machine), spins, betas, sweeps, keys, threads=threads, on_time=on_time)
    tried = np.array([(sweeps + 1 - lower % 2) // 2 for lower in range(betas.shape[0] - 1)]) * rows
    return spins, accepted / np.maximum(tried, 1)


class TemperingSampler(Closing):
    """Draws from P(s_free | s_0 = c) by parallel tempering with Gibbs sweeps; see the module for the law.

    Args:
        threads: worker threads, None for one on each processor. Spins do not depend on it.
    """

    name = "tempering"
    capabilities = SamplerCapabilities(reproducible=True, options=frozenset({"sweeps"}), cacheable=True)

    def __init__(self, threads: int | None = None) -> None:
        self._threads = checked_threads(threads)
        self._ladders: LastUsed[NDArray[np.float64]] = LastUsed()
        self._closed = False

    def availability(self, machine: BoltzmannMachine) -> Availability:  # noqa: ARG002 - any machine will do
        """Available until closed."""
        if self._closed:
            return Availability(available=False, reason="the tempering sampler is closed")
        return Availability(available=True, detail={"device": "cpu"})

    def sample(self, request: LatentRequest) -> LatentBatch:
        """One latent per row.

        Raises:
            InvalidInputError: an option other than ``sweeps`` is set, or ``sweeps`` is out of range.
            SamplerTimeoutError, SamplerCancelledError: the deadline passed, or nobody waits any more.
            SamplerUnavailableError: the sampler is closed.
        """
        began, limit = monotonic(), request.time_limit()
        sweeps = request.options.sweeps_or(DEFAULT_SWEEPS, self.name)
        if self._closed:
            raise SamplerUnavailableError("the tempering sampler is closed")
        machine, betas = request.machine, self._ladder_of(request.machine, limit)
        spins, accepted = temper(
            machine, request.conditions, request.streams, sweeps, betas, threads=self._threads, limit=limit
        )
        ladder = f"parallel tempering over {betas.shape[0]} temperatures, least exchange {accepted.min():.0%}"
        elapsed_s = {"sample": monotonic() - began}
        provenance = Provenance(sampler=self.name, sweeps=sweeps, beta=1.0, notes=(ladder,), elapsed_s=elapsed_s)
        return LatentBatch(spins, machine.energies(spins), provenance).checked(request)

    def close(self) -> None:
        """Refuse further requests. Idempotent."""
        self._closed = True

    def _ladder_of(self, machine: BoltzmannMachine, limit: TimeLimit) -> NDArray[np.float64]:
        """The machine's ladder; those of the last machines are kept."""
        sources = (machine.h, machine.j, machine.edges, machine.partitions)
        key = tuple(map(id, sources))
        ladder = self._ladders.get(key)
        if ladder is None:
            ladder = ladder_of(machine, limit)
            self._ladders.put(key, sources, ladder)
        return ladder
