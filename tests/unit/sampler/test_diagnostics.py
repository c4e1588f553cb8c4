"""Diagnostics against cases whose answer is known. Statistical bounds are at five standard errors or more (1e-6)."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from qshower.sampler.diagnostics import (
    AutocorrelationTime,
    Draw,
    agreement,
    autocorrelation_time,
    autocorrelation_times,
    calibrate_sweeps,
    chain_autocorrelation_times,
    figures_of,
)
from qshower.sampler.errors import InvalidInputError
from qshower.sampler.gibbs.chains import refine
from qshower.sampler.gibbs.gibbs_sampler import GibbsSampler
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.provenance import Provenance
from qshower.sampler.request import LatentBatch, LatentRequest, SamplerOptions
from qshower.sampler.tempering import TemperingSampler
from tests.conftest import ExactLaw, LawMaker, MachineMaker, SpinMaker


@pytest.fixture
def machine(rng: np.random.Generator, random_machine: MachineMaker) -> BoltzmannMachine:
    return random_machine(rng, free=12, condition=3, coupling=0.4)


def scaled(machine: BoltzmannMachine, beta: float) -> BoltzmannMachine:
    return machine.with_parameters(machine.h * np.float32(beta), machine.j * np.float32(beta))


def test_figures_are_energy_and_partition_means(
    machine: BoltzmannMachine, rng: np.random.Generator, random_spins: SpinMaker
) -> None:
    spins = random_spins(rng, (4, 15))
    figures = figures_of(machine, spins)
    assert list(figures) == ["energy", "magnetisation_1", "magnetisation_2", "magnetisation_3"]
    assert np.allclose(figures["magnetisation_2"], spins[:, machine.partitions == 2].mean(axis=1))


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_autocorrelation_time_of_an_autoregressive_series(rho: float, rng: np.random.Generator) -> None:
    steps = np.empty((64, 4096))
    steps[:, 0] = rng.normal(size=64)
    for t in range(1, 4096):
        steps[:, t] = rho * steps[:, t - 1] + math.sqrt(1 - rho**2) * rng.normal(size=64)
    expected = (1 + rho) / (1 - rho)
    # 64 * 4096 steps know tau to about 1 %, and the window cuts less than 1 % off.
    found = autocorrelation_time(steps + 7)
    assert found.steps == pytest.approx(expected, rel=0.08)
    # The formula's error against the spread of 16 independent parts of the chains, known to a fifth.
    parts = [autocorrelation_time(part) for part in np.split(steps, 16)]
    spread = np.std([part.steps for part in parts], ddof=1)
    assert 0.4 < spread / parts[0].error < 2.5
    assert found.error == pytest.approx(parts[0].error / 4, rel=0.4)


def test_a_series_too_short_for_its_memory_gives_a_lower_bound(rng: np.random.Generator) -> None:
    found = autocorrelation_time(np.cumsum(rng.normal(size=(50, 30)), axis=1))
    assert found.steps > 5
    assert found.error == math.inf


def test_autocorrelation_time_of_what_never_changes_is_infinite() -> None:
    assert autocorrelation_time(np.full((3, 20), 0.1)) == AutocorrelationTime(math.inf, math.inf)
    with pytest.raises(InvalidInputError, match="at least 8 steps"):
        autocorrelation_time(np.zeros((3, 7)))


def test_autocorrelation_times_of_independent_and_of_frozen_chains(
    machine: BoltzmannMachine, rng: np.random.Generator, random_spins: SpinMaker, enumerate_law: LawMaker
) -> None:
    level = random_spins(rng, (3,))
    law = enumerate_law(machine, level)
    start = law.draw(rng, 200)
    fresh = autocorrelation_times(machine, start, lambda spins, step: law.draw(rng, 200), steps=64)
    assert set(fresh) == set(figures_of(machine, start))
    assert all(tau.steps == pytest.approx(1.0, abs=0.2) for tau in fresh.values())
    every_third = autocorrelation_times(
        machine, start, lambda spins, step: spins if step % 3 else law.draw(rng, 200), steps=150
    )
    # Blocks of three equal steps: 1 + 2 (2/3 + 1/3) = 3.
    assert all(tau.steps == pytest.approx(3.0, abs=0.5) for tau in every_third.values())
    frozen = autocorrelation_times(machine, start, lambda spins, step: spins, steps=64)
    assert all(tau.steps >= 32 for tau in frozen.values())


def test_autocorrelation_time_of_gibbs_chains(
    machine: BoltzmannMachine, rng: np.random.Generator, random_spins: SpinMaker
) -> None:
    levels = np.unique(random_spins(rng, (16, 3)), axis=0)[:3]
    seen = []

    def recorded(
        machine: BoltzmannMachine, spins: NDArray[np.int8], sweeps: int, streams: NDArray[np.uint64]
    ) -> NDArray[np.int8]:
        seen.append(streams)
        assert sweeps == 1
        return refine(machine, spins, sweeps, streams)

    with GibbsSampler() as sampler:
        times = chain_autocorrelation_times(machine, levels, sampler.sample, recorded, sweeps=64, seed=5)
        free = machine.with_parameters(machine.h, machine.j * 0)
        independent = chain_autocorrelation_times(free, levels, sampler.sample, refine, sweeps=8, steps=128)
    assert set(times) == {"energy", "magnetisation_1", "magnetisation_2", "magnetisation_3"}
    assert all(1.0 <= tau.steps < 12.0 for tau in times.values())
    assert all(0.0 < tau.error < 0.2 * tau.steps for tau in times.values())
    # Without couplings a sweep forgets everything.
    assert all(tau.steps == pytest.approx(1.0, abs=0.1) for tau in independent.values())
    streams = np.concatenate(seen)
    assert len(np.unique(streams, axis=0)) == 256 * 96, "a stream was used twice"
    assert streams[:, 1].min() >= 96, "the start's streams were used again"


def test_agreement_measures_differences_in_standard_deviations(
    machine: BoltzmannMachine, rng: np.random.Generator, random_spins: SpinMaker, enumerate_law: LawMaker
) -> None:
    level = random_spins(rng, (3,))
    law, colder = enumerate_law(machine, level), enumerate_law(scaled(machine, 1.5), level)
    first, second = law.draw(rng, 20_000), law.draw(rng, 20_000)
    for found in agreement(machine, first, second).values():
        assert abs(found.difference) < 6 * found.error
        assert found.error == pytest.approx(0.01, rel=0.01)
        assert found.within(0.1)
    spread = math.sqrt(law.mean((law.energies - law.mean(law.energies)) ** 2))
    expected = (colder.mean(law.energies) - law.mean(law.energies)) / spread
    found = agreement(machine, colder.draw(rng, 20_000), first)["energy"]
    assert found.difference == pytest.approx(expected, rel=0.25)
    assert not found.within(0.1)


def test_agreement_wants_rows_of_the_same_conditions(
    machine: BoltzmannMachine, rng: np.random.Generator, random_spins: SpinMaker
) -> None:
    spins = random_spins(rng, (4, 15))
    other = spins.copy()
    other[2, machine.condition_nodes[0]] *= -1
    for warm in (other, spins[:3]):
        with pytest.raises(InvalidInputError, match="conditions of cold"):
            agreement(machine, spins, warm)
    same = agreement(machine, spins, spins)
    assert all(found == same["energy"] and found.within(1e-9) for found in same.values())


def slow_draw(law: ExactLaw, needed: int, rng: np.random.Generator) -> Draw:
    """A sampler that is right from ``needed`` sweeps on, and otherwise keeps some rows at one state."""

    def draw(request: LatentRequest) -> LatentBatch:
        sweeps = request.options.sweeps
        assert sweeps is not None
        spins = law.draw(rng, request.rows)
        stuck = rng.random(request.rows) < max(0.0, 1 - sweeps / needed)
        spins[stuck] = law.spins[law.energies.argmax()]
        return LatentBatch(spins, request.machine.energies(spins), Provenance("slow", sweeps=sweeps))

    return draw


def kept(
    machine: BoltzmannMachine, spins: NDArray[np.int8], sweeps: int, streams: NDArray[np.uint64]
) -> NDArray[np.int8]:
    """Sweeps that keep a law to perfection."""
    assert spins.shape[0] == streams.shape[0]
    return spins


def test_calibration_finds_where_a_slow_sampler_becomes_right(
    machine: BoltzmannMachine, rng: np.random.Generator, random_spins: SpinMaker, enumerate_law: LawMaker
) -> None:
    level = random_spins(rng, (1, 3))
    law = enumerate_law(machine, level[0])
    bands = [np.repeat(level, 2000, axis=0)] * 2
    right = slow_draw(law, 1, rng)
    seen = []
    found = calibrate_sweeps(
        machine, bands, slow_draw(law, 40, rng), right, kept, tolerance=0.2, progress=lambda *told: seen.append(told)
    )
    assert found.sweeps == 64
    assert seen == [(band, sweeps) for band in (0, 1) for sweeps in (8, 16, 32, 64, 128, 256, 512, 1024)]
    for band in (0, 1):
        assert not found.table[16][band]["energy"].within(0.2)
        assert found.table[64][band]["energy"].within(0.2)
    assert (found.rows, found.tolerance) == (4000, 0.2)
    # Nothing is known to be equilibrated when even the largest candidate differs ...
    assert calibrate_sweeps(machine, bands, slow_draw(law, 4000, rng), right, kept, tolerance=0.2).sweeps is None
    # ... as where draws of all lengths agree with one another, and not with another sampler.
    colder = slow_draw(enumerate_law(scaled(machine, 1.5), level[0]), 1, rng)
    wrong = calibrate_sweeps(machine, bands, colder, right, kept, tolerance=0.2)
    assert not any(band["energy"].within(0.2) for bands in wrong.table.values() for band in bands)
    assert wrong.sweeps is None


def tilted(law: ExactLaw, shift: float, rng: np.random.Generator) -> Draw:
    """A sampler at the temperature at which the mean energy is off by ``shift`` of the law's standard deviations."""
    energies = law.energies - law.mean(law.energies)
    spread = math.sqrt(law.mean(energies**2))

    def at(beta: float) -> ExactLaw:
        weights = law.probabilities * np.exp((1.0 - beta) * energies)
        return dataclasses.replace(law, probabilities=weights / weights.sum())

    low, high = 0.0, 20.0
    for _ in range(60):
        beta = (low + high) / 2
        low, high = (beta, high) if at(beta).mean(energies) > shift * spread else (low, beta)
    return slow_draw(at(low), 1, rng)


