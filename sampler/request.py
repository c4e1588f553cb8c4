"""What is asked of a sampler, and what it answers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.errors import DefectError, InvalidInputError, SamplerAnswerError
from qshower.sampler.machine import BoltzmannMachine, are_spins, check_spins
from qshower.sampler.provenance import ConditionMode, Provenance
from qshower.sampler.time_limit import TimeLimit, never

DEFAULT_SWEEPS = 256
"""Sweeps of a classical draw whose caller names no number. Bundles carry a measured one."""

MAX_SWEEPS = 1_000_000
"""Most sweeps that one draw may ask for."""


def checked_sweeps(sweeps: int, *, least: int, field: str = "sweeps") -> int:
    """``sweeps``, once it is known to be a number of sweeps."""
    if isinstance(sweeps, bool) or not isinstance(sweeps, (int, np.integer)) or not least <= sweeps <= MAX_SWEEPS:
        raise InvalidInputError(field, sweeps, f"an integer from {least} to {MAX_SWEEPS}")
    return int(sweeps)


def streams_of(seed: int, rows: int, first: int = 0) -> NDArray[np.uint64]:
    """Random streams (rows, 2): (seed, first), (seed, first + 1) and so on.

    >>> streams_of(7, 2, first=5).tolist()
    [[7, 5], [7, 6]]
    """
    streams = np.empty((rows, 2), dtype=np.uint64)
    streams[:, 0] = seed
    streams[:, 1] = np.uint64(first) + np.arange(rows, dtype=np.uint64)
    return streams


def check_streams(streams: NDArray[np.uint64], rows: int) -> None:
    """InvalidInputError unless ``streams`` holds a random stream for each of ``rows`` rows."""
    if streams.shape != (rows, 2) or streams.dtype != np.uint64:
        raise DefectError("streams", f"{streams.dtype} {streams.shape}", f"uint64 ({rows}, 2)")


def rows_by_condition(conditions: NDArray[np.int8]) -> tuple[NDArray[np.int8], list[NDArray[np.int64]]]:
    """The different rows of ``conditions`` (rows, condition nodes) in ascending order, and the rows that hold each.

    >>> distinct, rows = rows_by_condition(np.array([[1, 1], [-1, 1], [1, 1]], dtype=np.int8))
    >>> distinct.tolist(), [some.tolist() for some in rows]
    ([[-1, 1], [1, 1]], [[1], [0, 2]])
    """
    # Eight spins to a byte, and all bytes of a row one value: sorting them takes a hundredth of sorting the rows.
    packed = np.pad(np.packbits(conditions > 0, axis=1), ((0, 0), (0, 1)))  # there is a byte even if there are no spins
    keys = np.ascontiguousarray(packed).view(np.dtype((np.void, packed.shape[1]))).reshape(-1)
    _, first, member = np.unique(keys, return_index=True, return_inverse=True)
    member = member.reshape(-1)
    rows = np.split(np.argsort(member, kind="stable"), np.cumsum(np.bincount(member))[:-1])
    return conditions[first], rows if first.size else []


@dataclass(frozen=True, slots=True)
class SamplerOptions:
    """Choices of one request; None leaves a choice to the sampler. Each sampler refuses the options it does not have.

    Attributes:
        sweeps: updates of every free node before a state is returned (gibbs, annealing, tempering).
        num_reads: reads of each QPU problem, all its gauges together.
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

    def __post_init__(self) -> None:
        # As Python's own numbers, so that provenance can hold them.
        for name, value in self.given().items():
            if isinstance(value, np.generic):
                object.__setattr__(self, name, value.item())

    def sweeps_or(self, default: int, sampler: str) -> int:
        """The sweeps asked for, ``default`` if none are, for a sampler that takes no other option.

        Raises:
            InvalidInputError: another option is set, or the number is out of range.

        >>> SamplerOptions().sweeps_or(256, "gibbs"), SamplerOptions(sweeps=8).sweeps_or(256, "gibbs")
        (256, 8)
        """
        for option, value in self.given().items():
            if option != "sweeps":
                raise InvalidInputError(f"options.{option}", value, f"nothing: {sampler} takes only sweeps")
        return default if self.sweeps is None else checked_sweeps(self.sweeps, least=1, field="options.sweeps")

    def leave_latents_alone(self) -> bool:
        """Whether latents drawn with these are what a request without options would get.

        Neither a cost cap nor the number of reads affects a latent.
        """
        return not self.given().keys() - {"max_qpu_access_time_us", "num_reads"}

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
        account: who pays for QPU time; empty where callers have no keys.
        given_up: whether nobody waits for the latents any more; the draw then stops with SamplerCancelledError.
    """

    machine: BoltzmannMachine
    conditions: NDArray[np.int8]
    streams: NDArray[np.uint64]
    options: SamplerOptions = field(default_factory=SamplerOptions)
    deadline_s: float | None = None
    account: str = ""
    given_up: Callable[[], bool] = never

    def __post_init__(self) -> None:
        check_spins("conditions", self.conditions, self.machine.condition_nodes.shape[0])
        check_streams(self.streams, self.rows)

    @property
    def rows(self) -> int:
        """Number of latents asked for."""
        return int(self.conditions.shape[0])

    def time_limit(self) -> TimeLimit:
        """Until when a draw that begins now may go on."""
        return TimeLimit(math.inf if self.deadline_s is None else monotonic() + self.deadline_s, self.given_up)


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
        if self.spins.shape[0] != request.rows or not are_spins(self.spins, machine.node_count):
            message = f"{self.provenance.sampler} answered {self.spins.dtype} {self.spins.shape}"
            expected = f"expected int8 {(request.rows, machine.node_count)} of ±1"
            raise SamplerAnswerError(f"{message}, {expected}", problem_ids=problem_ids)
        if not np.array_equal(self.spins[:, machine.condition_nodes], request.conditions):
            raise SamplerAnswerError(f"{self.provenance.sampler} did not hold the condition", problem_ids=problem_ids)
        if not np.allclose(self.energies, machine.energies(self.spins), rtol=1e-5, atol=1e-3):
            raise SamplerAnswerError(
                f"{self.provenance.sampler} answered energies that its spins do not have", problem_ids=problem_ids
            )
        return self
