"""What programmings cost, and how many reads a problem may have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from qshower.sampler.errors import InvalidInputError
from qshower.sampler.qpu.embedding.embedding import Embedding
from qshower.sampler.qpu.ocean.solver import SolverInfo
from qshower.sampler.qpu.planning.gauge_shares import shares
from qshower.sampler.qpu.planning.packing import Programming


def qubits_of(programming: Programming, embeddings: Sequence[Embedding]) -> int:
    """Active qubits of a programming."""
    return sum(embeddings[part.copy].layout.qubits.size for part in programming.parts)


def programming_cost_us(info: SolverInfo, qubits: int, programming: Programming, annealing_time_us: float) -> float:
    """QPU access time of one programming, all its gauges together."""
    # There are one or two different shares, however many gauges.
    times_of = Counter(shares(programming.reads, programming.gauges))
    return sum(times * info.access_time_us(qubits, some, annealing_time_us) for some, times in times_of.items())


def total_cost_us(
    info: SolverInfo, programmings: Sequence[Programming], embeddings: Sequence[Embedding], annealing_time_us: float
) -> float:
    """QPU access time that ``programmings`` will be billed."""
    return sum(
        programming_cost_us(info, qubits_of(programming, embeddings), programming, annealing_time_us)
        for programming in programmings
    )


def gauges_of(reads: int, gauges: int, info: SolverInfo) -> int:
    """How many of ``gauges`` the ``reads`` of a programming are shared out over: each has the fewest that may be."""
    return max(1, min(gauges, reads // info.num_reads_range[0]))


def reads_for(rows: int, gauges: int, info: SolverInfo) -> int:
    """Reads of a programming for ``rows`` rows: more than these where its problems would have too few."""
    return max(rows, min(gauges, rows) * info.num_reads_range[0])


def legal_reads(info: SolverInfo, qubits: int, annealing_time_us: float) -> int:
    """Most reads that one problem may have; fewer than the fewest if these would run for too long.

    ``SolverInfo.most_reads`` stays below: the delay after each read is billed, but it does not count as duration of a
    run.
    """
    if not info.run_duration_us:
        return info.num_reads_range[1]
    thermalization_us, read_us = _run_us(info, qubits, annealing_time_us)
    return min(info.num_reads_range[1], max(0, int((info.run_duration_us - thermalization_us) / read_us)))


def check_duration(info: SolverInfo, qubits: int, annealing_time_us: float) -> None:
    """InvalidInputError if even a problem of the fewest reads runs for longer than the solver lets it."""
    least = max(1, info.num_reads_range[0])
    if legal_reads(info, qubits, annealing_time_us) < least:
        thermalization_us, read_us = _run_us(info, qubits, annealing_time_us)
        reads = "one read" if least == 1 else f"{least} reads, the fewest of a problem,"
        takes_us = thermalization_us + least * read_us
        allowed = f"an anneal with which {reads} take at most {info.run_duration_us:.0f} µs on {info.name}"
        raise InvalidInputError("options.annealing_time_us", annealing_time_us, f"{allowed}, not {takes_us:.0f} µs")


def _run_us(info: SolverInfo, qubits: int, annealing_time_us: float) -> tuple[float, float]:
    """What counts against a solver's ``problem_run_duration_range``: once for each problem, and for each read."""
    timing = info.solver.properties.get("problem_timing_data") or {}
    once, twice = (info.access_time_us(qubits, reads, annealing_time_us) for reads in (1, 2))
    read_us = twice - once - float(timing.get("qpu_delay_time_per_sample") or 0.0)
    return float(timing.get("default_programming_thermalization") or 0.0), max(read_us, 1e-9)