def test_opposite_errors_at_two_energies_do_not_make_up_for_one_another(
    machine: BoltzmannMachine, rng: np.random.Generator, random_spins: SpinMaker, enumerate_law: LawMaker
) -> None:
    """Wrong by +0.72 standard deviations in one band and by -0.72 in the other, at every length."""
    first = random_spins(rng, (3,))
    levels = np.stack([first, -first])
    laws = [enumerate_law(machine, level) for level in levels]

    def by_level(makers: list[Draw]) -> Draw:
        def draw(request: LatentRequest) -> LatentBatch:
            number = int((request.conditions[0] == levels[1]).all())
            return makers[number](request)

        return draw

    bands = [np.repeat(level[None], 2000, axis=0) for level in levels]
    wrong = by_level([tilted(law, shift, rng) for law, shift in zip(laws, (0.72, -0.72), strict=True)])
    right = by_level([slow_draw(law, 1, rng) for law in laws])
    found = calibrate_sweeps(machine, bands, wrong, right, kept, tolerance=0.2)
    assert found.sweeps is None
    for energies in ([band["energy"].difference for band in bands] for bands in found.table.values()):
        assert energies[0] > 0.4
        assert energies[1] < -0.4
        assert abs(np.mean(energies)) < 0.2, "errors cancel where bands are mixed"
    band, figure = found.worst(8)["energy"]
    assert abs(figure.difference) == max(abs(other["energy"].difference) for other in found.table[8])
    assert figure == found.table[8][band]["energy"]
    assert calibrate_sweeps(machine, bands, right, right, kept, tolerance=0.2).sweeps == 8


