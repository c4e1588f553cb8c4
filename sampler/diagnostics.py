"""How good draws are: autocorrelation, and whether cold starts reach what warm ones do.

Autocorrelation in equilibrium is short even where a chain is stuck in one valley and never sees the others, so it says
nothing of burn-in. Burn-in is measured here by starting cold (a random state and a ramp) and warm (a state of another
sampler, which finds the weights of valleys in another way) and asking whether energy and magnetisations agree after the
same number of sweeps. A long ramp would be no warm start: ramps of all lengths may well agree on wrong weights of the
valleys that they froze into.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.errors import DefectError, InvalidInputError
from qshower.sampler.machine import PARTITION_COUNT, BoltzmannMachine
from qshower.sampler.request import LatentBatch, LatentRequest, SamplerOptions, streams_of

Draw = Callable[[LatentRequest], LatentBatch]
"""A sampler's ``sample``."""

Advance = Callable[[NDArray[np.int8], int], NDArray[np.int8]]
"""(states, step number) → the states one step (one sweep, usually) later."""

Refine = Callable[[BoltzmannMachine, NDArray[np.int8], int, NDArray[np.uint64]], NDArray[np.int8]]
"""``gibbs.chains.refine``: machine, states, sweeps, streams → the states so many sweeps later."""

ROWS_FOR_TOLERANCE = 80.0
"""Chains that each band of a calibration needs, times tolerance²: √(80 / 2) = 2 + 4.3 standard errors."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Difference of two samples in one figure, in standard deviations of that figure, with its standard error."""

    difference: float
    error: float

    def within(self, tolerance: float) -> bool:
        """Whether the difference is at most ``tolerance``, two standard errors of doubt included."""
        return abs(self.difference) + 2.0 * self.error <= tolerance


@dataclass(frozen=True, slots=True)
class SweepCalibration:
    """Outcome of ``calibrate_sweeps``.

    Attributes:
        sweeps: the least number of sweeps after which cold and warm starts agree in every band, None if none is.
        tolerance: in standard deviations, see ``Agreement``.
        rows: chains compared, of all bands together.
        table: for each number of sweeps tried and each band, the agreement of energy and of each partition's
            magnetisation.
    """

    sweeps: int | None
    tolerance: float
    rows: int
    table: dict[int, tuple[dict[str, Agreement], ...]]

    def worst(self, sweeps: int) -> dict[str, tuple[int, Agreement]]:
        """Of each figure after ``sweeps``: the band in which cold and warm starts differ most, and by how much."""
        bands = self.table[sweeps]
        found = {}
        for name in bands[0]:
            band = max(range(len(bands)), key=lambda number: abs(bands[number][name].difference))
            found[name] = (band, bands[band][name])
        return found


@dataclass(frozen=True, slots=True)
class AutocorrelationTime:
    """Integrated autocorrelation time in steps, and its standard error; ``inf`` where the series is too short for one.

    1 for independent steps.
    """

    steps: float
    error: float


def figures_of(machine: BoltzmannMachine, spins: NDArray[np.int8]) -> dict[str, NDArray[np.float64]]:
    """Energy in kT and mean spin of each free partition, (rows,) each, of states (rows, nodes)."""
    figures = {"energy": machine.energies(spins)}
    for partition in range(1, PARTITION_COUNT):
        nodes = machine.nodes_of(partition)
        if nodes.size:
            figures[f"magnetisation_{partition}"] = spins[:, nodes].mean(axis=1, dtype=np.float64)
    return figures


