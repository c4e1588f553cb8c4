"""What is asked of a sampler, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.errors import InvalidInputError, SamplerAnswerError
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.provenance import ConditionMode, Provenance


@dataclass(frozen=True, slots=True)
class SamplerOptions:
    """Choices of one request; None leaves a choice to the sampler. Each sampler refuses the options it does not have.

    Attributes:
        sweeps: updates of every free node before a state is returned (gibbs, annealing, tempering).
        num_reads: reads of each QPU programming, all its gauges together.
        annealing_time_us: QPU anneal time.
        gauges: number of spin-reversal gauges averaged over.
        refine_sweeps: Gibbs sweeps over the whole machine after a QPU draw.
        condition_mode: ``fold`` (exact) or ``flux_bias`` (the published way) for the clamped qubits.
        max_qpu_access_time_us: refuse before submission if the estimate is above.
        solver: a QPU solver by name, or ``pegasus`` / ``zephyr``.
    """

    sweeps: int | None = None
    num_reads: int | None = None
    annealing_time_us: float | None = None
    gauges: int | None = None
    refine_sweeps: int | None = None
    condition_mode: ConditionMode | None = None
    max_qpu_access_time_us: float | None = None
    solver: str | None = None

    def given(self) -> dict[str, Any]:
        """The options that are set."""
        return {name: getattr(self, name) for name in self.__slots__ if getattr(self, name) is not None}


@dataclass(frozen=True, slots=True, eq=False)
class LatentRequest:
    """A batch of latents to draw from P(s_free | s_0 = c), one per row.

    Attributes:
        machine: the law.
        conditions: (rows, condition nodes) int8 of −1 and +1, in the order of ``machine.condition_nodes``.
        streams: (rows, 2) uint64, the random stream (seed, index) of each row. A classical sampler's row depends on
            its own stream, condition and options alone, never on the other rows.
        options: choices of this request.
        deadline_s: seconds from the call in which the draw must end, None for no limit.
        account: who pays for QPU time; empty where nobody is told apart.
    """

    machine: BoltzmannMachine
    conditions: NDArray[np.int8]
    streams: NDArray[np.uint64]
    options: SamplerOptions = field(default_factory=SamplerOptions)
    deadline_s: float | None = None
    account: str = ""

    def __post_init__(self) -> None:
        rows = self.conditions.shape[0]
        width = self.machine.condition_nodes.shape[0]
        if self.conditions.shape != (rows, width) or self.conditions.dtype != np.int8:
            raise InvalidInputError(
                "conditions", f"{self.conditions.dtype} {self.conditions.shape}", f"int8 (rows, {width})"
            )
        if not (np.abs(self.conditions) == 1).all():
            raise InvalidInputError("conditions", "a value that is no spin", "-1 and +1")
        if self.streams.shape != (rows, 2) or self.streams.dtype != np.uint64:
            raise InvalidInputError("streams", f"{self.streams.dtype} {self.streams.shape}", f"uint64 ({rows}, 2)")

    @property
    def rows(self) -> int:
        """Number of latents asked for."""
        return int(self.conditions.shape[0])


@dataclass(frozen=True, slots=True, eq=False)
class LatentBatch:
    """Latents in the order asked for.

    Attributes:
        spins: (rows, nodes) int8 of −1 and +1, every node, the condition's included.
        energies: (rows,) float64, E(s) in kT.
        provenance: how they came to be.
    """

    spins: NDArray[np.int8]
    energies: NDArray[np.float64]
    provenance: Provenance

    def checked(self, request: LatentRequest) -> LatentBatch:
        """This batch, once it is known to be a valid answer to ``request``; SamplerAnswerError otherwise."""
        machine = request.machine
        problem_ids = self.provenance.problem_ids or ()
        if self.spins.shape != (request.rows, machine.node_count) or self.spins.dtype != np.int8:
            message = f"{self.provenance.sampler} answered spins {self.spins.dtype} {self.spins.shape}"
            raise SamplerAnswerError(
                f"{message}, expected int8 {(request.rows, machine.node_count)}", problem_ids=problem_ids
            )
        if not (np.abs(self.spins) == 1).all():
            raise SamplerAnswerError(
                f"{self.provenance.sampler} answered values other than ±1", problem_ids=problem_ids
            )
        if not np.array_equal(self.spins[:, machine.condition_nodes], request.conditions):
            raise SamplerAnswerError(f"{self.provenance.sampler} did not hold the condition", problem_ids=problem_ids)
        if not np.allclose(self.energies, machine.energies(self.spins), rtol=1e-5, atol=1e-3):
            raise SamplerAnswerError(
                f"{self.provenance.sampler} answered energies that its spins do not have", problem_ids=problem_ids
            )
        return self