def test_warm_starts_are_advanced_by_as_many_sweeps(
    machine: BoltzmannMachine, rng: np.random.Generator, random_spins: SpinMaker, enumerate_law: LawMaker
) -> None:
    level = random_spins(rng, (1, 3))
    bands = [np.repeat(level, 2000, axis=0)]
    asked = []

    def recorded(
        machine: BoltzmannMachine, spins: NDArray[np.int8], sweeps: int, streams: NDArray[np.uint64]
    ) -> NDArray[np.int8]:
        asked.append(sweeps)
        return refine(machine, spins, sweeps, streams)

    # Cold draws and the warm starts' states share one wrong law; chains of the right one leave it.
    colder = slow_draw(enumerate_law(scaled(machine, 1.5), level[0]), 1, rng)
    found = calibrate_sweeps(machine, bands, colder, colder, recorded, tolerance=0.2, candidates=(8, 16, 64))
    assert asked == [8, 8, 48]
    assert found.sweeps is None
    assert not found.table[64][0]["energy"].within(0.2)
    assert calibrate_sweeps(machine, bands, colder, colder, kept, tolerance=0.2, candidates=(8, 16, 64)).sweeps == 8


def test_calibration_of_the_real_sampler_on_an_easy_machine(
    machine: BoltzmannMachine, rng: np.random.Generator, random_spins: SpinMaker
) -> None:
    with GibbsSampler() as sampler, TemperingSampler() as control:
        found = calibrate_sweeps(
            machine,
            [random_spins(rng, (2000, 3)) for _ in range(2)],
            sampler.sample,
            control.sample,
            refine,
            tolerance=0.2,
            candidates=(1, 64, 128),
        )
    # One sweep at beta = 1 from a random state is not enough, 64 are.
    assert found.sweeps == 64


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("tolerance", {"tolerance": 0.0}),
        ("tolerance", {"tolerance": math.nan}),
        ("bands", {"tolerance": 0.1}),
        ("bands", {"bands": []}),
        ("candidates", {"candidates": ()}),
        ("candidates", {"candidates": (0, 4)}),
    ],
)
def test_bad_calibration_arguments_are_refused(
    field: str, changes: dict[str, Any], machine: BoltzmannMachine, rng: np.random.Generator, random_spins: SpinMaker
) -> None:
    arguments: dict[str, Any] = {"tolerance": 0.5, "bands": [random_spins(rng, (400, 3))]} | changes
    bands = arguments.pop("bands")
    with GibbsSampler() as sampler, pytest.raises(InvalidInputError) as caught:
        calibrate_sweeps(machine, bands, sampler.sample, sampler.sample, refine, **arguments)
    assert caught.value.field == field


