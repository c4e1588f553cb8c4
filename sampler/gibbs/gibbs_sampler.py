"""The ``gibbs`` sampler: block Gibbs with the condition held, on the CPU or a CUDA device."""

from __future__ import annotations

from time import monotonic
from types import TracebackType
from typing import Self

import numpy as np

from qshower.sampler.errors import InvalidInputError, SamplerUnavailableError
from qshower.sampler.gibbs.chains import Device, available_threads, draw, refine
from qshower.sampler.gibbs.kernels.replicas import run_tempering
from qshower.sampler.gibbs.kernels.run_block import BLOCK_TYPES
from qshower.sampler.gibbs.program import program_of
from qshower.sampler.gibbs.schedule import DEFAULT_SWEEPS, checked_sweeps
from qshower.sampler.gibbs.streams import DRAW, stream_keys
from qshower.sampler.machine import PARTITION_COUNT, BoltzmannMachine
from qshower.sampler.protocol import Availability, SamplerCapabilities
from qshower.sampler.provenance import Provenance
from qshower.sampler.request import LatentBatch, LatentRequest

__all__ = ["GibbsSampler", "refine", "warm_up"]

SMALL_BATCH = 64
"""Rows up to which the CPU draws for a GPU whose spins are the CPU's: milliseconds, fewer than the way there and back.
"""


class GibbsSampler:
    """Draws from P(s_free | s_0 = c) ∝ exp(−E(s)) by block Gibbs sweeps after a ramp of beta.

    Row i of the answer is a function of its stream, its condition, the number of sweeps and the machine: the same to
    the bit alone, in any batch and on any number of threads. Safe to call from several threads.

    Args:
        device: ``"cpu"`` or ``"cuda"``; up to ``SMALL_BATCH`` rows are drawn on the CPU where spins are the same.
        threads: worker threads on the CPU, None for one on each processor.
    """

    def __init__(self, device: Device = "cpu", threads: int | None = None) -> None:
        if device not in ("cpu", "cuda"):
            raise InvalidInputError("device", device, "cpu or cuda")
        if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
            raise InvalidInputError("threads", threads, "a positive integer")
        self.device: Device = device
        self.threads = threads

    @property
    def name(self) -> str:
        """``gibbs``."""
        return "gibbs"

    @property
    def capabilities(self) -> SamplerCapabilities:
        """Reproducible; takes ``sweeps``."""
        return SamplerCapabilities(reproducible=True, options=frozenset({"sweeps"}), cacheable=True)

    def availability(self, machine: BoltzmannMachine) -> Availability:  # noqa: ARG002 - any machine will do
        """Always available on the CPU; on CUDA when torch sees a device."""
        if self.device == "cuda":
            from qshower.sampler.gibbs.kernels import cuda

            reason = cuda.missing()
            detail = {"device": "cuda"} if reason else {"device": "cuda", "kernel": cuda.best_kernel()}
            return Availability(available=reason is None, reason=reason, detail=detail)
        return Availability(available=True, detail={"device": "cpu", "threads": self.threads or available_threads()})

    def sample(self, request: LatentRequest) -> LatentBatch:
        """One latent per row; InvalidInputError for an option other than ``sweeps``, SamplerTimeoutError if late."""
        began = monotonic()
        refused = sorted(set(request.options.given()) - self.capabilities.options)
        if refused:
            raise InvalidInputError(f"options.{refused[0]}", getattr(request.options, refused[0]), "options.sweeps")
        state = self.availability(request.machine)
        if not state.available:
            raise SamplerUnavailableError(f"gibbs: {state.reason}")
        asked = request.options.sweeps
        sweeps = DEFAULT_SWEEPS if asked is None else checked_sweeps(asked, least=1, field="options.sweeps")
        deadline = None if request.deadline_s is None else began + request.deadline_s
        small = request.rows <= SMALL_BATCH and state.detail.get("kernel") == "fused"
        spins = draw(
            request.machine,
            request.conditions,
            request.streams,
            sweeps,
            threads=self.threads,
            deadline=deadline,
            device="cpu" if small else self.device,
        )
        energies = request.machine.energies(spins)
        notes = ("gibbs: dense kernel, whose spins differ from those of the others",) * (
            state.detail.get("kernel") == "dense"
        )
        elapsed_s = {"sample": monotonic() - began}
        provenance = Provenance(sampler=self.name, sweeps=sweeps, beta=1.0, elapsed_s=elapsed_s, notes=notes)
        return LatentBatch(spins=spins, energies=energies, provenance=provenance).checked(request)

    def close(self) -> None:
        """Nothing to let go of: the thread pool is the process's."""

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()


def warm_up() -> None:
    """Compile every kernel, or load them from the cache on disk: call once at start-up, before the first request."""
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
