"""Checks that compare draws with an exact law; ``tests/judge.py`` turns their p-values into verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import special, stats

from tests.conftest import ExactLaw

LEAST_EXPECTED = 20.0


def g_test(counts: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    """P-value of the G-test with Williams' correction; cells that expect too little are pooled."""
    total = int(counts.sum())
    if counts[probabilities == 0.0].any():
        return 0.0
    counts, probabilities = counts[probabilities > 0.0], probabilities[probabilities > 0.0]
    order = np.argsort(probabilities)
    counts, expected = counts[order], probabilities[order] * total
    rare = expected < LEAST_EXPECTED
    pooled = expected[rare].sum()
    if pooled > 0:
        # What is pooled must itself expect enough, so the pool takes common cells in until it does.
        first = int(rare.sum())
        while pooled < LEAST_EXPECTED and first < expected.shape[0]:
            pooled, first = pooled + expected[first], first + 1
        counts = np.concatenate([[counts[:first].sum()], counts[first:]])
        expected = np.concatenate([[pooled], expected[first:]])
    cells = expected.shape[0]
    if cells < 2:
        return 1.0
    seen = counts > 0
    statistic = 2.0 * float((counts[seen] * np.log(counts[seen] / expected[seen])).sum())
    correction = 1.0 + ((total / expected).sum() - 1.0) / (6.0 * total * (cells - 1))
    return float(stats.chi2.sf(max(statistic, 0.0) / correction, cells - 1))


def binomial_tests(ups: NDArray[np.int64], total: int, chances: NDArray[np.float64]) -> float:
    """Smallest two-sided exact binomial p-value of counts ``ups`` out of ``total``, times the number of counts."""
    if ups.size == 0:
        return 1.0
    chances = np.clip(chances, 0.0, 1.0)
    below, above = stats.binom.cdf(ups, total, chances), stats.binom.sf(ups - 1, total, chances)
    return float(min(1.0, 2.0 * np.minimum(below, above).min() * ups.size))


def mean_test(values: NDArray[np.floating], mean: float, deviation: float | None = None) -> float:
    """Two-sided p-value of the mean of independent ``values``; their own spread is used if ``deviation`` is None."""
    count = values.shape[0]
    if deviation is None:
        score = (values.mean() - mean) / (values.std(ddof=1) / np.sqrt(count))
        return float(2.0 * stats.t.sf(abs(score), count - 1))
    return float(2.0 * stats.norm.sf(abs(values.mean() - mean) / (deviation / np.sqrt(count))))


