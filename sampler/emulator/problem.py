"""From a submitted job to a programmed problem, with the checks a solver makes.

A job is ``{solver, type, params, label?, data: {format: "qp", lin, quad, offset}}``: ``lin`` holds one float64 for
each working qubit (NaN: inactive), ``quad`` one for each coupler between two active qubits, in the solver's order.
"""

from __future__ import annotations

import base64
import binascii
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.emulator import chip as limits
from qshower.sampler.emulator import timing
from qshower.sampler.emulator.chip import PARAMETERS, Chip
from qshower.sampler.emulator.refused import RefusedError
from qshower.sampler.emulator.schedules import AnnealSchedule, read_schedule
from qshower.sampler.emulator.timing import Reverse

UNUSED = 3
"""What stands in ``initial_state`` for a qubit that the problem does not use."""


@dataclass(frozen=True, slots=True)
class RunParameters:
    """Checked parameters of a job; times in µs. ``auto_scale`` None means on, unless flux biases are given."""

    num_reads: int = 1
    annealing_time_us: float = timing.DEFAULT_ANNEALING_TIME_US
    programming_thermalization_us: float = timing.PROGRAMMING_THERMALIZATION_US
    readout_thermalization_us: float = timing.READOUT_THERMALIZATION_US
    histogram: bool = True
    auto_scale: bool | None = None
    fast_anneal: bool = False
    flux_drift_compensation: bool = True
    reduce_intersample_correlation: bool = False
    max_answers: int | None = None
    flux_biases: tuple[float, ...] | None = None
    schedule: AnnealSchedule | None = None
    initial_state: tuple[int, ...] | None = None
    reinitialize_state: bool = True

    @property
    def reverse(self) -> Reverse:
        """Which kind of reverse anneal it is, None for a forward one."""
        if self.initial_state is None:
            return None
        return "with_reinit" if self.reinitialize_state else "without_reinit"


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """A checked problem.

    Attributes:
        kind: ``ising`` or ``qubo``, the variables of the submitted problem.
        active: (n,) int64, positions of the active qubits in ``chip.qubits``, ascending.
        couplers: (m,) int64, positions in ``chip.couplers`` of the couplers between them.
        linear: (n,) float64 and quadratic (m,) float64, the problem as submitted: what energies refer to.
        quadratic: see ``linear``.
        h: (n,) float64 and j (m,) float64, the Ising problem to program, after auto-scaling.
        j: see ``h``.
        parameters: how to run it.
        initial: (n,) int8, spins that a reverse anneal starts from, None for a forward one.
    """

    kind: str
    active: NDArray[np.int64]
    couplers: NDArray[np.int64]
    linear: NDArray[np.float64]
    quadratic: NDArray[np.float64]
    h: NDArray[np.float64]
    j: NDArray[np.float64]
    parameters: RunParameters
    initial: NDArray[np.int8] | None = None


def read_problem(job: dict[str, Any], chip: Chip, *, accept_nan: bool = False) -> Problem:
    """The problem in ``job``; RefusedError if the solver would not take it."""
    kind = job.get("type")
    if kind not in ("ising", "qubo"):
        raise RefusedError(f"Problem type {kind!r} is not supported by this solver")
    params = job.get("params") or {}
    if not isinstance(params, dict):
        raise RefusedError("params is not an object")
    if not isinstance(job.get("label"), str | None):
        raise RefusedError("label is not a string")
    parameters = read_parameters(params, chip)
    active, couplers, linear, quadratic = _read_biases(job.get("data"), chip, accept_nan=accept_nan)
    h, j = linear, quadratic
    if kind == "qubo":
        h, j = _qubo_to_ising(chip, active, couplers, linear, quadratic)
    if parameters.fast_anneal and np.any(h != 0.0):
        raise RefusedError("h must be zero for every qubit when fast_anneal is true")
    sums = _coupling_sums(chip, couplers, j)
    scale = parameters.auto_scale if parameters.auto_scale is not None else parameters.flux_biases is None
    if scale:
        factor = _auto_scale_factor(h, j, sums, chip.sum_range)
        h, j = h / factor, j / factor
    else:
        _check_range("h", h, limits.H_RANGE)
        _check_range("J", j, limits.EXTENDED_J_RANGE)
        _check_range(f"{chip.sum_kind} coupling sum", sums, chip.sum_range)
    duration = chip.timing.run_us(
        active.shape[0],
        parameters.num_reads,
        parameters.annealing_time_us,
        parameters.programming_thermalization_us,
        parameters.readout_thermalization_us,
    )
    if duration > limits.RUN_DURATION_RANGE_US[1]:
        raise RefusedError(
            f"Problem run duration {duration:.0f} us is above the limit of {limits.RUN_DURATION_RANGE_US[1]:.0f} us"
        )
    initial = None if parameters.reverse is None else _initial_state(parameters, kind, active, chip)
    return Problem(kind, active, couplers, linear, quadratic, h, j, parameters, initial)


