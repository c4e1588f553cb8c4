"""On a real QPU, and billed: ``DWAVE_API_TOKEN=… python -m pytest -m qpu tests/qpu``.

Together they take well under one second of QPU access time; each request is capped.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest

from qshower.sampler.gibbs.gibbs_sampler import GibbsSampler
from qshower.sampler.lattice import compact_lattice
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.qpu import operations
from qshower.sampler.qpu.qpu_sampler import QpuSampler
from qshower.sampler.qpu.qpu_settings import QpuSettings
from qshower.sampler.request import LatentRequest, SamplerOptions, streams_of

CAP_US = 400_000.0

pytestmark = [
    pytest.mark.qpu,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not os.environ.get("DWAVE_API_TOKEN"), reason="needs a real QPU: set DWAVE_API_TOKEN; every run is billed"
    ),
]


@pytest.fixture(scope="module", params=["zephyr", "pegasus"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def machine(family: str) -> BoltzmannMachine:
    rng = np.random.default_rng(1)
    lattice = compact_lattice(family)
    return lattice.with_parameters(rng.normal(0, 0.2, lattice.node_count), rng.normal(0, 0.2, len(lattice.edges)))


@pytest.fixture(scope="module")
def sampler(family: str, machine: BoltzmannMachine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[QpuSampler]:
    settings = QpuSettings(
        state_dir=tmp_path_factory.mktemp("qpu"),
        request_cap_us=CAP_US,
        calibration_access_us=0.5 * CAP_US,
        deadline_s=600.0,
        solver=family,
    )
    with QpuSampler(settings) as built:
        availability = built.availability(machine)
        if not availability.available:
            pytest.skip(f"no {family} solver to test on: {availability.reason}")
        yield built


def request_of(machine: BoltzmannMachine, rows: int, **options: object) -> LatentRequest:
    rng = np.random.default_rng(2)
    conditions = rng.choice(np.array([-1, 1], dtype=np.int8), size=(2, machine.condition_nodes.size))
    streams = streams_of(0, rows)
    return LatentRequest(machine, conditions[np.arange(rows) % 2], streams, SamplerOptions(**options), 600.0)  # type: ignore[arg-type]


def test_the_estimate_is_close_to_the_bill(sampler: QpuSampler, machine: BoltzmannMachine) -> None:
    estimate = sampler.estimate(request_of(machine, 40))
    assert estimate.access_time_us < CAP_US
    billed = sampler.sample(request_of(machine, 40)).provenance.qpu_access_time_us
    assert billed is not None
    assert 0.5 < billed / estimate.access_time_us < 1.5


def test_the_two_methods_of_calibration_agree(sampler: QpuSampler, machine: BoltzmannMachine) -> None:
    calibration = operations.calibrate(sampler.access, machine, request_of(machine, 2).conditions)
    assert 0.5 < calibration.beta < 50
    assert abs(calibration.beta_pseudolikelihood / calibration.beta - 1) < 0.25


@pytest.mark.parametrize(
    "options", [{}, {"gauges": 2}, {"condition_mode": "flux_bias"}], ids=["fold", "gauges", "flux"]
)
def test_refined_draws_have_the_energies_of_gibbs(
    sampler: QpuSampler, machine: BoltzmannMachine, options: dict[str, object]
) -> None:
    request = request_of(machine, 200, refine_sweeps=64, **options)
    energies = sampler.sample(request).energies
    gibbs = (
        GibbsSampler()
        .sample(LatentRequest(machine, request.conditions, request.streams, SamplerOptions(sweeps=512)))
        .energies
    )
    for level in (0, 1):
        mine, theirs = energies[level::2], gibbs[level::2]
        error = np.sqrt((mine.var() + theirs.var()) / len(mine))
        # Five standard errors: a false alarm in two million; a tenth of a standard deviation is left to the hardware.
        assert abs(mine.mean() - theirs.mean()) < 5 * error + 0.1 * theirs.std()
