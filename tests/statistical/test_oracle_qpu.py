"""The QPU sampler's distribution against enumeration: Ocean's client, the emulator, small blocks of both topologies."""

from __future__ import annotations

import numpy as np
import pytest

from sampler.emulator.config import NOISE_LEVELS, EmulatorConfig
from sampler.emulator.server import EmulatorServer
from sampler.qpu.sampler import QpuSampler
from sampler.qpu.settings import QpuSettings
from sampler.request import SamplerOptions


@pytest.mark.parametrize(
    ("family", "noise", "defects", "rows_per_condition", "options"),
    [
        # As used: a chip with errors and holes, and refinement, which brings the draws back to the law.
        ("zephyr", "typical", 0.03, 4000, SamplerOptions(refine_sweeps=32, gauges=2)),
        ("pegasus", "typical", 0.03, 4000, SamplerOptions(refine_sweeps=32)),
        # The path to the QPU alone: folding, gauges and beta_eff are all that make these draws right. There are fewer
        # rows, so that the statistical error of the calibration, 1 to 2 %, stays below what the checks see.
        ("zephyr", "none", 0.0, 1000, SamplerOptions(refine_sweeps=0, gauges=2)),
        ("pegasus", "none", 0.0, 1000, SamplerOptions(refine_sweeps=0)),
    ],
)
def test_distribution_is_the_exact_one(
    family, noise, defects, rows_per_condition, options, rng, base_seed, tmp_path, judge, checks, lattice_machine,
    random_spins, latent_request, enumerate_law,
):  # fmt: skip
    machine = lattice_machine(rng, family, nodes_per_partition=4)
    levels = rng.permutation(np.unique(random_spins(rng, (32, 4)), axis=0))[:3]
    conditions = rng.permutation(np.repeat(levels, rows_per_condition, axis=0))
    chip = EmulatorConfig(
        topology=machine.topology, defects=defects, sweeps=64, seed=base_seed % 2**31, **NOISE_LEVELS[noise]
    )
    with EmulatorServer(chip) as server:
        settings = QpuSettings(endpoint=server.endpoint, token="any", state_dir=tmp_path, calibration_reads=10_000)
        with QpuSampler(settings) as sampler:
            batch = sampler.sample(latent_request(machine, conditions, seed=base_seed, options=options))
    assert batch.provenance.problem_ids
    assert batch.provenance.refine_sweeps == options.refine_sweeps
    judge(checks.exact({c.tobytes(): enumerate_law(machine, c) for c in levels}, batch.spins, conditions))
