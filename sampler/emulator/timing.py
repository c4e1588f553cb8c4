"""How long a problem takes on the emulated QPU, in the fields a real solver reports.

::

    qpu_access_time      = qpu_programming_time + qpu_sampling_time
    qpu_programming_time = typical programming time + programming thermalisation
    qpu_sampling_time    = reads · (anneal + readout + delay)
    delay                = fixed delay + max(readout thermalisation, decorrelation)

The readout time grows with the number of active qubits, linear between given points in log-log. This is D-Wave's
published timing model 1.0, so a client's ``estimate_qpu_access_time`` gives the same figure from the properties.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

DEFAULT_ANNEALING_TIME_US = 20.0
PROGRAMMING_THERMALIZATION_US = 1000.0
READOUT_THERMALIZATION_US = 0.0
DELAY_US = 20.54
DECORRELATION_MAX_ANNEAL_US = 2000.0
DECORRELATION_RANGE_US = (500.0, 10000.0)
ACCESS_OVERHEAD_US = 6500.0
POST_PROCESSING_US = 1.0
Reverse = Literal["with_reinit", "without_reinit"] | None
"""A reverse anneal from the initial state each time, or from the state read last; None for a forward anneal."""
REVERSE_PROGRAMMING_US: Mapping[Reverse, float] = {None: 0.0, "with_reinit": 0.0, "without_reinit": 5.55}
REVERSE_DELAY_US: Mapping[Reverse, float] = {None: 0.0, "with_reinit": -4.5, "without_reinit": -1.5}
"""What a reverse anneal adds to the programming and to the delay of each read: an Advantage's, of D-Wave's own mock."""


@dataclass(frozen=True, slots=True)
class TimingModel:
    """Timing of one kind of chip: programming time and readout time (µs) at numbers of active qubits."""

    programming_us: float
    readout_points: tuple[tuple[float, float], ...]

    def properties(self) -> dict[str, Any]:
        """The solver property ``problem_timing_data``."""
        qubits, times = zip(*self.readout_points, strict=True)
        return {
            "version": "1.0.0",
            "typical_programming_time": self.programming_us,
            "reverse_annealing_with_reinit_prog_time_delta": REVERSE_PROGRAMMING_US["with_reinit"],
            "reverse_annealing_without_reinit_prog_time_delta": REVERSE_PROGRAMMING_US["without_reinit"],
            "default_programming_thermalization": PROGRAMMING_THERMALIZATION_US,
            "default_annealing_time": DEFAULT_ANNEALING_TIME_US,
            "readout_time_model": "pwl_log_log",
            "readout_time_model_parameters": [*np.log10(qubits).tolist(), *np.log10(times).tolist()],
            "qpu_delay_time_per_sample": DELAY_US,
            "reverse_annealing_with_reinit_delay_time_delta": REVERSE_DELAY_US["with_reinit"],
            "reverse_annealing_without_reinit_delay_time_delta": REVERSE_DELAY_US["without_reinit"],
            "default_readout_thermalization": READOUT_THERMALIZATION_US,
            "decorrelation_max_nominal_anneal_time": DECORRELATION_MAX_ANNEAL_US,
            "decorrelation_time_range": list(DECORRELATION_RANGE_US),
        }

    def readout_us(self, qubits: int) -> float:
        """Readout time of one read of ``qubits`` active qubits."""
        points, times = zip(*self.readout_points, strict=True)
        return float(10.0 ** np.interp(np.log10(max(qubits, 1)), np.log10(points), np.log10(times)))

    def run_us(
        self,
        qubits: int,
        reads: int,
        anneal_us: float,
        programming_thermalization_us: float,
        readout_thermalization_us: float,
    ) -> float:
        """What counts against the solver's ``problem_run_duration_range``."""
        per_read = anneal_us + readout_thermalization_us + self.readout_us(qubits)
        return per_read * reads + programming_thermalization_us

    def fields(
        self,
        qubits: int,
        reads: int,
        anneal_us: float,
        programming_thermalization_us: float,
        readout_thermalization_us: float,
        *,
        decorrelate: bool = False,
        reverse: Reverse = None,
    ) -> dict[str, float]:
        """The timing fields of an answer, µs. A thermalisation time of 0 stands for the default, as in the client."""
        decorrelation = 0.0
        if decorrelate:
            low, high = DECORRELATION_RANGE_US
            decorrelation = low + anneal_us / DECORRELATION_MAX_ANNEAL_US * (high - low)
        delay = (
            DELAY_US
            + REVERSE_DELAY_US[reverse]
            + max(readout_thermalization_us or READOUT_THERMALIZATION_US, decorrelation)
        )
        readout = self.readout_us(qubits)
        sampling = reads * (anneal_us + readout + delay)
        programming = self.programming_us + REVERSE_PROGRAMMING_US[reverse]
        programming += programming_thermalization_us or PROGRAMMING_THERMALIZATION_US
        return {
            "qpu_sampling_time": sampling,
            "qpu_anneal_time_per_sample": anneal_us,
            "qpu_readout_time_per_sample": readout,
            "qpu_access_time": programming + sampling,
            "qpu_access_overhead_time": ACCESS_OVERHEAD_US,
            "qpu_programming_time": programming,
            "qpu_delay_time_per_sample": delay,
            "total_post_processing_time": POST_PROCESSING_US,
            "post_processing_overhead_time": POST_PROCESSING_US,
        }