def autocorrelation_time(series: NDArray[np.float64]) -> AutocorrelationTime:
    """Integrated autocorrelation time τ = 1 + 2 Σ_t ρ(t), in steps, of chains (chains, steps) in equilibrium.

    ρ is averaged over the chains about their common mean; the sum ends at the first t = W ≥ 5 τ(t) (Sokal's window).
    The error is that of Madras and Sokal (1988), τ √((4 W + 2) / (chains · steps)); it is inf, and τ a lower bound,
    where no W is within the series. A series that never changes has τ = inf.

    Raises:
        InvalidInputError: fewer than 8 steps.
    """
    values = np.atleast_2d(np.asarray(series, dtype=np.float64))
    steps = values.shape[1]
    if steps < 8:
        raise DefectError("series", f"{steps} steps", "at least 8 steps")
    centred = values - values.mean()
    padded = np.fft.rfft(centred, n=2 * steps, axis=1)
    covariance = np.fft.irfft(np.abs(padded) ** 2, axis=1)[:, :steps].sum(axis=0) / np.arange(steps, 0, -1)
    if covariance[0] <= 1e-12 * max(1.0, float(np.abs(values).max()) ** 2):
        return AutocorrelationTime(math.inf, math.inf)
    tau = 2.0 * np.cumsum(covariance / covariance[0]) - 1.0
    inside = np.arange(steps) >= 5.0 * tau
    if not inside.any():
        return AutocorrelationTime(max(float(tau[-1]), 1.0), math.inf)
    window = int(np.argmax(inside))
    found = max(float(tau[window]), 1.0)
    return AutocorrelationTime(found, found * math.sqrt((4.0 * window + 2.0) / values.size))


def autocorrelation_times(
    machine: BoltzmannMachine, spins: NDArray[np.int8], advance: Advance, *, steps: int = 256
) -> dict[str, AutocorrelationTime]:
    """τ in steps of each figure of ``figures_of``, from chains that start in equilibrium at ``spins`` (rows, nodes).

    Chains of different conditions have different means, so each figure is taken relative to its chain's condition: the
    mean over chains of one condition if it has several, else over the chain's own steps.
    """
    recorded: dict[str, list[NDArray[np.float64]]] = {}
    for step in range(steps):
        spins = advance(spins, step)
        for name, values in figures_of(machine, spins).items():
            recorded.setdefault(name, []).append(values)
    _, level = np.unique(spins[:, machine.condition_nodes], axis=0, return_inverse=True)
    level = level.reshape(-1)
    counts = np.bincount(level)
    times = {}
    for name, columns in recorded.items():
        series = np.stack(columns, axis=1)
        means = np.bincount(level, series.mean(axis=1)) / counts
        times[name] = autocorrelation_time(series - means[level][:, None])
    return times


def chain_autocorrelation_times(
    machine: BoltzmannMachine,
    conditions: NDArray[np.int8],
    draw: Draw,
    refine: Refine,
    *,
    sweeps: int,
    chains: int = 32,
    steps: int = 256,
    seed: int = 0,
) -> dict[str, AutocorrelationTime]:
    """τ in sweeps of each figure of ``figures_of``, of Gibbs chains at some ``conditions`` (levels, width).

    Args:
        machine: the law.
        conditions: distinct ones, with ``chains`` chains each.
        draw: a sampler's ``sample``, which gives the start; it must be in equilibrium after ``sweeps``.
        refine: advances the chains, one sweep a step.
        sweeps: of the start.
        chains: at each condition.
        steps: sweeps recorded; τ must be well below.
        seed: streams (seed, i) are used for all of it.
    """
    level = np.repeat(conditions, chains, axis=0)
    rows = level.shape[0]

    def streams(step: int) -> NDArray[np.uint64]:
        return streams_of(seed, rows, rows * step)

    start = draw(LatentRequest(machine, level, streams(0), SamplerOptions(sweeps=sweeps))).spins
    return autocorrelation_times(
        machine, start, lambda spins, step: refine(machine, spins, 1, streams(step + 1)), steps=steps
    )


def agreement(machine: BoltzmannMachine, cold: NDArray[np.int8], warm: NDArray[np.int8]) -> dict[str, Agreement]:
    """Agreement of two independent samples (rows, nodes), row by row of one condition, in each of ``figures_of``.

    Raises:
        InvalidInputError: fewer than two rows, or rows of different conditions.
    """
    clamped = machine.condition_nodes
    if cold.shape != warm.shape or cold.shape[0] < 2 or not np.array_equal(cold[:, clamped], warm[:, clamped]):
        raise DefectError("warm", f"{warm.shape}", "at least 2 rows, of the conditions of cold")
    warm_figures = figures_of(machine, warm)
    result = {}
    for name, values in figures_of(machine, cold).items():
        gaps = values - warm_figures[name]
        spread = float(gaps.std(ddof=1))
        # Both samples spread alike, so that the difference of two rows has twice the variance of one.
        deviation = spread / math.sqrt(2.0)
        if deviation == 0.0:
            result[name] = Agreement(0.0 if gaps[0] == 0.0 else math.inf, 0.0)
        else:
            error = spread / math.sqrt(gaps.shape[0]) / deviation
            result[name] = Agreement(float(gaps.mean()) / deviation, error)
    return result