def read_parameters(params: dict[str, Any], chip: Chip) -> RunParameters:
    """The parameters of a job, each checked against the solver's properties."""
    for name in params:
        if name not in PARAMETERS:
            raise RefusedError(f"Unknown parameter {name!r}")
    if "annealing_time" in params and "anneal_schedule" in params:
        raise RefusedError("annealing_time and anneal_schedule cannot be used together")
    fast = _flag(params, "fast_anneal", default=False)
    anneal_range = limits.FAST_ANNEAL_TIME_RANGE_US if fast else limits.ANNEALING_TIME_RANGE_US
    anneal = _number(params, "annealing_time", timing.DEFAULT_ANNEALING_TIME_US, anneal_range)
    schedule = None
    if params.get("anneal_schedule") is not None:
        schedule = read_schedule(params["anneal_schedule"], anneal_range, fast=fast)
        anneal = schedule.time_us
    state = _states(params, chip, reverse=schedule is not None and schedule.reverse)
    mode = params.get("answer_mode", "histogram")
    if mode not in ("histogram", "raw"):
        raise RefusedError(f"answer_mode {mode!r} is neither 'histogram' nor 'raw'")
    reads = _integer(params, "num_reads", 1, limits.NUM_READS_RANGE)
    most = None
    if params.get("max_answers") is not None:
        most = _integer(params, "max_answers", reads, (1, limits.NUM_READS_RANGE[1]))
        if most > reads and mode == "raw":
            raise RefusedError(f"max_answers {most} is above num_reads {reads}")
    scale = _flag(params, "auto_scale", default=False) if params.get("auto_scale") is not None else None
    biases = params.get("flux_biases")
    if biases is not None:
        biases = _flux_biases(biases, chip)
        if scale:
            raise RefusedError("flux_biases cannot be used with auto_scale")
    thermal = limits.THERMALIZATION_RANGE_US
    return RunParameters(
        num_reads=reads,
        annealing_time_us=anneal,
        programming_thermalization_us=_number(
            params, "programming_thermalization", timing.PROGRAMMING_THERMALIZATION_US, thermal
        ),
        readout_thermalization_us=_number(params, "readout_thermalization", timing.READOUT_THERMALIZATION_US, thermal),
        histogram=mode == "histogram",
        auto_scale=scale,
        fast_anneal=fast,
        flux_drift_compensation=_flag(params, "flux_drift_compensation", default=True),
        reduce_intersample_correlation=_flag(params, "reduce_intersample_correlation", default=False),
        max_answers=most,
        flux_biases=biases,
        schedule=schedule,
        initial_state=state,
        reinitialize_state=_flag(params, "reinitialize_state", default=True),
    )


def _states(params: dict[str, Any], chip: Chip, *, reverse: bool) -> tuple[int, ...] | None:
    """The parameter ``initial_state``, which a reverse anneal needs and no other takes."""
    state = params.get("initial_state")
    if not reverse:
        if state is not None or params.get("reinitialize_state") is not None:
            raise RefusedError("initial_state and reinitialize_state need an anneal_schedule that starts at 1")
        return None
    if not isinstance(state, list) or len(state) != chip.nominal_qubits:
        raise RefusedError(f"a reverse anneal needs initial_state, a list of {chip.nominal_qubits} numbers")
    if not all(isinstance(value, int) and not isinstance(value, bool) for value in state):
        raise RefusedError("initial_state must be integers")
    return tuple(state)


def _decode(text: Any, name: str) -> NDArray[np.float64]:
    try:
        return np.frombuffer(base64.b64decode(text, validate=True), dtype="<f8").astype(np.float64)
    except (binascii.Error, ValueError, TypeError) as error:
        raise RefusedError(f"{name} is not a base64 array of float64") from error


