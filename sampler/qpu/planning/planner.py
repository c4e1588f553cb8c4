"""What a request becomes on a solver: where the machine lies, which conditions share a programming, what it takes.

Planning is pure: it submits nothing and waits for nothing, and all of it is done before a session is opened.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.errors import InvalidInputError
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.qpu.embedding.embedding import Embedding, EmbeddingCache, Embeddings
from qshower.sampler.qpu.embedding.gauges import GAUGES_OF_A_SET
from qshower.sampler.qpu.ocean.solver import SolverInfo
from qshower.sampler.qpu.planning.costs import (
    check_duration,
    gauges_of,
    legal_reads,
    qubits_of,
    reads_for,
    total_cost_us,
)
from qshower.sampler.qpu.planning.draw_options import DrawOptions, draw_options
from qshower.sampler.qpu.planning.estimate import QpuEstimate
from qshower.sampler.qpu.planning.packing import Part, Programming, pack
from qshower.sampler.qpu.qpu_settings import QpuSettings
from qshower.sampler.request import LatentRequest, rows_by_condition

COPIES_MUST_SAVE = 0.1
"""Share of the access time that drawing on more copies must save to be worth the qubits they lack beside."""
FIRST_LOOK_READS = 100
"""Reads of a calibration's first programming, which only finds out about how hot the solver is."""

