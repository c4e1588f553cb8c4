"""What a request becomes on a solver: where the machine lies, which conditions share a programming, what it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.errors import InvalidInputError
from qshower.sampler.qpu.drawing.drawer import DrawOptions, programming_cost_us, qubits_of
from qshower.sampler.qpu.embedding.embedding import Embedding, EmbeddingCache, Embeddings
from qshower.sampler.qpu.embedding.gauges import GAUGES_OF_A_SET
from qshower.sampler.qpu.ocean.solver import SolverInfo
from qshower.sampler.qpu.planning.draw_options import draw_options
from qshower.sampler.qpu.planning.packing import Part, Programming, pack
from qshower.sampler.qpu.qpu_settings import QpuSettings
from qshower.sampler.request import LatentRequest, rows_by_condition

COPIES_MUST_SAVE = 0.1
"""Share of the access time that drawing on more copies must save to be worth their additional holes."""
FIRST_LOOK_READS = 100
"""Reads of a calibration's first programming, which only finds out about how hot the solver is."""

LEAST_READS_PER_GAUGE = 20
"""Fewer reads in each programming of a calibration would not show how far its spins deviate from the law."""


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A request on a solver.

    Attributes:
        info: the solver.
        sites: the copies the parts' ``copy`` names.
        programmings: what to program.
        conditions: (conditions, condition nodes) int8, the distinct conditions.
        options: how to draw.
        access_time_us: estimated QPU access time.
    """

    info: SolverInfo
    sites: tuple[Embedding, ...]
    programmings: tuple[Programming, ...]
    conditions: NDArray[np.int8]
    options: DrawOptions
    access_time_us: float

    @property
    def copies(self) -> int:
        """Copies in use."""
        return max(len(programming.parts) for programming in self.programmings)

    @property
    def holes(self) -> int:
        """Free nodes without a qubit, in the worst copy in use."""
        return max(int(site.unrealised.size) for site in self.sites[: self.copies])

    @property
    def missing_couplers(self) -> int:
        """Couplings between placed free nodes that have no coupler, in the worst copy in use."""
        return max(site.missing_couplers for site in self.sites[: self.copies])


@dataclass(frozen=True, slots=True)
class QpuEstimate:
    """What a request would take, known without submitting anything.

    Attributes:
        solver: where it would run.
        graph_id: that solver's working graph.
        access_time_us: QPU access time, calibration included.
        calibration_us: the part of it that a first calibration takes, 0 if there is one.
        problems: number of problems, without those of a calibration.
        reads: reads over all of them.
        conditions: distinct conditions.
        copies: conditions side by side on the chip.
        holes: free nodes without a qubit, in the worst copy used.
    """

    solver: str
    graph_id: str
    access_time_us: float
    calibration_us: float
    problems: int
    reads: int
    conditions: int
    copies: int
    holes: int


class Planner:
    """Plans requests; keeps the machines' sites."""

    def __init__(self, settings: QpuSettings) -> None:
        self._settings = settings
        self._sites = EmbeddingCache(settings.max_copies, settings.max_hole_fraction)

    def sites(self, request: LatentRequest, info: SolverInfo, *, place_condition: bool) -> Embeddings:
        """Where the request's machine lies on ``info``; PlacementError if it does not fit."""
        return self._sites.of(request.machine, info, place_condition=place_condition)

    def plan(self, request: LatentRequest, info: SolverInfo) -> Plan:
        """The plan of a request with at least one row: the fewest copies that are not much dearer than the cheapest.

        Raises:
            InvalidInputError: an option is not in the solver's ranges.
            PlacementError: the machine does not fit.
        """
        num_reads = request.options.num_reads
        options = draw_options(request.options, self._settings, info)
        sites = self.sites(request, info, place_condition=options.condition_mode == "flux_bias")
        conditions, members = rows_by_condition(request.conditions)
        plans = []
        for some in sites.choices:
            programmings = self._pack(members, some, info, options, num_reads)
            if num_reads is None or all(
                info.num_reads_range[0] <= num_reads <= legal_reads(info, qubits_of(programming, some), options)
                for programming in programmings
            ):
                cost_us = total_cost_us(info, programmings, some, options)
                plans.append(Plan(info, some, programmings, conditions, options, cost_us))
        if not plans:
            most = legal_reads(info, sites.single.layout.qubits.size, options)
            allowed = (
                f"{info.num_reads_range[0]} to {most} on {info.name} with annealing_time_us "
                f"{options.annealing_time_us:g} and gauges {options.gauges}"
            )
            raise InvalidInputError("options.num_reads", num_reads, allowed)
        cheapest_us = min(plan.access_time_us for plan in plans)
        return next(plan for plan in plans if (1.0 - COPIES_MUST_SAVE) * plan.access_time_us <= cheapest_us)

    def estimate(self, plan: Plan, calibration_us: float) -> QpuEstimate:
        """What ``plan`` will take, after a calibration of ``calibration_us`` on the way."""
        return QpuEstimate(
            solver=plan.info.name,
            graph_id=plan.info.graph.graph_id,
            access_time_us=plan.access_time_us + calibration_us,
            calibration_us=calibration_us,
            problems=sum(min(plan.options.gauges, programming.reads) for programming in plan.programmings),
            reads=sum(programming.reads for programming in plan.programmings),
            conditions=len(plan.conditions),
            copies=plan.copies,
            holes=plan.holes,
        )

    def estimate_of_calibration(self, plan: Plan, sites: Sequence[Embedding]) -> QpuEstimate:
        """What a calibration for ``plan`` on ``sites`` will take, apart from any draw."""
        first, second = self.calibration(plan, sites)
        copies, cost_us = len(second.parts), self.calibration_cost_us(plan, sites)
        return QpuEstimate(
            solver=plan.info.name,
            graph_id=plan.info.graph.graph_id,
            access_time_us=cost_us,
            calibration_us=cost_us,
            problems=1 + min(self.calibration_gauges(plan, sites), second.reads),
            reads=first.reads + second.reads,
            conditions=copies,
            copies=copies,
            holes=max(int(site.unrealised.size) for site in sites[:copies]),
        )

    def calibration(self, plan: Plan, sites: Sequence[Embedding]) -> tuple[Programming, Programming]:
        """A short programming to get near, and one to measure: the plan's conditions, one on each copy."""
        count = min(len(sites), len(plan.conditions))
        picked = np.linspace(0, len(plan.conditions) - 1, count).round().astype(int)
        most = plan.info.most_reads(sum(site.layout.qubits.size for site in sites), plan.options.annealing_time_us)
        wanted = (min(FIRST_LOOK_READS, self._settings.calibration_reads), self._settings.calibration_reads)
        first, second = (
            Programming(
                tuple(Part(int(condition), copy, np.arange(reads)) for copy, condition in enumerate(picked)), reads
            )
            for reads in (min(most, reads) for reads in wanted)
        )
        return first, second

    def calibration_gauges(self, plan: Plan, sites: Sequence[Embedding]) -> int:
        """Gauges to measure in: as many whole sets as the access time of a calibration allows.

        Errors of h and J average out over programmings, not over reads.
        """
        reads = self.calibration(plan, sites)[1].reads
        most = min(self._settings.calibration_gauges, max(1, reads // LEAST_READS_PER_GAUGE))
        sets = range(most // GAUGES_OF_A_SET * GAUGES_OF_A_SET, 0, -GAUGES_OF_A_SET)
        for gauges in sets:
            if self._calibration_us(plan, sites, gauges) <= self._settings.calibration_access_us:
                return gauges
        return min(most, GAUGES_OF_A_SET)

    def calibration_cost_us(self, plan: Plan, sites: Sequence[Embedding]) -> float:
        """QPU access time of both programmings of a calibration."""
        return self._calibration_us(plan, sites, self.calibration_gauges(plan, sites))

    def _calibration_us(self, plan: Plan, sites: Sequence[Embedding], gauges: int) -> float:
        first, second = self.calibration(plan, sites)
        plain = DrawOptions(plan.options.annealing_time_us)
        gauged = DrawOptions(plan.options.annealing_time_us, gauges=gauges)
        return total_cost_us(plan.info, [first], sites, plain) + total_cost_us(plan.info, [second], sites, gauged)

    def _pack(
        self,
        members: list[NDArray[np.int64]],
        sites: tuple[Embedding, ...],
        info: SolverInfo,
        options: DrawOptions,
        num_reads: int | None,
    ) -> tuple[Programming, ...]:
        qubits = np.cumsum([site.layout.qubits.size for site in sites])
        once, twice = (
            np.array([info.access_time_us(int(some), reads, options.annealing_time_us) for some in qubits])
            for reads in (1, 2)
        )

        def cost_us(parts: NDArray[np.int64], reads: NDArray[np.float64]) -> NDArray[np.float64]:
            """Of every gauge the programming itself, and of every read its own time: all are linear in the reads."""
            each = (twice - once)[parts - 1]
            cost: NDArray[np.float64] = np.minimum(options.gauges, reads) * (once[parts - 1] - each) + reads * each
            return cost

        return pack(members, len(sites), cost_us, most_reads(info, int(qubits[-1]), options), num_reads)


def most_reads(info: SolverInfo, qubits: int, options: DrawOptions) -> int:
    """Most reads that we give one programming of our own accord: each gauge is a problem of its own."""
    return options.gauges * info.most_reads(qubits, options.annealing_time_us)


def legal_reads(info: SolverInfo, qubits: int, options: DrawOptions) -> int:
    """Most reads that one programming may have.

    ``most_reads`` stays below: the delay after each read is billed, but it does not count as duration of a run.
    """
    most = info.num_reads_range[1]
    if info.run_duration_us:
        timing = info.solver.properties.get("problem_timing_data") or {}
        once, twice = (info.access_time_us(qubits, reads, options.annealing_time_us) for reads in (1, 2))
        read_us = twice - once - float(timing.get("qpu_delay_time_per_sample") or 0.0)
        left_us = info.run_duration_us - float(timing.get("default_programming_thermalization") or 0.0)
        most = min(most, int(left_us / max(read_us, 1e-9)))
    return options.gauges * max(1, most)


def total_cost_us(
    info: SolverInfo, programmings: Sequence[Programming], sites: Sequence[Embedding], options: DrawOptions
) -> float:
    """QPU access time that ``programmings`` will be billed."""
    return sum(
        programming_cost_us(info, qubits_of(programming, sites), programming.reads, options)
        for programming in programmings
    )