def _read_biases(
    data: Any, chip: Chip, *, accept_nan: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    if not isinstance(data, dict) or data.get("format") != "qp":
        raise RefusedError("Problem data must have the format 'qp'")
    lin, quad = _decode(data.get("lin"), "lin"), _decode(data.get("quad"), "quad")
    if lin.shape != chip.qubits.shape:
        raise RefusedError(f"lin has {lin.shape[0]} entries, the solver {chip.qubits.shape[0]} qubits")
    is_active = ~np.isnan(lin)
    active = np.flatnonzero(is_active)
    if active.shape[0] == 0:
        raise RefusedError("Problem has no active qubits")
    ends = np.searchsorted(chip.qubits, chip.couplers)
    couplers = np.flatnonzero(is_active[ends].all(axis=1))
    if quad.shape != couplers.shape:
        raise RefusedError(f"quad has {quad.shape[0]} entries for {couplers.shape[0]} couplers between active qubits")
    linear = lin[active]
    if accept_nan:
        quad = np.nan_to_num(quad, nan=0.0)
    if not (np.isfinite(linear).all() and np.isfinite(quad).all()):
        raise RefusedError("h and J must be finite")
    return active, couplers, linear, quad


def local_ends(chip: Chip, active: NDArray[np.int64], couplers: NDArray[np.int64]) -> NDArray[np.int64]:
    """(m, 2), the ends of ``couplers`` as positions in ``active``."""
    ends: NDArray[np.int64] = np.searchsorted(chip.qubits[active], chip.couplers[couplers])
    return ends


def _qubo_to_ising(
    chip: Chip,
    active: NDArray[np.int64],
    couplers: NDArray[np.int64],
    linear: NDArray[np.float64],
    quadratic: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Biases of the spins s = 2x − 1 from those of the binary variables x."""
    ends = local_ends(chip, active, couplers)
    h = linear / 2.0
    for one in (0, 1):
        h = h + np.bincount(ends[:, one], weights=quadratic / 4.0, minlength=active.shape[0])
    return h, quadratic / 4.0


def _coupling_sums(chip: Chip, couplers: NDArray[np.int64], j: NDArray[np.float64]) -> NDArray[np.float64]:
    values = np.zeros(chip.couplers.shape[0])
    values[couplers] = j
    sums = np.bincount(chip.groups[:, 0], weights=values[chip.groups[:, 1]], minlength=1)
    return sums.astype(np.float64)


def _auto_scale_factor(
    h: NDArray[np.float64], j: NDArray[np.float64], sums: NDArray[np.float64], sum_range: tuple[float, float]
) -> float:
    """The divisor that makes h and J fill the solver's ranges."""
    factor = 0.0
    for values, (low, high) in ((h, limits.H_RANGE), (j, limits.EXTENDED_J_RANGE), (sums, sum_range)):
        if values.size:
            factor = max(factor, float(values.max()) / high, float(values.min()) / low)
    return factor if factor > 0.0 else 1.0


def _check_range(name: str, values: NDArray[np.float64], bounds: tuple[float, float]) -> None:
    # A client's float arithmetic may end a hair outside a range; a solver's own rounding is coarser than this.
    slack = 1e-9
    if values.size and (values.min() < bounds[0] - slack or values.max() > bounds[1] + slack):
        worst = values.min() if values.min() < bounds[0] - slack else values.max()
        raise RefusedError(f"{name} value {worst:.6g} is out of range [{bounds[0]:g}, {bounds[1]:g}]")


def _flag(params: dict[str, Any], name: str, *, default: bool) -> bool:
    value = params.get(name, default)
    if not isinstance(value, bool):
        raise RefusedError(f"{name} must be a boolean")
    return value


def _number(params: dict[str, Any], name: str, default: float, bounds: tuple[float, float]) -> float:
    value = params.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise RefusedError(f"{name} must be a number")
    if not bounds[0] <= value <= bounds[1]:
        raise RefusedError(f"{name} {value:g} is out of range [{bounds[0]:g}, {bounds[1]:g}]")
    return float(value)


def _integer(params: dict[str, Any], name: str, default: int, bounds: tuple[int, int]) -> int:
    value = params.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int):
        raise RefusedError(f"{name} must be an integer")
    if not bounds[0] <= value <= bounds[1]:
        raise RefusedError(f"{name} {value} is out of range [{bounds[0]}, {bounds[1]}]")
    return value


def _initial_state(parameters: RunParameters, kind: str, active: NDArray[np.int64], chip: Chip) -> NDArray[np.int8]:
    """(n,) spins of the active qubits that a reverse anneal starts from."""
    given = np.array(parameters.initial_state, dtype=np.int64)
    low = -1 if kind == "ising" else 0
    if not np.isin(given, (low, 1, UNUSED)).all():
        raise RefusedError(f"initial_state must hold {low} and 1, and {UNUSED} for a qubit that is not used")
    used = np.flatnonzero(given != UNUSED)
    if not np.array_equal(used, chip.qubits[active]):
        raise RefusedError("initial_state must hold a state for each qubit of the problem, and for no other")
    return np.where(given[used] == 1, 1, -1).astype(np.int8)


def _flux_biases(biases: Any, chip: Chip) -> tuple[float, ...]:
    if not isinstance(biases, list) or len(biases) != chip.nominal_qubits:
        raise RefusedError(f"flux_biases must be a list of {chip.nominal_qubits} numbers")
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in biases):
        raise RefusedError("flux_biases must be finite numbers")
    return tuple(float(value) for value in biases)
