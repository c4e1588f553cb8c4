"""What the emulated chip really does with a problem: the part no client is told.

Law: reads are drawn from P(s) ∝ exp(−β(h'·s + Σ J'_ij s_i s_j)), s ∈ {−1, +1}, where

* h' = h + δh + h(flux offset + flux bias), J' = J + δJ, with δ normal, one part the chip's own, one part new with each
  programming;
* β depends on the annealing time and drifts with time and with the number of problems run;

and each spin read is flipped with a small probability.
"""

from __future__ import annotations

import numpy as np
from dwave.system.temperatures import fluxbias_to_h
from numpy.typing import NDArray

from qshower.sampler.emulator.chip import Chip
from qshower.sampler.emulator.emulator_config import EmulatorConfig
from qshower.sampler.emulator.problem import Problem, local_ends
from qshower.sampler.emulator.timing import DEFAULT_ANNEALING_TIME_US
from qshower.sampler.machine import BoltzmannMachine


class Physics:
    """The hidden constants of one chip.

    All are functions of the seed and of the ideal labels, so that qubits that survive a maintenance keep theirs.
    """

    def __init__(self, config: EmulatorConfig, chip: Chip) -> None:
        self._config = config
        self._chip = chip
        rng = np.random.default_rng([config.seed, 2])
        nominal = chip.nominal_qubits
        self._own_h = rng.standard_normal(nominal)[chip.qubits]
        offsets = rng.standard_normal(nominal)[chip.qubits] * config.flux_offset_phi0
        drifts = rng.standard_normal(nominal)[chip.qubits] * config.flux_drift_phi0_per_hour
        self._offsets_phi0, self._drifts_phi0_per_hour = offsets, drifts
        keys = chip.couplers[:, 0] * nominal + chip.couplers[:, 1]
        self._own_j = _normal_of(keys, config.seed)

    def beta(self, annealing_time_us: float, uptime_s: float, problems_run: int) -> float:
        """β in 1/(programmed unit)."""
        config = self._config
        drift = config.beta_drift_per_hour * uptime_s / 3600.0 + config.beta_drift_per_problem * problems_run
        stretch = (annealing_time_us / DEFAULT_ANNEALING_TIME_US) ** config.beta_time_exponent
        return float(config.beta * stretch * max(1.0 + drift, 0.05))

    def program(
        self, problem: Problem, rng: np.random.Generator, uptime_s: float, problems_run: int
    ) -> BoltzmannMachine:
        """One programming of ``problem``, with its errors: the machine (βh', βJ') whose law at β = 1 is drawn from."""
        config, active = self._config, problem.active
        own, fresh = np.sqrt(config.systematic_share), np.sqrt(1.0 - config.systematic_share)
        errors_h = own * self._own_h[active] + fresh * rng.standard_normal(active.shape[0])
        errors_j = own * self._own_j[problem.couplers] + fresh * rng.standard_normal(problem.couplers.shape[0])
        flux = self._offsets_phi0[active].copy()
        if not problem.parameters.flux_drift_compensation:
            flux += self._drifts_phi0_per_hour[active] * uptime_s / 3600.0
        if problem.parameters.flux_biases is not None:
            flux += np.array(problem.parameters.flux_biases)[self._chip.qubits[active]]
        h = problem.h + config.control_error_h * errors_h
        h = h + fluxbias_to_h(flux, B=config.b_ghz, MAFM=config.mafm_ph)
        j = problem.j + config.control_error_j * errors_j
        beta = self.beta(problem.parameters.annealing_time_us, uptime_s, problems_run)
        chip = self._chip
        return BoltzmannMachine(
            h=(beta * h).astype(np.float32),
            j=(beta * j).astype(np.float32),
            edges=local_ends(chip, active, problem.couplers).astype(np.int32),
            partitions=chip.colours[chip.qubits[active]],
            qubits=chip.qubits[active],
            topology=str(chip.topology),
        )

    def read_out(self, spins: NDArray[np.int8], rng: np.random.Generator) -> NDArray[np.int8]:
        """The spins as they are read: some flipped."""
        if self._config.readout_flip == 0.0:
            return spins
        flipped = rng.random(spins.shape, dtype=np.float32) < self._config.readout_flip
        return np.where(flipped, -spins, spins).astype(np.int8)


def _normal_of(keys: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
    """A standard normal number for each key, the same whatever the other keys are."""
    table = np.random.default_rng([seed, 4]).standard_normal(1 << 16)
    mixed = keys.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    values: NDArray[np.float64] = table[(mixed >> np.uint64(48)).astype(np.int64)]
    return values
