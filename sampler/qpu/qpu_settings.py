"""Everything that can be set about the QPU path, with its defaults."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from qshower.sampler.errors import InvalidInputError
from qshower.sampler.provenance import ConditionMode

RangePolicy = Literal["rescale", "refuse"]


@dataclass(frozen=True, slots=True)
class QpuSettings:
    """Settings of a QpuSampler. What is None is taken from Ocean's environment variables and configuration file.

    Attributes:
        endpoint: URL of the solver API (``DWAVE_API_ENDPOINT``).
        token: its token (``DWAVE_API_TOKEN``); never shown by ``repr``.
        profile: profile of Ocean's configuration file (``DWAVE_PROFILE``).
        config_file: path of that file (``DWAVE_CONFIG_FILE``).
        solver: default solver (``DWAVE_API_SOLVER``): a name, ``zephyr`` or ``pegasus``.
        state_dir: folder of calibrations and budgets; None is ``$XDG_STATE_HOME/qshower``.
        annealing_time_us: default annealing time; None is the solver's own default.
        gauges: default number of spin-reversal gauges.
        refine_sweeps: default number of Gibbs sweeps after a draw.
        condition_mode: default way to hold the condition.
        max_copies: most conditions programmed side by side.
        max_hole_fraction: a placement is refused that has no qubit for more than this share of the nodes, or no
            coupler for more than this share of the |J| between free nodes that have one.
        range_policy: what to do if (h, J)/beta_eff leaves the solver's ranges: draw hotter and say so, or refuse.
        min_rescale: even ``rescale`` refuses below this factor.
        request_cap_us: most QPU access time of one request, unless the request sets its own cap; None for no cap.
        daily_budget_us: most QPU access time of one UTC day, all requests together; None for no limit.
        key_budget_us: the same for each billing key.
        initial_beta: beta_eff assumed in the first programming of a calibration, in 1/(programmed unit).
        calibration_reads: reads that a calibration's measurement takes of each copy, all its gauges together.
        calibration_gauges: most spin-reversal gauges it is averaged over, each a programming of its own.
        calibration_access_us: QPU access time that a calibration may take; it has as many gauges as fit in, at least
            four.
        calibration_spread_kt: a weakly coupled machine's (h, J) are amplified in a calibration, up to eight times,
            so that its energies spread by about this; 0 measures every machine as it is drawn.
        calibration_max_age_s: an older calibration is marked stale.
        drift_tolerance: relative change of the apparent beta_eff that marks draws as drifting.
        recalibrate_on_drift: calibrate again at the next request after a drift was seen.
        flux_bias_phi0: magnitude of the flux biases that hold the condition in ``flux_bias`` mode.
        request_timeout_s: limit of one HTTP exchange.
        poll_wait_s: how long the server may hold a status poll.
        poll_pause_s: pause between two polls; bounds the rate if the server refuses them at once.
        answer_wait_s: how long a completed problem's answer may take to arrive.
        cancel_grace_s: how long a cancelled problem is waited for.
        close_timeout_s: how long closing the client may take.
        deadline_s: limit of a request that states none.
        max_in_flight: most problems submitted at once.
        solver_check_s: how often the solver's state and graph_id are asked for.
        availability_ttl_s: how long an answer about availability is kept.
        reconnect_wait_s: first pause between two attempts to reach the API; doubles up to a minute.
        breaker_failures: failures in a row that open the circuit.
        breaker_cooldown_s: how long it stays open before one probe; doubles with each failed probe, up to ten times.
    """

    endpoint: str | None = None
    token: str | None = field(default=None, repr=False)
    profile: str | None = None
    config_file: str | None = None
    solver: str | None = None
    state_dir: Path | None = None
    annealing_time_us: float | None = None
    gauges: int = 1
    refine_sweeps: int = 16
    condition_mode: ConditionMode = "fold"
    max_copies: int = 4
    max_hole_fraction: float = 0.1
    range_policy: RangePolicy = "rescale"
    min_rescale: float = 0.7
    request_cap_us: float | None = 60e6
    daily_budget_us: float | None = None
    key_budget_us: float | None = None
    initial_beta: float = 5.0
    calibration_reads: int = 1920
    calibration_gauges: int = 96
    calibration_access_us: float = 2e6
    calibration_spread_kt: float = 14.0
    calibration_max_age_s: float = 7 * 86400.0
    drift_tolerance: float = 0.05
    recalibrate_on_drift: bool = False
    flux_bias_phi0: float = 2e-3
    request_timeout_s: float = 20.0
    poll_wait_s: int = 2
    poll_pause_s: float = 0.05
    answer_wait_s: float = 30.0
    cancel_grace_s: float = 5.0
    close_timeout_s: float = 5.0
    deadline_s: float = 120.0
    max_in_flight: int = 8
    solver_check_s: float = 60.0
    availability_ttl_s: float = 10.0
    reconnect_wait_s: float = 2.0
    breaker_failures: int = 4
    breaker_cooldown_s: float = 15.0

    def __post_init__(self) -> None:
        for name, (low, high) in LIMITS.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise InvalidInputError(name, value, f"{low:g} to {high:g}")
        if self.condition_mode not in ("fold", "flux_bias"):
            raise InvalidInputError("condition_mode", self.condition_mode, "fold or flux_bias")
        if self.range_policy not in ("rescale", "refuse"):
            raise InvalidInputError("range_policy", self.range_policy, "rescale or refuse")

    @property
    def state_folder(self) -> Path:
        """Where calibrations and budgets are kept."""
        if self.state_dir is not None:
            return self.state_dir
        base = os.environ.get("XDG_STATE_HOME")
        return (Path(base) if base else Path.home() / ".local" / "state") / "qshower"


LIMITS: Mapping[str, tuple[float, float]] = {
    "annealing_time_us": (1e-3, 1e6),
    "gauges": (1, 1000),
    "refine_sweeps": (0, 1_000_000),
    "max_copies": (1, 64),
    "max_hole_fraction": (0.0, 1.0),
    "min_rescale": (0.0, 1.0),
    "request_cap_us": (0.0, 1e12),
    "daily_budget_us": (0.0, 1e12),
    "key_budget_us": (0.0, 1e12),
    "initial_beta": (0.1, 100.0),
    "calibration_reads": (10, 10_000),
    "calibration_gauges": (1, 1000),
    "calibration_access_us": (0.0, 1e9),
    "calibration_spread_kt": (0.0, 1e3),
    "calibration_max_age_s": (0.0, 1e9),
    "drift_tolerance": (0.0, 1.0),
    "flux_bias_phi0": (0.0, 1.0),
    "request_timeout_s": (0.05, 600.0),
    "poll_wait_s": (1, 30),
    "poll_pause_s": (0.0, 10.0),
    "answer_wait_s": (0.05, 600.0),
    "cancel_grace_s": (0.0, 60.0),
    "close_timeout_s": (0.0, 60.0),
    "deadline_s": (0.1, 86400.0),
    "max_in_flight": (1, 1000),
    "solver_check_s": (0.0, 86400.0),
    "availability_ttl_s": (0.0, 3600.0),
    "reconnect_wait_s": (0.0, 600.0),
    "breaker_failures": (1, 1000),
    "breaker_cooldown_s": (0.01, 3600.0),
}
"""Least and largest value of each number."""
