"""The ``gibbs`` sampler: block Gibbs with the condition held, on the CPU or a CUDA device."""

from __future__ import annotations

from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING

import numpy as np

from qshower.sampler.closing import Closing
from qshower.sampler.cores import checked_threads, usable_cores
from qshower.sampler.errors import InvalidInputError, SamplerUnavailableError
from qshower.sampler.gibbs.kernels import cuda_device
from qshower.sampler.gibbs.program import program_of
from qshower.sampler.machine import PARTITION_COUNT, BoltzmannMachine
from qshower.sampler.protocol import Availability, SamplerCapabilities
from qshower.sampler.provenance import Provenance
from qshower.sampler.request import DEFAULT_SWEEPS, LatentBatch, LatentRequest

if TYPE_CHECKING:
    from qshower.sampler.gibbs.chains import Device

# The kernels, and numba with them, are loaded by what draws.

SMALL_BATCH = 64
"""Rows up to which the CPU draws for a GPU, the same spins: milliseconds, fewer than the way there and back."""
GPU_BATCH_ROWS = 4096
"""A warp on each multiprocessor of a large GPU. It draws these faster than any processor decodes them, so that more
would gain nothing, and hold up for seconds whoever comes while they are decoded."""


class GibbsSampler(Closing):
    """Draws from P(s_free | s_0 = c) ∝ exp(−E(s)) by block Gibbs sweeps after a ramp of beta.

    Row i of the answer is a function of its stream, its condition, the number of sweeps and the machine: the same to
    the bit alone, in any batch and on any number of threads. Safe to call from several threads.

    Two spins, of which the second follows the first::

        >>> machine = BoltzmannMachine(
        ...     h=np.zeros(2, dtype=np.float32),
        ...     j=np.array([-20.0], dtype=np.float32),
        ...     edges=np.array([[0, 1]], dtype=np.int32),
        ...     partitions=np.array([0, 1], dtype=np.int8),
        ...     qubits=np.array([0, 1]),
        ...     topology="none",
        ... )
        >>> conditions = np.array([[1], [-1]], dtype=np.int8)
        >>> streams = np.array([[7, 0], [7, 1]], dtype=np.uint64)
        >>> with GibbsSampler() as sampler:
        ...     batch = sampler.sample(LatentRequest(machine, conditions, streams))
        >>> batch.spins.tolist(), batch.energies.tolist()
        ([[1, 1], [-1, -1]], [-20.0, -20.0])

    Args:
        device: ``"cpu"`` or ``"cuda"``; up to ``SMALL_BATCH`` rows are drawn on the CPU where spins are the same.
        threads: worker threads on the CPU, None for one on each processor.
    """

    name = "gibbs"
    capabilities = SamplerCapabilities(
        reproducible=True,
        options=frozenset({"sweeps"}),
        auto_rank=1,
        cacheable=True,
        warm_up_rows=SMALL_BATCH + 1,  # fewer are drawn on the CPU, and would leave a GPU cold
        sweeps_from_model=True,
    )

    def __init__(self, device: Device = "cpu", threads: int | None = None) -> None:
        if device not in ("cpu", "cuda"):
            raise InvalidInputError("device", device, "cpu or cuda")
        self.device: Device = device
        self.threads = checked_threads(threads)
        if device == "cuda":
            self.capabilities = replace(self.capabilities, batch_rows=GPU_BATCH_ROWS)

    def availability(self, machine: BoltzmannMachine) -> Availability:  # noqa: ARG002 - any machine will do
        """Always available on the CPU; on CUDA when torch sees a device."""
        if self.device == "cuda":
            reason = cuda_device.missing()
            return Availability(available=reason is None, reason=reason, detail={"device": "cuda"})
        return Availability(available=True, detail={"device": "cpu", "threads": self.threads or usable_cores()})

    def sample(self, request: LatentRequest) -> LatentBatch:
        """One latent per row.

        Raises:
            InvalidInputError: an option other than ``sweeps`` is set, or ``sweeps`` is out of range.
            SamplerTimeoutError, SamplerCancelledError: the deadline passed, or nobody waits any more.
            SamplerUnavailableError: the GPU cannot be used.
        """
        from qshower.sampler.gibbs.chains import draw

        began, limit = monotonic(), request.time_limit()
        sweeps = request.options.sweeps_or(DEFAULT_SWEEPS, self.name)
        state = self.availability(request.machine)
        if not state.available:
            raise SamplerUnavailableError(f"gibbs: {state.reason}")
        spins = draw(
            request.machine,
            request.conditions,
            request.streams,
            sweeps,
            threads=self.threads,
            limit=limit,
            device="cpu" if request.rows <= SMALL_BATCH else self.device,
        )
        energies = request.machine.energies(spins)
        elapsed_s = {"sample": monotonic() - began}
        provenance = Provenance(sampler=self.name, sweeps=sweeps, beta=1.0, elapsed_s=elapsed_s)
        return LatentBatch(spins=spins, energies=energies, provenance=provenance).checked(request)

    def close(self) -> None:
        """Nothing to let go of: the thread pool is the process's."""


def warm_up() -> None:
    """Compile every kernel, or load them from the cache on disk: call once at start-up, before the first request."""
    from qshower.sampler.gibbs.chains import draw
    from qshower.sampler.gibbs.kernels.replicas import run_tempering
    from qshower.sampler.gibbs.kernels.run_block import BLOCK_TYPES
    from qshower.sampler.gibbs.streams import DRAW, stream_keys

    for bias in (0.0, 1.0):
        machine = BoltzmannMachine(
            h=np.full(PARTITION_COUNT, bias, dtype=np.float32),
            j=np.full(1, 1.0 + 1e4 * bias, dtype=np.float32),
            edges=np.array([[0, 1]], dtype=np.int32),
            partitions=np.arange(PARTITION_COUNT, dtype=np.int8),
            qubits=np.arange(PARTITION_COUNT, dtype=np.int64),
            topology="none",
        )
        for rows in (1, *(8 * np.dtype(state_type).itemsize for state_type in BLOCK_TYPES)):
            conditions = np.ones((rows, 1), dtype=np.int8)
            streams = np.zeros((rows, 2), dtype=np.uint64)
            spins = draw(machine, conditions, streams, 2, threads=1)
            machine.energies(spins)
            run_tempering(program_of(machine), spins, np.ones(2), 1, stream_keys(streams, DRAW), threads=1)
