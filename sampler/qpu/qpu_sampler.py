"""The ``qpu`` sampler: draws on a quantum annealer through Ocean, and makes of them draws from the machine's law."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import numpy as np

from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.protocol import Availability
from qshower.sampler.provenance import Provenance
from qshower.sampler.qpu.access import QpuAccess
from qshower.sampler.qpu.capabilities import CAPABILITIES
from qshower.sampler.qpu.operations import estimate
from qshower.sampler.qpu.planning.draw_options import check_options
from qshower.sampler.qpu.planning.estimate import QpuEstimate
from qshower.sampler.qpu.qpu_settings import QpuSettings
from qshower.sampler.qpu.qpu_status import QpuMonitor
from qshower.sampler.qpu.sampling import sample
from qshower.sampler.qpu.unused_reads import Receiver
from qshower.sampler.request import LatentBatch, LatentRequest


class QpuSampler:
    """Draws from P(s_free | s_0 = c) ∝ exp(−E(s)) on a QPU. Safe to call from several threads.

    The machine is placed on today's working graph, (h, J)/beta_eff is programmed with the condition folded into h,
    several conditions side by side; nodes without a qubit are drawn from their conditional; and Gibbs sweeps over the
    whole machine bring what noise and missing qubits have bent back to the law. Not reproducible: a QPU takes no seed.

    Building one opens no connection and starts no thread. Every draw is checked, paid for, and ends by its deadline.

    Attributes:
        access: the QPU, for what else can be done with it (``operations``).
        monitor: what is known of it.
    """

    name = "qpu"
    capabilities = CAPABILITIES

    def __init__(self, settings: QpuSettings | None = None, receiver: Receiver | None = None) -> None:
        """``receiver`` gets the reads beyond the rows asked for, as ``QpuAccess.receiver`` does."""
        self.access = QpuAccess(settings if settings is not None else QpuSettings(), receiver)
        self.monitor = QpuMonitor(self.access)

    def __repr__(self) -> str:
        """Without the token."""
        return f"QpuSampler({self.access.client!r})"

    def availability(self, machine: BoltzmannMachine) -> Availability:
        """Whether a solver that fits ``machine`` is online; an answer is kept for ``availability_ttl_s``.

        ``detail`` holds solver, graph_id, missing_qubits and missing_couplers of the best place, copies, calibration,
        shim, circuit, budget, and ``retry_after_s`` if it is not available.
        """
        return self.monitor.availability(machine)

    def sample(self, request: LatentRequest) -> LatentBatch:
        """One latent per row, each from a read of its own, checked.

        Raises:
            InvalidInputError: an option it lacks, or a value the solver does not take.
            SamplerUnavailableError: API, solver or placement; CircuitOpenError after too many failures in a row.
            BudgetExceededError: before anything is submitted.
            SamplerTimeoutError: no answer by the deadline; what was under way is cancelled.
            SamplerAnswerError: an answer is not a valid draw; ConditionNotHeldError if flux biases held it too badly.
            ProblemRangeError: (h, J)/beta_eff leaves the solver's ranges by more than may be rescaled.
        """
        check_options(request.options)
        terms = self.access.terms(request)
        if request.rows == 0:
            nothing = np.empty((0, request.machine.node_count), dtype=np.int8)
            return LatentBatch(nothing, np.empty(0), Provenance(sampler=self.name, num_reads=0)).checked(request)
        with self.access.guarded():
            return sample(self.access, request, terms)

    def estimate(self, request: LatentRequest) -> QpuEstimate:
        """What ``request`` would take: a dry run that submits nothing and bills nothing."""
        return estimate(self.access, request)

    def close(self) -> None:
        """Close the connection, within ``close_timeout_s``. Idempotent."""
        self.access.close()

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()
