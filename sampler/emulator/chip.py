"""The emulated chip: a working graph with defects, and the properties a solver tells its clients."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from dwave.system.coupling_groups import coupling_groups
from numpy.typing import NDArray

from qshower.sampler.emulator import timing
from qshower.sampler.emulator.timing import TimingModel
from qshower.sampler.ideal_graph import Topology, ideal_graph, topology_of

COUPLER_DEFECTS_SHARE = 0.02
"""Missing couplers between working qubits, per missing qubit fraction."""

H_RANGE = (-4.0, 4.0)
J_RANGE = (-1.0, 1.0)
EXTENDED_J_RANGE = (-2.0, 1.0)
NUM_READS_RANGE = (1, 10000)
ANNEALING_TIME_RANGE_US = (0.5, 2000.0)
FAST_ANNEAL_TIME_RANGE_US = (0.005, 2000.0)
THERMALIZATION_RANGE_US = (0.0, 10000.0)
RUN_DURATION_RANGE_US = (0.0, 1e6)
MAX_ANNEAL_SCHEDULE_POINTS = 12

PARAMETERS = {
    "anneal_schedule": "A piecewise linear annealing schedule, a list of [t_us, s] pairs, from [0, 0], or [0, 1] for a "
    "reverse anneal, to [T, 1].",
    "annealing_time": "Annealing time of each read, in microseconds.",
    "answer_mode": "Format of the answer: histogram or raw.",
    "auto_scale": "Whether h and J are scaled to the largest values within the solver's ranges.",
    "fast_anneal": "Whether the fast-anneal protocol is used; h must be 0.",
    "flux_biases": "Flux biases in Phi_0, one for each qubit, working or not.",
    "flux_drift_compensation": "Whether the drift of the qubits' flux offsets is compensated.",
    "initial_state": "State that a reverse anneal starts from: -1 or 1 (or 0 or 1) for each qubit, 3 for one not used.",
    "max_answers": "Largest number of answers to return.",
    "num_reads": "Number of states to read.",
    "programming_thermalization": "Time to wait after programming, in microseconds.",
    "readout_thermalization": "Time to wait after each readout, in microseconds.",
    "reduce_intersample_correlation": "Whether pauses are added between reads.",
    "reinitialize_state": "Whether each reverse anneal starts from initial_state, or from the state read last.",
}


@dataclass(frozen=True, slots=True)
class _Product:
    """What the solvers of one family have in common.

    Attributes:
        solver_name: name of the solver, before its size.
        shape: what the API gives as the topology's shape, after the size.
        sum_range: allowed sum of J over each set of couplers that has one.
        sum_property: what the API calls that range; up to ``_coupling_range``, the sets' kind.
        timing: of full-size chips, then of smaller ones.
    """

    solver_name: str
    shape: tuple[int, ...]
    sum_range: tuple[float, float]
    sum_property: str
    timing: tuple[TimingModel, TimingModel]


_PRODUCTS = {
    "zephyr": _Product(
        "Advantage2_emulated_z",
        (4,),
        (-13.0, 10.0),
        "per_group_coupling_range",
        (
            TimingModel(33600.0, ((1, 17.0), (10, 20.0), (100, 32.0), (1000, 66.0), (4800, 101.0))),
            TimingModel(8000.0, ((1, 17.0), (10, 19.0), (100, 27.0), (1248, 45.0))),
        ),
    ),
    "pegasus": _Product(
        "Advantage_emulated_p",
        (),
        (-18.0, 15.0),
        "per_qubit_coupling_range",
        (
            TimingModel(14200.0, ((1, 18.0), (10, 35.0), (100, 75.0), (1000, 130.0), (5640, 173.0))),
            TimingModel(9000.0, ((1, 18.0), (10, 30.0), (100, 60.0), (1000, 110.0))),
        ),
    ),
}
_SMALL_SIZE = 8
"""Largest grid size with the timing of a small chip."""


@dataclass(frozen=True, slots=True, eq=False)
class Chip:
    """A working graph.

    Attributes:
        topology: the ideal graph.
        qubits: (qubits,) int64, labels of the working qubits, ascending.
        couplers: (couplers, 2) int64, pairs of labels with the smaller first, sorted.
        colours: (nominal,) int8, colour class of each label of the ideal graph (−1 where there is no such qubit).
        groups: (entries, 2) int64 of (group, coupler): the sets of couplers whose J have a limited sum. On Pegasus
            each qubit's couplers; on Zephyr the two groups of each qubit.
        graph_id: fingerprint of qubits and couplers.
        generation: how many maintenances it has been through.
    """

    topology: Topology
    qubits: NDArray[np.int64]
    couplers: NDArray[np.int64]
    colours: NDArray[np.int8]
    groups: NDArray[np.int64]
    graph_id: str
    generation: int = 0

    @property
    def _product(self) -> _Product:
        return _PRODUCTS[self.topology.family]

    @property
    def nominal_qubits(self) -> int:
        """Number of labels, working or not: what a client calls num_qubits."""
        return int(self.colours.shape[0])

    @property
    def solver_name(self) -> str:
        """The name clients know it by."""
        return f"{self._product.solver_name}{self.topology.size}"

    @property
    def timing(self) -> TimingModel:
        """Timing of this kind of chip."""
        return self._product.timing[self.topology.size <= _SMALL_SIZE]

    @property
    def sum_range(self) -> tuple[float, float]:
        """Allowed sum of J over each of ``groups``."""
        return self._product.sum_range

    @property
    def sum_kind(self) -> str:
        """What the couplers of each of ``groups`` have in common, as refusals say it."""
        return self._product.sum_property.removesuffix("_coupling_range").replace("_", "-")

    def after_maintenance(self, seed: int) -> Chip:
        """The same chip with about half a percent of its qubits lost."""
        rng = np.random.default_rng([seed, 3, self.generation])
        lost = rng.choice(self.qubits, size=max(1, self.qubits.shape[0] // 200), replace=False)
        qubits = np.setdiff1d(self.qubits, lost)
        couplers = self.couplers[np.isin(self.couplers, qubits).all(axis=1)]
        return _assemble(self.topology, qubits, couplers, self.generation + 1)

    def definition(self, status: str, load: float) -> dict[str, Any]:
        """The solver as its API describes it."""
        return {
            "identity": {"name": self.solver_name, "version": {"graph_id": self.graph_id}},
            "status": status,
            "description": f"Emulated annealer on {self.topology}",
            "avg_load": load,
            "properties": {
                "category": "qpu",
                "chip_id": self.solver_name,
                "topology": {"type": self.topology.family, "shape": [self.topology.size, *self._product.shape]},
                "num_qubits": self.nominal_qubits,
                "qubits": self.qubits.tolist(),
                "couplers": self.couplers.tolist(),
                "supported_problem_types": ["ising", "qubo"],
                "parameters": PARAMETERS,
                "h_range": list(H_RANGE),
                "j_range": list(J_RANGE),
                "extended_j_range": list(EXTENDED_J_RANGE),
                self._product.sum_property: list(self.sum_range),
                "num_reads_range": list(NUM_READS_RANGE),
                "annealing_time_range": list(ANNEALING_TIME_RANGE_US),
                "fast_anneal_time_range": list(FAST_ANNEAL_TIME_RANGE_US),
                "default_annealing_time": timing.DEFAULT_ANNEALING_TIME_US,
                "programming_thermalization_range": list(THERMALIZATION_RANGE_US),
                "default_programming_thermalization": timing.PROGRAMMING_THERMALIZATION_US,
                "readout_thermalization_range": list(THERMALIZATION_RANGE_US),
                "default_readout_thermalization": timing.READOUT_THERMALIZATION_US,
                "problem_run_duration_range": list(RUN_DURATION_RANGE_US),
                "max_anneal_schedule_points": MAX_ANNEAL_SCHEDULE_POINTS,
                "problem_timing_data": self.timing.properties(),
                "quota_conversion_rate": 1,
                "tags": ["emulated"],
                "vfyc": False,
            },
        }


def build_chip(topology: str, defects: float, seed: int) -> Chip:
    """A chip of ``topology`` that lacks ``round(defects · qubits)`` random qubits and a few random couplers."""
    graph = ideal_graph(topology)
    rng = np.random.default_rng([seed, 1])
    ideal = np.array(sorted(graph), dtype=np.int64)
    qubits = np.sort(rng.permutation(ideal)[round(defects * ideal.shape[0]) :])
    edges = np.array(sorted(tuple(sorted(edge)) for edge in graph.subgraph(qubits.tolist()).edges), dtype=np.int64)
    lost = round(defects * COUPLER_DEFECTS_SHARE * edges.shape[0])
    return _assemble(
        topology_of(topology), qubits, np.delete(edges, rng.choice(edges.shape[0], lost, replace=False), axis=0), 0
    )


def _assemble(topology: Topology, qubits: NDArray[np.int64], couplers: NDArray[np.int64], generation: int) -> Chip:
    colours = np.full(topology.label_count, -1, dtype=np.int8)
    for qubit in topology.graph():
        colours[qubit] = topology.colour_of(qubit)
    digest = hashlib.sha256(qubits.astype("<i8").tobytes() + couplers.astype("<i8").tobytes()).hexdigest()
    groups = np.array(list(_group_entries(topology, couplers)), dtype=np.int64).reshape(-1, 2)
    return Chip(topology, qubits, couplers, colours, groups, digest[:10], generation)


def _group_entries(topology: Topology, couplers: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """(group, coupler index) of every coupler in every set whose J have a limited sum."""
    position = {(a, b): index for index, (a, b) in enumerate(couplers.tolist())}
    if _PRODUCTS[topology.family].sum_property.startswith("per_qubit"):
        for (a, b), index in position.items():
            yield a, index
            yield b, index
        return
    graph = topology.graph().edge_subgraph(position)
    for number, group in enumerate(coupling_groups(graph)):
        for a, b in group:
            yield number, position[min(a, b), max(a, b)]
