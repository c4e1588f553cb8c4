"""Flux-bias shims: making up for each qubit's own offset, which no gauge of the problem removes within one programming.

With h = 0 and J = 0 a qubit with offset o reads m = −tanh(o), o in kT. Two programmings, with the flux biases of all
qubits at +δ and −δ, give the chip's mean response to a flux bias and every qubit's offset. Through errors of J a qubit
also feels its neighbours' magnetisations; so δ is small, and a second pair, with the first one's offsets made up for,
corrects them. No constant of the chip is needed.

Half the sum of a pair is the offset, half its difference shows how much of that is noise: sampling, and errors that are
new with each programming. What is made up for is the expectation given both, σ²/(σ² + noise) of the offset seen, with σ
the spread of the chip's own offsets. So a shim takes away more than it adds, whatever the chip.

Source of flux-bias shims: Chern et al., Tutorial: Calibration Refinement in Quantum Annealing, Frontiers in Computer
Science 5, 1238988 (2023), doi:10.3389/fcomp.2023.1238988, arXiv:2304.10352, which finds them in many small steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.errors import InvalidInputError, SamplerAnswerError
from qshower.sampler.qpu.ocean.problems import Problem
from qshower.sampler.qpu.ocean.solver import SolverInfo
from qshower.sampler.qpu.quota import timestamp, utc_now
from qshower.sampler.qpu.session import QpuSession
from qshower.sampler.qpu.shims.couplers import COUPLER_PROGRAMMINGS, CouplerOffsets
from qshower.sampler.qpu.state_files import altered, known_fields, locked, read_json, write_json

_PROBE_PHI0 = 1e-5
"""Some 0.1 kT: weak enough for errors of J to do little, and seen well enough in the mean over all qubits."""
_PAIRS_OF_PROBES = 2
_QUBIT_PROGRAMMINGS = 2 * _PAIRS_OF_PROBES
_LEAST_READS = 2
"""One read says nothing of an offset."""


@dataclass(frozen=True, slots=True)
class ShimCost:
    """What measuring a shim takes: problems, reads over all of them, and QPU access time."""

    problems: int
    reads: int
    access_time_us: float


def shim_cost(info: SolverInfo, reads: int, annealing_time_us: float, *, couplers: bool) -> ShimCost:
    """What programmings of ``reads`` reads of the whole graph take, with or without those for the couplers.

    Raises:
        InvalidInputError: the solver takes no flux biases, or not as many reads in one problem.
    """
    if not info.takes_flux_biases:
        raise InvalidInputError("solver", info.name, "a solver that takes flux biases")
    qubits = info.graph.qubits.size
    low = max(_LEAST_READS, info.num_reads_range[0])
    high = info.most_reads(qubits, annealing_time_us)
    if isinstance(reads, bool) or not isinstance(reads, int) or not low <= reads <= high:
        raise InvalidInputError(
            "reads", reads, f"an integer from {low} to {high}, on {info.name} at an anneal of {annealing_time_us:g} µs"
        )
    problems = _QUBIT_PROGRAMMINGS + (COUPLER_PROGRAMMINGS if couplers else 0)
    return ShimCost(problems, problems * reads, problems * info.access_time_us(qubits, reads, annealing_time_us))


@dataclass(frozen=True, slots=True)
class Shim:
    """Flux biases for one solver, graph and annealing time.

    Attributes:
        solver: its name.
        graph_id: its working graph.
        annealing_time_us: anneal time they were measured at.
        qubits: labels.
        flux_biases_phi0: flux bias of each of ``qubits``, Φ0.
        offset_before_kt: root mean square of the qubits' own offsets without them, in kT, noise taken off.
        offset_after_kt: the same with them, as expected from how well they are known.
        reads: reads behind it.
        measured_at: UTC, ISO 8601.
        couplers: what the couplers are off by, if that was measured too.
    """

    solver: str
    graph_id: str
    annealing_time_us: float
    qubits: list[int]
    flux_biases_phi0: list[float]
    offset_before_kt: float
    offset_after_kt: float
    reads: int
    measured_at: str
    couplers: CouplerOffsets | None = None

    def nominal(self, info: SolverInfo) -> NDArray[np.float64]:
        """(nominal qubits,) flux biases, 0 where none was measured."""
        biases = np.zeros(info.num_qubits)
        biases[self.qubits] = self.flux_biases_phi0
        return biases


class ShimStore:
    """Shims in one JSON file, shared by all processes that name it."""

    def __init__(self, path: Path, clock: Callable[[], datetime] = utc_now) -> None:
        self._path, self._clock = path, clock

    def get(self, info: SolverInfo, annealing_time_us: float) -> Shim | None:
        """The shim for this graph and annealing time, if one was measured."""
        entry = read_json(self._path).get(_key(*info.key, annealing_time_us))
        if entry is None:
            return None
        try:
            found = known_fields(Shim, entry)
            off = found.pop("couplers", None)
            return Shim(**found, couplers=None if off is None else CouplerOffsets(**known_fields(CouplerOffsets, off)))
        except (AttributeError, TypeError):
            raise altered(self._path, "a shim lacks a field") from None

    def put(self, shim: Shim) -> None:
        """Keep ``shim`` in place of an earlier one."""
        key = _key(shim.solver, shim.graph_id, shim.annealing_time_us)
        with locked(self._path):
            write_json(self._path, read_json(self._path) | {key: asdict(shim)})

    def now(self) -> str:
        """The time now, as a shim says it."""
        return timestamp(self._clock())


def measure_shim(session: QpuSession, annealing_time_us: float, reads: int, measured_at: str) -> Shim:
    """Measure the offsets of all working qubits, four programmings of ``reads`` reads each, as ``shim_cost`` allows.

    Raises:
        SamplerAnswerError: the qubits do not respond to flux biases.
    """
    info = session.solver
    qubits = info.graph.qubits

    def problem(flux_phi0: NDArray[np.float64]) -> Problem:
        biases = np.zeros(info.num_qubits)
        biases[qubits] = flux_phi0
        nothing = np.zeros((0, 2), dtype=np.int64)
        return Problem(qubits, np.zeros(qubits.size), nothing, np.zeros(0), reads, annealing_time_us, biases)

    biases, seen, left = np.zeros(qubits.size), [], 0.0
    for _ in range(_PAIRS_OF_PROBES):
        probes = [problem(biases + sign * _PROBE_PHI0) for sign in (1.0, -1.0)]
        up, down = (_offsets(answer.spins) for answer in session.run(probes))
        response = float((up - down).mean()) / (2 * _PROBE_PHI0)
        if not response < 0:
            raise SamplerAnswerError(
                f"the qubits of {info.name} do not respond to flux biases", problem_ids=tuple(session.usage.problem_ids)
            )
        offsets, own, left = _expected(up, down, reads)
        seen.append(own)
        biases -= offsets / response
    return Shim(
        solver=info.name,
        graph_id=info.graph.graph_id,
        annealing_time_us=annealing_time_us,
        qubits=qubits.tolist(),
        flux_biases_phi0=biases.tolist(),
        offset_before_kt=seen[0],
        offset_after_kt=left,
        reads=_QUBIT_PROGRAMMINGS * reads,
        measured_at=measured_at,
    )


def _offsets(spins: NDArray[np.int8]) -> NDArray[np.float64]:
    """(qubits,) offset in kT of each qubit, from reads of h = J = 0."""
    reads = spins.shape[0]
    means = np.clip(spins.mean(axis=0, dtype=np.float64), -1 + 1 / reads, 1 - 1 / reads)
    offsets: NDArray[np.float64] = -np.arctanh(means)
    return offsets


def _expected(
    up: NDArray[np.float64], down: NDArray[np.float64], reads: int
) -> tuple[NDArray[np.float64], float, float]:
    """(qubits,) offsets as expected from a pair of probes; root mean square of the chip's own, and of what is left."""
    offsets = (up + down) / 2
    sampling = (np.cosh(up) ** 2 + np.cosh(down) ** 2) / (4 * reads)
    fresh = max(0.0, float((up - down).var() / 4 - sampling.mean()))
    noise = sampling + fresh
    own = max(0.0, float((offsets**2 - noise).mean()))
    share = own / (own + noise)
    return share * offsets, float(np.sqrt(own)), float(np.sqrt((share * noise).mean()))


def _key(solver: str, graph_id: str, annealing_time_us: float) -> str:
    return f"{solver}|{graph_id}|{annealing_time_us:g}"
