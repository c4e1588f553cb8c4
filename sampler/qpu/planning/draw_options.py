"""What a request asks of the QPU, checked, and what it leaves to the defaults."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.errors import DefectError, InvalidInputError
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.provenance import ConditionMode
from qshower.sampler.qpu.capabilities import CAPABILITIES
from qshower.sampler.qpu.ocean.solver import SolverInfo
from qshower.sampler.qpu.qpu_settings import QpuSettings
from qshower.sampler.request import LatentRequest, SamplerOptions


@dataclass(frozen=True, slots=True)
class DrawOptions:
    """How to draw: what a request asked for, or the defaults.

    Attributes:
        annealing_time_us: anneal time of each read.
        gauges: spin-reversal gauges each programming is repeated in.
        condition_mode: how the condition is held.
    """

    annealing_time_us: float
    gauges: int = 1
    condition_mode: ConditionMode = "fold"


@dataclass(frozen=True, slots=True)
class _Number:
    low: float
    high: float
    whole: bool


_NUMBERS = {
    "num_reads": _Number(1, 100_000, whole=True),
    "annealing_time_us": _Number(1e-3, 1e6, whole=False),
    "gauges": _Number(1, 1000, whole=True),
    "refine_sweeps": _Number(0, 1_000_000, whole=True),
    "max_qpu_access_time_us": _Number(0.0, 1e12, whole=False),
}


def check_options(options: SamplerOptions) -> None:
    """InvalidInputError for an option the QPU sampler lacks, or a value that no solver could take."""
    for name, value in options.given().items():
        if name not in CAPABILITIES.options:
            raise InvalidInputError(f"options.{name}", value, ", ".join(sorted(CAPABILITIES.options)))
        limits = _NUMBERS.get(name)
        if limits is not None:
            _check_number(name, value, limits)
    if options.condition_mode not in (None, "fold", "flux_bias"):
        raise InvalidInputError("options.condition_mode", options.condition_mode, "fold or flux_bias")
    if options.solver is not None and (not isinstance(options.solver, str) or not options.solver.strip()):
        raise InvalidInputError("options.solver", options.solver, "a solver's name, zephyr or pegasus")


def calibration_request(
    machine: BoltzmannMachine, conditions: NDArray[np.int8], options: SamplerOptions | None, deadline_s: float | None
) -> LatentRequest:
    """The request that stands for a calibration at some typical ``conditions`` (rows, condition nodes), checked."""
    if conditions.shape[0] == 0:
        raise DefectError("conditions", "none", "at least one condition")
    streams = np.zeros((conditions.shape[0], 2), dtype=np.uint64)
    request = LatentRequest(machine, conditions, streams, options or SamplerOptions(), deadline_s)
    check_options(request.options)
    return request


def draw_options(asked: SamplerOptions, settings: QpuSettings, info: SolverInfo) -> DrawOptions:
    """What was asked for, or the defaults; InvalidInputError if it is not in the solver's own ranges.

    How many reads a programming may have depends on its gauges and qubits, too: that is for whoever plans it.
    """
    anneal = asked.annealing_time_us or settings.annealing_time_us or info.default_annealing_time_us
    low, high = info.annealing_time_range_us
    if not low <= anneal <= high:
        raise InvalidInputError("options.annealing_time_us", anneal, f"{low:g} to {high:g} on {info.name}")
    mode = asked.condition_mode or settings.condition_mode
    if mode == "flux_bias" and not info.takes_flux_biases:
        raise InvalidInputError("options.condition_mode", mode, f"fold: {info.name} takes no flux biases")
    return DrawOptions(
        annealing_time_us=float(anneal),
        gauges=settings.gauges if asked.gauges is None else asked.gauges,
        condition_mode=mode,
    )


def cap_us_of(asked: SamplerOptions, settings: QpuSettings) -> float | None:
    """Most QPU access time of a request, None for no cap: the lower one of its own cap and the settings'."""
    caps = [cap for cap in (asked.max_qpu_access_time_us, settings.request_cap_us) if cap is not None]
    return min(caps, default=None)


def _check_number(name: str, value: Any, limits: _Number) -> None:
    kind = int if limits.whole else (int, float)
    allowed = f"{'an integer' if limits.whole else 'a number'} from {limits.low:g} to {limits.high:g}"
    if isinstance(value, bool) or not isinstance(value, kind) or not math.isfinite(value):
        raise InvalidInputError(f"options.{name}", value, allowed)
    if not limits.low <= value <= limits.high:
        raise InvalidInputError(f"options.{name}", value, allowed)
