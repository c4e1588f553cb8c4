"""What an emulated solver is: its graph, its hidden physics and its faults."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from qshower.sampler.emulator.fault_injection import parse_fault
from qshower.sampler.errors import InvalidInputError
from qshower.sampler.ideal_graph import topology_of

NOISE_LEVELS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "none": {
            "control_error_h": 0.0,
            "control_error_j": 0.0,
            "readout_flip": 0.0,
            "flux_offset_phi0": 0.0,
            "flux_drift_phi0_per_hour": 0.0,
            "beta_drift_per_hour": 0.0,
        },
        "low": {
            "control_error_h": 0.01,
            "control_error_j": 0.01,
            "readout_flip": 1e-4,
            "flux_offset_phi0": 2e-6,
            "flux_drift_phi0_per_hour": 1e-6,
            "beta_drift_per_hour": 0.002,
        },
        "typical": {
            "control_error_h": 0.02,
            "control_error_j": 0.02,
            "readout_flip": 5e-4,
            "flux_offset_phi0": 1e-5,
            "flux_drift_phi0_per_hour": 5e-6,
            "beta_drift_per_hour": 0.005,
        },
        "high": {
            "control_error_h": 0.03,
            "control_error_j": 0.03,
            "readout_flip": 2e-3,
            "flux_offset_phi0": 3e-5,
            "flux_drift_phi0_per_hour": 2e-5,
            "beta_drift_per_hour": 0.02,
        },
    }
)
"""Named sets of noise settings. A flux offset of 1e-5 Φ0 weighs as much as an h of 0.024 with the default constants."""


@dataclass(frozen=True, slots=True)
class EmulatorConfig:
    """One emulated solver. Everything under "hidden" is known to the emulator only, never told to a client.

    Law: a problem (h, J) is drawn from P(s) ∝ exp(−β·E'(s)), s ∈ {−1, +1}, where E' is the problem's energy with the
    control errors and flux offsets of this chip added, at ``β = beta · (annealing_time / default)^beta_time_exponent ·
    (1 + drift)``; then each spin of a read is flipped with probability ``readout_flip``.

    Attributes:
        topology: ideal graph, ``zephyr:12``, ``zephyr:6``, ``pegasus:16`` or any other size.
        port: TCP port on 127.0.0.1; 0 takes a free one.
        defects: fraction of the ideal graph's qubits that is missing, 0 to 0.5; of the couplers left, a fiftieth of
            that fraction is missing too.
        seed: fixes defects, control errors, flux offsets and every draw.
        token: the only token accepted; None accepts any token that is not empty.
        beta: hidden; effective inverse temperature at the solver's default annealing time, in 1/(programmed unit).
        beta_time_exponent: hidden; how β grows with the annealing time.
        control_error_h: hidden; standard deviation of the error on each programmed h, in programmed units.
        control_error_j: hidden; the same on each programmed J.
        systematic_share: hidden; share of the control errors' variance that is the chip's own, equal in every
            programming and independent of a spin-reversal gauge; the rest is new with each programming.
        readout_flip: hidden; probability that a spin is read wrongly.
        flux_offset_phi0: hidden; standard deviation of the qubits' static flux offsets, in Φ0.
        flux_drift_phi0_per_hour: hidden; standard deviation of their rates of change; compensated unless a problem
            sets ``flux_drift_compensation`` to false.
        beta_drift_per_hour: hidden; relative change of β per hour of uptime.
        beta_drift_per_problem: hidden; relative change of β with each problem run.
        b_ghz: B at freeze-out, with ``mafm_ph`` the chip's constants for converting flux biases to h.
        mafm_ph: maximum mutual inductance.
        sweeps: Gibbs sweeps of each draw: three quarters ramp β up, the last quarter holds it.
        workers: problems in progress at once.
        queue_s: seconds each problem waits before it is run.
        maintenance_s: how long the fault ``maintenance`` keeps the solver offline.
        slow_s: delay that the ``…_slow`` faults add to an answer.
        retry_after_s: the ``Retry-After`` of every HTTP 429 and 503.
        faults: names from ``qshower.sampler.emulator.fault_injection.FAULTS``, each as ``name`` (until cleared) or
        ``name:count``.
    """

    topology: str = "zephyr:12"
    port: int = 0
    defects: float = 0.03
    seed: int = 0
    token: str | None = None
    beta: float = 4.0
    beta_time_exponent: float = 0.06
    control_error_h: float = 0.0
    control_error_j: float = 0.0
    systematic_share: float = 0.5
    readout_flip: float = 0.0
    flux_offset_phi0: float = 0.0
    flux_drift_phi0_per_hour: float = 0.0
    beta_drift_per_hour: float = 0.0
    beta_drift_per_problem: float = 0.0
    b_ghz: float = 1.391
    mafm_ph: float = 1.647
    sweeps: int = 256
    workers: int = 2
    queue_s: float = 0.0
    maintenance_s: float = 2.0
    slow_s: float = 2.0
    retry_after_s: int = 1
    faults: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        topology_of(self.topology)
        if not 0 <= self.port <= 65535:
            raise InvalidInputError("port", self.port, "0 (any free port) to 65535")
        if not 0 <= self.seed < 2**63:
            raise InvalidInputError("seed", self.seed, "0 to 2^63 - 1")
        if self.token == "":
            raise InvalidInputError("token", self.token, "a token, or none to accept any")
        for name, low, high in (
            ("defects", 0.0, 0.5),
            ("beta", 1e-3, 1e3),
            ("beta_time_exponent", -1.0, 1.0),
            ("control_error_h", 0.0, 1.0),
            ("control_error_j", 0.0, 1.0),
            ("systematic_share", 0.0, 1.0),
            ("readout_flip", 0.0, 0.5),
            ("flux_offset_phi0", 0.0, 1e-2),
            ("flux_drift_phi0_per_hour", 0.0, 1e-2),
            ("beta_drift_per_hour", -1.0, 1.0),
            ("beta_drift_per_problem", -0.1, 0.1),
            ("b_ghz", 1e-2, 1e2),
            ("mafm_ph", 1e-2, 1e2),
            ("sweeps", 8, 100_000),
            ("workers", 1, 64),
            ("queue_s", 0.0, 3600.0),
            ("maintenance_s", 0.0, 86400.0),
            ("slow_s", 0.0, 3600.0),
            ("retry_after_s", 0, 86400),
        ):
            value = getattr(self, name)
            if not (math.isfinite(value) and low <= value <= high):
                raise InvalidInputError(name, value, f"{low:g} to {high:g}")
        for fault in self.faults:
            parse_fault(fault)

    def with_noise(self, level: str) -> EmulatorConfig:
        """This solver with one of ``NOISE_LEVELS``."""
        if level not in NOISE_LEVELS:
            raise InvalidInputError("noise", level, ", ".join(NOISE_LEVELS))
        return replace(self, **NOISE_LEVELS[level])
