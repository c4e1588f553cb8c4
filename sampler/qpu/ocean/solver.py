"""What a solver tells about itself: its working graph, its ranges, its prices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import networkx as nx
import numpy as np
from dwave.system.coupling_groups import coupling_groups
from numpy.typing import NDArray

from qshower.sampler.errors import SamplerUnavailableError
from qshower.sampler.placement import WorkingGraph

Range = tuple[float, float]
Value = TypeVar("Value")
_ANNEAL_US = 20.0
"""Default annealing time of a solver that publishes none."""
_MALFORMED = (KeyError, TypeError, ValueError, IndexError, AttributeError)
"""What reading a property that is not as it should be may raise."""
NEEDED_PROPERTIES = (
    "topology",
    "qubits",
    "couplers",
    "num_qubits",
    "supported_problem_types",
    "parameters",
    "h_range",
    "j_range",
    "num_reads_range",
    "annealing_time_range",
)
NEEDED_PARAMETERS = ("num_reads", "annealing_time", "answer_mode", "auto_scale")
"""What every problem sets: a raw answer, its reads in order, of h and J as they are."""


@dataclass(frozen=True, slots=True, eq=False)
class SolverInfo:
    """One solver as of its ``graph_id``.

    Attributes:
        name: its name.
        graph: working qubits and couplers.
        h_range, j_range: allowed h and J; ``j_range`` is the extended one where there is one.
        sum_range: allowed sum of J in each group, None if the solver has no such limit.
        groups: (entries, 2) int64 of (group, index into ``graph.couplers``), grouped by the first column.
        num_reads_range, annealing_time_range_us: allowed values.
        default_annealing_time_us: what the solver takes if told nothing.
        run_duration_us: most that one problem may last.
        num_qubits: nominal number of qubits, the length of a list of flux biases.
        takes_flux_biases: whether it has that parameter.
        solver: Ocean's solver object.
    """

    name: str
    graph: WorkingGraph
    h_range: Range
    j_range: Range
    sum_range: Range | None
    groups: NDArray[np.int64]
    num_reads_range: tuple[int, int]
    annealing_time_range_us: Range
    default_annealing_time_us: float
    run_duration_us: float
    num_qubits: int
    takes_flux_biases: bool
    solver: Any

    @property
    def key(self) -> tuple[str, str]:
        """Name and graph_id: what placements and calibrations belong to."""
        return self.name, self.graph.graph_id

    def access_time_us(self, qubits: int, reads: int, annealing_time_us: float) -> float:
        """QPU access time that one problem will be billed, by Ocean's own estimate.

        Raises:
            SamplerUnavailableError: the solver publishes no timing data, so that no budget could be kept.
        """
        try:
            return float(
                self.solver.estimate_qpu_access_time(
                    num_qubits=qubits, num_reads=reads, annealing_time=annealing_time_us
                )
            )
        except _MALFORMED as error:
            raise SamplerUnavailableError(f"{self.name} publishes no usable timing data: {error}") from error

    def most_reads(self, qubits: int, annealing_time_us: float) -> int:
        """Most reads of one problem: the solver's range, and its limit on the duration of a run."""
        one, two = (self.access_time_us(qubits, reads, annealing_time_us) for reads in (1, 2))
        by_duration = int(self.run_duration_us / max(two - one, 1e-9) * 0.98) if self.run_duration_us else 10**9
        return max(1, min(self.num_reads_range[1], by_duration))


def check_definition(name: str, properties: Mapping[str, Any]) -> None:
    """SamplerUnavailableError that names the properties and parameters that a QPU lacks, if it does."""
    lacking = [f"the property {one}" for one in NEEDED_PROPERTIES if properties.get(one) is None]
    if not lacking:
        lacking = [f"the parameter {one}" for one in NEEDED_PARAMETERS if one not in properties["parameters"]]
        if "ising" not in properties["supported_problem_types"]:
            lacking.append("the problem type ising")
    if lacking:
        raise SamplerUnavailableError(f"solver {name} lacks {', '.join(lacking)}")


def solver_info(solver: Any) -> SolverInfo:
    """What we need of an Ocean solver with a checked definition; SamplerUnavailableError names what is no use."""
    properties = solver.properties

    def read(name: str, convert: Callable[[Any], Value]) -> Value:
        try:
            return convert(properties[name])
        except _MALFORMED as error:
            shown = f"{properties.get(name)!r:.80}"
            raise SamplerUnavailableError(
                f"the property {name} of solver {solver.name} cannot be used: {shown}"
            ) from error

    graph = WorkingGraph(
        family=read("topology", lambda topology: str(topology["type"])),
        size=read("topology", lambda topology: int(topology["shape"][0])),
        qubits=read("qubits", lambda qubits: np.sort(np.array(qubits, dtype=np.int64))),
        couplers=read("couplers", _couplers),
        graph_id=str(solver.graph_id),
    )
    by_group = "per_group_coupling_range" in properties
    sums = "per_group_coupling_range" if by_group else "per_qubit_coupling_range"
    j_range = "extended_j_range" if properties.get("extended_j_range") else "j_range"
    if properties.get("default_annealing_time"):
        default_us = read("default_annealing_time", float)
    elif properties.get("problem_timing_data"):
        default_us = read(
            "problem_timing_data", lambda timing: float(timing.get("default_annealing_time") or _ANNEAL_US)
        )
    else:
        default_us = _ANNEAL_US
    duration = "problem_run_duration_range"
    return SolverInfo(
        name=str(solver.name),
        graph=graph,
        h_range=read("h_range", _range),
        j_range=read(j_range, _range),
        sum_range=read(sums, _range) if properties.get(sums) else None,
        groups=read("couplers", lambda _: _groups(graph, by_group=by_group)),
        num_reads_range=read("num_reads_range", lambda pair: (int(pair[0]), int(pair[1]))),
        annealing_time_range_us=read("annealing_time_range", _range),
        default_annealing_time_us=default_us,
        run_duration_us=read(duration, _range)[1] if properties.get(duration) else 0.0,
        num_qubits=read("num_qubits", int),
        takes_flux_biases="flux_biases" in properties["parameters"],
        solver=solver,
    )


def _couplers(pairs: Any) -> NDArray[np.int64]:
    return np.sort(np.array(pairs, dtype=np.int64).reshape(-1, 2), axis=1)


def _range(pair: Any) -> Range:
    return float(pair[0]), float(pair[1])


def _groups(graph: WorkingGraph, *, by_group: bool) -> NDArray[np.int64]:
    """Which couplers' J add up under one limit: each qubit's, or, on Zephyr, each of a qubit's two groups."""
    count = len(graph.couplers)
    if not by_group or graph.family != "zephyr":
        return np.stack([graph.couplers.ravel(), np.repeat(np.arange(count), 2)], axis=1)
    chip = nx.Graph(family="zephyr", rows=graph.size)
    chip.add_edges_from(graph.couplers.tolist())
    numbered = [(number, *pair) for number, group in enumerate(coupling_groups(chip)) for pair in group]
    entries = np.array(numbered, dtype=np.int64).reshape(-1, 3)
    keys = graph.couplers[:, 0] * graph.label_count + graph.couplers[:, 1]
    order = np.argsort(keys)
    wanted = entries[:, 1:].min(axis=1) * graph.label_count + entries[:, 1:].max(axis=1)
    return np.stack([entries[:, 0], order[np.searchsorted(keys, wanted, sorter=order)]], axis=1)
