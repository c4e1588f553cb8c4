"""What programmings cost, and how many reads one of them may have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from qshower.sampler.qpu.embedding.embedding import Embedding
from qshower.sampler.qpu.ocean.solver import SolverInfo
from qshower.sampler.qpu.planning.draw_options import DrawOptions
from qshower.sampler.qpu.planning.gauge_shares import shares
from qshower.sampler.qpu.planning.packing import Programming


def qubits_of(programming: Programming, embeddings: Sequence[Embedding]) -> int:
    """Active qubits of a programming."""
    return sum(embeddings[part.copy].layout.qubits.size for part in programming.parts)


def programming_cost_us(info: SolverInfo, qubits: int, reads: int, options: DrawOptions) -> float:
    """QPU access time of one programming, all its gauges together."""
    # There are one or two different shares, however many gauges.
    times_of = Counter(shares(reads, options.gauges))
    return sum(times * info.access_time_us(qubits, some, options.annealing_time_us) for some, times in times_of.items())


def total_cost_us(
    info: SolverInfo, programmings: Sequence[Programming], embeddings: Sequence[Embedding], options: DrawOptions
) -> float:
    """QPU access time that ``programmings`` will be billed."""
    return sum(
        programming_cost_us(info, qubits_of(programming, embeddings), programming.reads, options)
        for programming in programmings
    )


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