LEAST_READS_PER_GAUGE = 20
"""Fewer reads in each programming of a calibration would not show how far its spins deviate from the law."""


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What to program on a solver.

    Attributes:
        machine: what is drawn from.
        info: the solver.
        embeddings: the copies the parts' ``copy`` names.
        programmings: what to program.
        conditions: (conditions, condition nodes) int8, the distinct conditions.
        options: how to draw.
        access_time_us: estimated QPU access time.
    """

    machine: BoltzmannMachine
    info: SolverInfo
    embeddings: tuple[Embedding, ...]
    programmings: tuple[Programming, ...]
    conditions: NDArray[np.int8]
    options: DrawOptions
    access_time_us: float

    @property
    def copies(self) -> int:
        """Copies in use."""
        return max(len(programming.parts) for programming in self.programmings)

    @property
    def missing_qubits(self) -> int:
        """Free nodes without a qubit, in the worst copy in use."""
        return max(int(embedding.unplaced.size) for embedding in self.embeddings[: self.copies])

    @property
    def missing_couplers(self) -> int:
        """Couplings between placed free nodes that have no coupler, in the worst copy in use."""
        return max(embedding.missing_couplers for embedding in self.embeddings[: self.copies])

    @property
    def problems(self) -> int:
        """Problems it will be: one for each gauge of each programming."""
        return sum(programming.gauges for programming in self.programmings)

    @property
    def reads(self) -> int:
        """Reads over all of them."""
        return sum(programming.reads for programming in self.programmings)


@dataclass(frozen=True, slots=True, eq=False)
class CalibrationPlan:
    """The two draws of a calibration, the conditions folded and one on each copy.

    Attributes:
        first: a short one, to get near.
        measurement: the one that counts, in several gauges, each part with the same number of reads.
    """

    first: Plan
    measurement: Plan

    @property
    def access_time_us(self) -> float:
        """Estimated QPU access time of both."""
        return self.first.access_time_us + self.measurement.access_time_us


class Planner:
    """Plans requests; keeps the machines' embeddings."""

    def __init__(self, settings: QpuSettings) -> None:
        self._settings = settings
        self._embeddings = EmbeddingCache(settings.max_copies, settings.max_missing_fraction)

    def embeddings(self, machine: BoltzmannMachine, info: SolverInfo, *, place_condition: bool) -> Embeddings:
        """Where ``machine`` lies on ``info``; PlacementError if it does not fit."""
        return self._embeddings.of(machine, info, place_condition=place_condition)

    def plan(self, request: LatentRequest, info: SolverInfo) -> Plan:
        """The plan of a request with at least one row: the fewest copies that are not much dearer than the cheapest.

        Raises:
            InvalidInputError: an option is not in the solver's ranges, or even its fewest reads take too long.
            PlacementError: the machine does not fit.
        """
        num_reads = request.options.num_reads
        options = draw_options(request.options, self._settings, info)
        flux_bias = options.condition_mode == "flux_bias"
        embeddings = self.embeddings(request.machine, info, place_condition=flux_bias)
        anneal_us, low = options.annealing_time_us, info.num_reads_range[0]
        check_duration(info, embeddings.single.layout.qubits.size, anneal_us)
        conditions, members = rows_by_condition(request.conditions)
        plans = []
        for some in embeddings.choices:
            programmings = _packed(members, some, info, options, num_reads)
            most = [legal_reads(info, qubits_of(programming, some), anneal_us) for programming in programmings]
            if min(most) >= low if num_reads is None else low <= num_reads <= options.gauges * min(most):
                cost_us = total_cost_us(info, programmings, some, anneal_us)
                plans.append(Plan(request.machine, info, some, programmings, conditions, options, cost_us))
        if not plans:
            most_of_all = options.gauges * legal_reads(info, embeddings.single.layout.qubits.size, anneal_us)
            using = f"annealing_time_us {anneal_us:g} and gauges {options.gauges}"
            allowed = f"{low} to {most_of_all} on {info.name} with {using}"
            raise InvalidInputError("options.num_reads", num_reads, allowed)
        cheapest_us = min(plan.access_time_us for plan in plans)
        return next(plan for plan in plans if (1.0 - COPIES_MUST_SAVE) * plan.access_time_us <= cheapest_us)

    def calibration(self, request: LatentRequest, info: SolverInfo) -> CalibrationPlan:
        """The plan of a calibration for ``request``: some of its conditions, side by side.

        The measurement has as many whole sets of gauges as the access time of a calibration allows: errors of h and J
        average out over programmings, not over reads.

        Raises:
            InvalidInputError: an option is not in the solver's ranges, or even its fewest reads take too long.
            PlacementError: the machine does not fit.
        """
        settings, low = self._settings, info.num_reads_range[0]
        options = DrawOptions(draw_options(request.options, settings, info).annealing_time_us)
        embeddings = self.embeddings(request.machine, info, place_condition=False).copies
        conditions, _ = rows_by_condition(request.conditions)
        count = min(len(embeddings), len(conditions))
        picked = np.linspace(0, len(conditions) - 1, count).round().astype(int)
        qubits = sum(one.layout.qubits.size for one in embeddings)
        check_duration(info, qubits, options.annealing_time_us)
        most = max(low, info.most_reads(qubits, options.annealing_time_us))

        def plan(reads: int, gauges: int) -> Plan:
            reads = max(low, min(gauges * most, reads))
            parts = tuple(Part(int(condition), copy, np.arange(reads)) for copy, condition in enumerate(picked))
            own = replace(options, gauges=gauges)
            programmings = (Programming(parts, reads, gauges_of(reads, gauges, info)),)
            cost_us = total_cost_us(info, programmings, embeddings, own.annealing_time_us)
            return Plan(request.machine, info, embeddings, programmings, conditions, own, cost_us)

        first = plan(min(FIRST_LOOK_READS, settings.calibration_reads), 1)
        enough = max(1, settings.calibration_reads // max(low, LEAST_READS_PER_GAUGE))
        gauges = min(settings.calibration_gauges, enough)
        for some in range(gauges // GAUGES_OF_A_SET * GAUGES_OF_A_SET, 0, -GAUGES_OF_A_SET):
            found = CalibrationPlan(first, plan(settings.calibration_reads, some))
            if found.access_time_us <= settings.calibration_access_us:
                return found
        return CalibrationPlan(first, plan(settings.calibration_reads, min(gauges, GAUGES_OF_A_SET)))


def estimate_of_draw(plan: Plan, calibration: CalibrationPlan | None) -> QpuEstimate:
    """What ``plan`` will take, with ``calibration`` on the way if there has to be one."""
    calibration_us = 0.0 if calibration is None else calibration.access_time_us
    return QpuEstimate(
        solver=plan.info.name,
        graph_id=plan.info.graph.graph_id,
        access_time_us=plan.access_time_us + calibration_us,
        calibration_us=calibration_us,
        problems=plan.problems,
        reads=plan.reads,
        conditions=len(plan.conditions),
        copies=plan.copies,
        missing_qubits=plan.missing_qubits,
    )


def estimate_of_calibration(plan: CalibrationPlan) -> QpuEstimate:
    """What a calibration will take, apart from any draw."""
    first, measurement = plan.first, plan.measurement
    return QpuEstimate(
        solver=first.info.name,
        graph_id=first.info.graph.graph_id,
        access_time_us=plan.access_time_us,
        calibration_us=plan.access_time_us,
        problems=first.problems + measurement.problems,
        reads=first.reads + measurement.reads,
        conditions=measurement.copies,
        copies=measurement.copies,
        missing_qubits=measurement.missing_qubits,
    )


def _packed(
    members: list[NDArray[np.int64]],
    embeddings: tuple[Embedding, ...],
    info: SolverInfo,
    options: DrawOptions,
    num_reads: int | None,
) -> tuple[Programming, ...]:
    qubits = np.cumsum([embedding.layout.qubits.size for embedding in embeddings])
    once, twice = (
        np.array([info.access_time_us(int(some), reads, options.annealing_time_us) for some in qubits])
        for reads in (1, 2)
    )

    def cost_us(parts: NDArray[np.int64], reads: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of every gauge the programming itself, and of every read its own time: all are linear in the reads."""
        each = (twice - once)[parts - 1]
        gauges = np.minimum(options.gauges, reads)
        taken = np.maximum(reads, gauges * info.num_reads_range[0])
        cost: NDArray[np.float64] = gauges * (once[parts - 1] - each) + taken * each
        return cost

    most = max(info.num_reads_range[0], info.most_reads(int(qubits[-1]), options.annealing_time_us))
    packed = []
    for one in pack(members, len(embeddings), cost_us, options.gauges * most, num_reads):
        reads = one.reads if num_reads is not None else reads_for(one.reads, options.gauges, info)
        packed.append(Programming(one.parts, reads, gauges_of(reads, min(options.gauges, one.reads), info)))
    return tuple(packed)