def coincidence_test(counts: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    """P-value of how many rare states came twice or more: rows that are copies of others meet there.

    The tails of this sum of negatively associated indicators are below those of a Poisson law of the same mean.
    """
    total = int(counts.sum())
    rare = probabilities * total < 1.0
    p = probabilities[rare]
    mean = float((1.0 - (1.0 - p) ** total - total * p * (1.0 - p) ** (total - 1)).sum())
    seen = int((counts[rare] >= 2).sum())
    return float(min(1.0, 2.0 * min(stats.poisson.cdf(seen, mean), stats.poisson.sf(seen - 1, mean))))


def exact_checks(
    laws: Mapping[bytes, ExactLaw], spins: NDArray[np.int8], conditions: NDArray[np.int8]
) -> dict[str, float]:
    """P-values of all that is known of draws from enumerated laws.

    ``laws`` maps the bytes of a condition to its ExactLaw; ``spins`` (rows, nodes) were drawn for ``conditions`` (rows,
    condition nodes). Rows must be independent.
    """
    found: dict[str, float] = {}
    pooled: dict[str, list[NDArray[np.float64]]] = {"mean energy": [], "mean magnetisation": []}
    keys = np.array([row.tobytes() for row in conditions], dtype=object)
    for number, (key, law) in enumerate(laws.items()):
        drawn = spins[keys == key]
        total = drawn.shape[0]
        index = law.index_of(drawn)
        states = law.probabilities.shape[0]
        counts = np.bincount(index, minlength=states)
        found[f"states {number}"] = g_test(counts, law.probabilities)
        found[f"coincidences {number}"] = coincidence_test(counts, law.probabilities)
        ordered = np.argsort(law.energies, kind="stable")
        position = np.minimum((np.cumsum(law.probabilities[ordered]) * 30).astype(int), 29)
        cell = np.empty(states, dtype=np.int64)
        cell[ordered] = position
        found[f"energies {number}"] = g_test(
            np.bincount(cell[index], minlength=30),
            # numpy's stubs have counts come as integers even where they are sums of weights.
            cast("NDArray[np.float64]", np.bincount(cell, law.probabilities, minlength=30)),
        )
        up = (law.spins[:, law.free] > 0).astype(np.float32)
        drawn_up = (drawn[:, law.free] > 0).astype(np.int64)
        found[f"magnetisations {number}"] = binomial_tests(drawn_up.sum(axis=0), total, law.probabilities @ up)
        one, other = np.triu_indices(law.free.shape[0], 1)
        weighted = up * law.probabilities[:, None]
        both = (weighted.T @ up).astype(np.float64)
        single = law.probabilities @ up
        agree = 1.0 - single[one] - single[other] + 2.0 * both[one, other]
        same = (drawn_up[:, one] == drawn_up[:, other]).sum(axis=0)
        found[f"two-point functions {number}"] = binomial_tests(same, total, agree)
        total_spin = law.spins[:, law.free].sum(axis=1, dtype=np.float64)
        for name, values in (("mean energy", law.energies), ("mean magnetisation", total_spin)):
            mean = law.probabilities @ values
            deviation = np.sqrt(law.probabilities @ (values - mean) ** 2)
            if deviation > 1e-9:
                pooled[name].append((values[index] - mean) / deviation)
    for name, scores in pooled.items():
        if scores:
            found[name] = mean_test(np.concatenate(scores), 0.0, 1.0)
    return found


def ramped(law: ExactLaw, sweeps: int) -> NDArray[np.float64]:
    """(states,) exact chances after a ramp and hold from fair coins, one free spin after the other."""
    rising = int(0.75 * sweeps)
    betas = np.concatenate([np.linspace(0.05, 1.0, rising), np.ones(sweeps - rising)])
    chances = np.full(law.energies.shape[0], 1.0 / law.energies.shape[0])
    gaps = []
    for bit in range(law.free.shape[0]):
        pairs = law.energies.reshape(-1, 2, 1 << bit)
        gaps.append(pairs[:, 1] - pairs[:, 0])
    for beta in betas:
        for bit, gap in enumerate(gaps):
            pairs = chances.reshape(-1, 2, 1 << bit)
            both, up = pairs[:, 0] + pairs[:, 1], special.expit(-beta * gap)
            pairs[:, 1], pairs[:, 0] = both * up, both * (1.0 - up)
    return chances


def sweeps_for(laws: Iterable[ExactLaw], rows: int) -> int:
    """Sweeps after which a ramp is so near to each of ``laws`` that ``rows`` draws of one could not tell.

    A few strong couplings make valleys that a given number of sweeps does not leave; how many it takes is worked out
    here, without the code under test, so that no seed makes a machine that a correct sampler fails on.
    """
    for sweeps in (128, 512, 2048):
        if all(2.0 * rows * special.kl_div(ramped(law, sweeps), law.probabilities).sum() < 0.1 for law in laws):
            return sweeps
    return 8192


@dataclass(frozen=True, slots=True)
class Checks:
    """The checks above, for tests to call."""

    g_test = staticmethod(g_test)
    binomial_tests = staticmethod(binomial_tests)
    mean_test = staticmethod(mean_test)
    exact = staticmethod(exact_checks)
    sweeps_for = staticmethod(sweeps_for)


@pytest.fixture(scope="session")
def checks() -> Checks:
    """The checks, each of which returns p-values."""
    return Checks()