def calibrate_sweeps(
    machine: BoltzmannMachine,
    bands: Sequence[NDArray[np.int8]],
    draw: Draw,
    control: Draw,
    refine: Refine,
    *,
    tolerance: float = 0.1,
    candidates: Sequence[int] = (8, 16, 32, 64, 128, 256, 512, 1024),
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> SweepCalibration:
    """The least number of sweeps after which cold starts and warm ones agree, in each of some bands of conditions.

    Cold starts are draws of so many sweeps. Warm starts are states of ``control``, advanced by ``refine`` by as many. A
    number counts as enough if at it *and every larger candidate* both agree within ``tolerance`` in energy and in each
    partition's magnetisation, in every band by itself: opposite errors of two bands do not make up for one another. If
    they differ after the largest candidate, nothing is known to be equilibrated and ``sweeps`` is None (ramps fail
    there: see sampler.tempering).

    Args:
        machine: the law.
        bands: conditions (rows, width) of each band, one chain a row; at least ``ROWS_FOR_TOLERANCE`` / tolerance² rows
            each. Two standard errors of the difference, √(2 / rows) each, count against the tolerance, and figures that
            agree differ by 4.3 in 1.6e-5 of cases.
        draw: a sampler's ``sample`` that takes ``sweeps``.
        control: that of a sampler which finds the weights of valleys in another way; it gets the largest of
            ``candidates`` as its ``sweeps``.
        refine: the warm starts' sweeps.
        tolerance: in standard deviations of each figure at a fixed condition.
        candidates: numbers of sweeps tried, ascending.
        seed: streams (seed, i) are used for the draws.
        progress: called with band and candidate after each.

    Returns:
        The number of sweeps, None if none is enough, and the agreement of each number tried.

    Raises:
        InvalidInputError: a bad argument.
        SamplerError: what ``draw`` and ``control`` raise.
    """
    if not (math.isfinite(tolerance) and tolerance > 0):
        raise InvalidInputError("tolerance", tolerance, "a finite number above 0")
    least = math.ceil(ROWS_FOR_TOLERANCE / tolerance**2)
    sizes = [conditions.shape[0] for conditions in bands]
    if not sizes or min(sizes) < least:
        raise DefectError("bands", f"{sizes} rows", f"at least {least} rows each for a tolerance of {tolerance}")
    ascending = sorted(set(candidates))
    if not ascending or ascending[0] < 1:
        raise InvalidInputError("candidates", list(candidates), "numbers from 1")
    numbers = itertools.count()

    def streams(rows: int) -> NDArray[np.uint64]:
        return streams_of(seed, rows, max(sizes) * next(numbers))

    def drawn(sample: Draw, conditions: NDArray[np.int8], sweeps: int) -> NDArray[np.int8]:
        options = SamplerOptions(sweeps=sweeps)
        return sample(LatentRequest(machine, conditions, streams(conditions.shape[0]), options)).spins

    table: dict[int, list[dict[str, Agreement]]] = {sweeps: [] for sweeps in ascending}
    for band, conditions in enumerate(bands):
        warm, swept = drawn(control, conditions, ascending[-1]), 0
        for sweeps in ascending:
            # The same chains go on from candidate to candidate: each is compared with cold draws of its own.
            warm, swept = refine(machine, warm, sweeps - swept, streams(conditions.shape[0])), sweeps
            table[sweeps].append(agreement(machine, drawn(draw, conditions, sweeps), warm))
            if progress is not None:
                progress(band, sweeps)
    enough = None
    for sweeps in reversed(ascending):
        if not all(figure.within(tolerance) for figures in table[sweeps] for figure in figures.values()):
            break
        enough = sweeps
    return SweepCalibration(enough, tolerance, sum(sizes), {sweeps: tuple(found) for sweeps, found in table.items()})
