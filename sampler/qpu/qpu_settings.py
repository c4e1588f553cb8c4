"""Everything that can be set about the QPU path: default, least and largest value, and meaning of each."""

# ruff: noqa: RUF009 - _set makes a dataclasses.field

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from qshower.sampler.errors import InvalidInputError
from qshower.sampler.provenance import ConditionMode

RangePolicy = Literal["rescale", "refuse"]
DESCRIPTION, LIMITS_OF, VARIABLE = "description", "limits", "variable"
"""Keys of a field's metadata: what it is, its least and largest value, and whether the service reads it from a variable
of the environment, ``QSHOWER_QPU_`` and its name."""


def _set(description: str, default: Any = None, *limits: float, variable: bool = False) -> Any:
    """A field of QpuSettings; ``limits`` are the least and the largest number."""
    metadata = {DESCRIPTION: description, LIMITS_OF: limits or None, VARIABLE: variable}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class QpuSettings:
    """Settings of a QpuSampler. What is None is taken from Ocean's environment variables and configuration file."""

    endpoint: str | None = _set("URL of the solver API (DWAVE_API_ENDPOINT).")
    token: str | None = field(default=None, repr=False, metadata={DESCRIPTION: "Its token (DWAVE_API_TOKEN)."})
    profile: str | None = _set("Profile of Ocean's configuration file (DWAVE_PROFILE).")
    config_file: str | None = _set("Path of that file (DWAVE_CONFIG_FILE).")
    solver: str | None = _set("Default solver (DWAVE_API_SOLVER): a name, zephyr or pegasus.")
    state_dir: Path | None = _set("Folder of calibrations and budgets; unset: `$XDG_STATE_HOME/qshower`.")
    annealing_time_us: float | None = _set(
        "Annealing time of a QPU draw, in µs; unset: the solver's own default.", None, 1e-3, 1e6, variable=True
    )
    gauges: int = _set("Spin-reversal gauges of a QPU draw.", 1, 1, 1000, variable=True)
    refine_sweeps: int = _set("Gibbs sweeps after a QPU draw.", 16, 0, 1_000_000, variable=True)
    condition_mode: ConditionMode = _set("How a QPU holds the condition.", "fold", variable=True)
    flux_bias_phi0: float = _set(
        "Magnitude of the flux biases that hold it in `flux_bias` mode, in Φ0.", 2e-3, 0.0, 1.0, variable=True
    )
    max_condition_errors: float = _set(
        "Largest share of the condition's spins that may be read wrong in `flux_bias` mode; a draw with more fails.",
        0.1,
        0.0,
        1.0,
        variable=True,
    )
    max_copies: int = _set("Most conditions that are programmed side by side.", 4, 1, 64, variable=True)
    max_missing_fraction: float = _set(
        "Largest share of a model's spins without a qubit, and of its couplings' strength without a coupler; more is "
        "refused.",
        0.1,
        0.0,
        1.0,
        variable=True,
    )
    range_policy: RangePolicy = _set(
        "If (h, J)/beta leaves the solver's ranges: draw hotter and say so, or refuse.", "rescale", variable=True
    )
    min_rescale: float = _set(
        "Least factor that `rescale` multiplies by; below it is refused.", 0.7, 0.0, 1.0, variable=True
    )
    request_cap_us: float | None = _set(
        "Most QPU access time of one request that sets no cap, in µs.", 60e6, 0.0, 1e12, variable=True
    )
    daily_budget_us: float | None = _set(
        "Most QPU access time of one UTC day, in µs; unset: no limit.", None, 0.0, 1e12, variable=True
    )
    key_budget_us: float | None = _set("The same for each billing key.", None, 0.0, 1e12)
    deadline_s: float = _set(
        "Default deadline, in seconds, of operations that set none, such as calibrations and bank draws.",
        120.0,
        0.1,
        86400.0,
        variable=True,
    )
    request_timeout_s: float = _set(
        "Limit of one HTTP exchange with the solver API, in seconds.", 20.0, 0.05, 600.0, variable=True
    )
    initial_beta: float = _set(
        "beta_eff assumed in the first submission of a calibration, in 1/(programmed unit).", 5.0, 0.1, 100.0
    )
    calibration_reads: int = _set(
        "Reads of each copy that a calibration takes, all gauges together.", 1920, 10, 10_000, variable=True
    )
    calibration_gauges: int = _set(
        "Most spin-reversal gauges of a calibration, each submitted by itself.", 96, 1, 1000, variable=True
    )
    calibration_access_us: float = _set(
        "QPU access time that a calibration may take, in µs; it has at least four gauges.",
        2e6,
        0.0,
        1e9,
        variable=True,
    )
    calibration_spread_kt: float = _set(
        "Spread of energies that weak machines are amplified to in a calibration, up to three times, in kT; 0: never.",
        14.0,
        0.0,
        1e3,
        variable=True,
    )
    calibration_max_age_s: float = _set(
        "Age at which a calibration is marked stale, in seconds.", 7 * 86400.0, 0.0, 1e9, variable=True
    )
    drift_tolerance: float = _set(
        "Relative change of the apparent beta that marks draws as drifting.", 0.05, 0.0, 1.0, variable=True
    )
    recalibrate_on_drift: bool = _set(
        "Measure the QPU's temperature again once its answers drift.", default=False, variable=True
    )
    poll_wait_s: int = _set("How long the server may hold a status poll.", 2, 1, 30)
    poll_pause_s: float = _set(
        "Pause between two polls; bounds the rate if the server refuses them at once.", 0.05, 0.0, 10.0
    )
    answer_wait_s: float = _set("How long a completed problem's answer may take to arrive.", 30.0, 0.05, 600.0)
    cancel_grace_s: float = _set("How long a cancelled problem is waited for.", 5.0, 0.0, 60.0)
    close_timeout_s: float = _set("How long closing the client may take.", 5.0, 0.0, 60.0)
    max_in_flight: int = _set("Most problems submitted at once.", 8, 1, 1000)
    solver_check_s: float = _set("How often the solver's state and graph_id are asked for.", 60.0, 0.0, 86400.0)
    availability_ttl_s: float = _set("How long an answer about availability is cached.", 10.0, 0.0, 3600.0)
    reconnect_wait_s: float = _set(
        "First pause between two attempts to reach the API; doubles up to a minute.", 2.0, 0.0, 600.0
    )
    breaker_failures: int = _set("Failures in a row that open the circuit.", 4, 1, 1000)
    breaker_cooldown_s: float = _set(
        "How long it stays open before one probe; doubles with each failed probe, up to ten times.", 15.0, 0.01, 3600.0
    )

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
    known.name: known.metadata[LIMITS_OF] for known in fields(QpuSettings) if known.metadata.get(LIMITS_OF)
}
"""Least and largest value of each number."""
