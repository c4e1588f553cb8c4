"""Flux-bias shims against planted offsets, and gauges against planted control errors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sampler.emulator.config import EmulatorConfig
from sampler.emulator.server import EmulatorServer
from sampler.gibbs.sampler import GibbsSampler
from sampler.lattice import compact_lattice
from sampler.machine import BoltzmannMachine
from sampler.qpu.sampler import QpuSampler
from sampler.qpu.settings import QpuSettings
from sampler.request import LatentRequest, SamplerOptions

ROWS = 3000


@pytest.fixture(scope="module")
def machine() -> BoltzmannMachine:
    rng = np.random.default_rng(5)
    lattice = compact_lattice("zephyr", 16, chip_size=3)
    return lattice.with_parameters(rng.normal(0, 0.1, lattice.node_count), rng.normal(0, 0.1, len(lattice.edges)))


@pytest.fixture
def sampler(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[QpuSampler]:
    config = EmulatorConfig(topology="zephyr:3", defects=0.0, beta=4.0, seed=3, sweeps=64, **request.param)
    with EmulatorServer(config) as server:
        settings = QpuSettings(endpoint=server.endpoint, token="any", state_dir=tmp_path)
        with QpuSampler(settings) as built:
            yield built


def request_of(machine: BoltzmannMachine, **options: object) -> LatentRequest:
    conditions = np.ones((ROWS, machine.condition_nodes.size), dtype=np.int8)
    streams = np.stack([np.zeros(ROWS), np.arange(ROWS)], axis=1).astype(np.uint64)
    return LatentRequest(machine, conditions, streams, SamplerOptions(**options), 120.0)  # type: ignore[arg-type]


def magnetisation_error(machine: BoltzmannMachine, sampler: QpuSampler, **options: object) -> float:
    """Root mean square error of an unrefined draw's magnetisations, sampling noise taken off."""
    drawn = sampler.sample(request_of(machine, refine_sweeps=0, **options)).spins[:, machine.free_nodes]
    exact = GibbsSampler().sample(request_of(machine, sweeps=128)).spins[:, machine.free_nodes]
    noise = (drawn.var(axis=0) + exact.var(axis=0)) / ROWS
    return float(np.sqrt(max(0.0, float(((drawn.mean(axis=0) - exact.mean(axis=0)) ** 2 - noise).mean()))))


def correlation_error(machine: BoltzmannMachine, sampler: QpuSampler) -> float:
    """Root mean square error of an unrefined draw's correlations between coupled free spins, noise taken off."""
    drawn = sampler.sample(request_of(machine, refine_sweeps=0)).spins
    exact = GibbsSampler().sample(request_of(machine, sweeps=128)).spins
    pairs = machine.edges[(machine.partitions[machine.edges] != 0).all(axis=1)]
    products = [states[:, pairs[:, 0]].astype(np.float64) * states[:, pairs[:, 1]] for states in (drawn, exact)]
    noise = sum(some.var(axis=0) for some in products) / ROWS
    difference = products[0].mean(axis=0) - products[1].mean(axis=0)
    return float(np.sqrt(max(0.0, float((difference**2 - noise).mean()))))


@pytest.mark.parametrize("sampler", [{"flux_offset_phi0": 6e-5}], indirect=True)
def test_a_shim_removes_planted_flux_offsets(sampler: QpuSampler, machine: BoltzmannMachine) -> None:
    before = magnetisation_error(machine, sampler)
    shim = sampler.shim(machine, reads=4000)
    assert shim.offset_before_kt > 0.3
    assert shim.offset_after_kt < 0.15 * shim.offset_before_kt
    sampler.calibrate(machine, request_of(machine).conditions[:1])
    after = magnetisation_error(machine, sampler)
    assert before > 0.15
    assert after < 0.3 * before
    for options in ({"gauges": 2}, {"condition_mode": "flux_bias"}):
        provenance = sampler.sample(request_of(machine, **options)).provenance
        assert any("shim" in note for note in provenance.notes)


@pytest.mark.parametrize("sampler", [{"control_error_j": 0.04, "systematic_share": 1.0}], indirect=True)
def test_a_coupler_shim_removes_planted_offsets(sampler: QpuSampler, machine: BoltzmannMachine) -> None:
    before = correlation_error(machine, sampler)
    shim = sampler.shim(machine, reads=3000, couplers=True)
    assert shim.couplers is not None
    assert shim.couplers.beta == pytest.approx(4.0, rel=0.03)
    assert shim.couplers.before == pytest.approx(0.04, rel=0.1)
    assert shim.couplers.after < 0.15 * shim.couplers.before
    sampler.calibrate(machine, request_of(machine).conditions[:1])
    after = correlation_error(machine, sampler)
    # Offsets of 0.04 at a beta of 4 are 0.16 kT, and so are the errors of correlations.
    assert before > 0.1
    assert after < 0.3 * before
    provenance = sampler.sample(request_of(machine, gauges=2)).provenance
    assert any("coupler shim" in note for note in provenance.notes)


@pytest.mark.parametrize("sampler", [{"control_error_h": 0.05, "systematic_share": 1.0}], indirect=True)
def test_gauges_average_systematic_errors_away(sampler: QpuSampler, machine: BoltzmannMachine) -> None:
    sampler.calibrate(machine, request_of(machine).conditions[:1], SamplerOptions(gauges=1))
    one, many = (magnetisation_error(machine, sampler, gauges=gauges) for gauges in (1, 24))
    assert one > 0.08
    assert many < 0.5 * one