def test_every_band_needs_its_own_chains(
    machine: BoltzmannMachine, rng: np.random.Generator, random_spins: SpinMaker
) -> None:
    bands = [random_spins(rng, (rows, 3)) for rows in (320, 319)]
    with GibbsSampler() as sampler, pytest.raises(InvalidInputError, match="at least 320 rows each"):
        calibrate_sweeps(machine, bands, sampler.sample, sampler.sample, refine, tolerance=0.5)


def test_options_of_a_calibration_reach_the_sampler(
    machine: BoltzmannMachine, rng: np.random.Generator, random_spins: SpinMaker
) -> None:
    asked, seen = [], []

    def draw(request: LatentRequest) -> LatentBatch:
        asked.append(request)
        seen.append(request.streams)
        with GibbsSampler() as sampler:
            return sampler.sample(dataclasses.replace(request, options=SamplerOptions(sweeps=2)))

    def recorded(
        machine: BoltzmannMachine, spins: NDArray[np.int8], sweeps: int, streams: NDArray[np.uint64]
    ) -> NDArray[np.int8]:
        seen.append(streams)
        return refine(machine, spins, sweeps, streams)

    bands = [random_spins(rng, (rows, 3)) for rows in (100, 90)]
    calibrate_sweeps(machine, bands, draw, draw, recorded, tolerance=1.0, candidates=(3, 5), seed=4)
    assert [request.options.sweeps for request in asked] == [5, 3, 5, 5, 3, 5]
    streams = np.concatenate(seen)
    assert len(np.unique(streams, axis=0)) == 5 * 190
    assert (streams[:, 0] == 4).all()
