"""The QPU sampler's distribution against enumeration: Ocean's client, the emulator, small blocks of both topologies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from qshower.sampler.emulator.emulator_config import NOISE_LEVELS, EmulatorConfig
from qshower.sampler.emulator.emulator_server import EmulatorServer
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.qpu import operations
from qshower.sampler.qpu.calibration.scale import Calibration
from qshower.sampler.qpu.qpu_sampler import QpuSampler
from qshower.sampler.qpu.qpu_settings import QpuSettings
from qshower.sampler.request import SamplerOptions
from tests.conftest import LawMaker, MachineMaker, RequestMaker, SpinMaker
from tests.judge import Judge
from tests.statistical.conftest import Checks

Drawn = tuple[BoltzmannMachine, NDArray[np.int8], NDArray[np.int8], EmulatorConfig, Calibration, NDArray[np.int8]]
"""Machine, levels, conditions, chip, calibration, spins."""

Drawer = Callable[[str, str, float, SamplerOptions], Drawn]

ROWS_PER_CONDITION = 4000


@pytest.fixture
def drawn(
    request: pytest.FixtureRequest,
    rng: np.random.Generator,
    base_seed: int,
    tmp_path: Path,
    lattice_machine: MachineMaker,
    random_spins: SpinMaker,
    latent_request: RequestMaker,
) -> Drawer:
    """Draws through the emulator: machine, levels, conditions, chip, calibration and batch."""

    def draw(family: str, noise: str, defects: float, options: SamplerOptions) -> Drawn:
        machine = lattice_machine(rng, family, nodes_per_partition=4)
        levels = rng.permutation(np.unique(random_spins(rng, (32, 4)), axis=0))[:3]
        conditions = rng.permutation(np.repeat(levels, ROWS_PER_CONDITION, axis=0))
        chip = EmulatorConfig(
            topology=machine.topology, defects=defects, sweeps=64, seed=base_seed % 2**31, **NOISE_LEVELS[noise]
        )
        with EmulatorServer(chip) as server:
            settings = QpuSettings(endpoint=server.endpoint, token="any", state_dir=tmp_path, calibration_reads=10_000)
            with QpuSampler(settings) as sampler:
                batch = sampler.sample(latent_request(machine, conditions, seed=base_seed, options=options))
                calibration = operations.calibrations(sampler.access)[0]
        assert batch.provenance.problem_ids
        assert batch.provenance.refine_sweeps == options.refine_sweeps
        assert batch.provenance.beta == calibration.beta
        return machine, levels, conditions, chip, calibration, batch.spins

    return draw


@pytest.mark.parametrize("family", ["zephyr", "pegasus"])
def test_refined_draws_of_a_noisy_chip_follow_the_law(
    family: str, drawn: Drawer, judge: Judge, checks: Checks, enumerate_law: LawMaker
) -> None:
    machine, levels, conditions, _, _, spins = drawn(family, "typical", 0.03, SamplerOptions(refine_sweeps=32))
    judge(checks.exact({level.tobytes(): enumerate_law(machine, level) for level in levels}, spins, conditions))


@pytest.mark.parametrize(("family", "gauges"), [("zephyr", 2), ("pegasus", 1)])
def test_unrefined_draws_of_a_clean_chip_follow_the_law_at_the_calibrated_beta(
    family: str, gauges: int, drawn: Drawer, judge: Judge, checks: Checks, enumerate_law: LawMaker
) -> None:
    options = SamplerOptions(refine_sweeps=0, gauges=gauges)
    machine, levels, conditions, chip, calibration, spins = drawn(family, "none", 0.0, options)
    # Six of its standard errors: a calibration fails this in 2e-9 of cases.
    assert abs(calibration.beta - chip.beta) < 6 * calibration.beta_error
    assert calibration.beta_error < 0.03 * chip.beta
    # Nothing but folding, gauges and (h, J)/beta_eff makes these draws: at what the chip's own beta leaves, exactly.
    ratio = np.float32(chip.beta / calibration.beta)
    apparent = machine.with_parameters(machine.h * ratio, machine.j * ratio)
    judge(checks.exact({level.tobytes(): enumerate_law(apparent, level) for level in levels}, spins, conditions))
