"""Fréchet and kernel physics distances between two sets of feature vectors.

Features are divided, column by column, by the largest absolute value of the reference.

FPD. For a number n of rows, draw n rows with replacement from each set, and take the Fréchet distance of the Gaussians
with their means and covariances::

    d(n) = |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))

averaged over the draws. d(n) is fitted by a straight line in 1/n with intercept and slope not below 0; the intercept is
the FPD and its fitted error the error.

KPD. The median, over batches drawn with replacement, of the unbiased squared maximum mean discrepancy of the quartic
kernel k(x, y) = (x.y/D + 1)^4; its error is half the range between the 16.275 and 83.725 percentiles of the batches.

Both keep a positive floor at small N (equal laws do not give 0), so a value means nothing without the floor at its N.
Source: arXiv:2211.10295, and the settings of arXiv:2410.21611. Drawing rows with replacement is done by weighting rows,
which gives the same sums for less work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import svdvals
from scipy.linalg.blas import dsyrk
from scipy.optimize import curve_fit
from threadpoolctl import threadpool_limits

from qshower.sampler.cores import usable_cores
from qshower.sampler.errors import DefectError

Matrix = NDArray[np.float64]
Counts = NDArray[np.int64]
Drawn = tuple[NDArray[np.floating], Matrix]
Progress = Callable[[float], None]

KERNEL_DEGREE = 4
KERNEL_BLOCK_ROWS = 2048
SINGLE_PRECISION_LIMIT = 1e4
"""Of a normalised feature: (x·y/D)⁴ stays below the largest float32."""
KPD_PERCENTILES = (16.275, 83.725)


@dataclass(frozen=True, slots=True)
class FpdSettings:
    """Row counts and repetitions of an FPD; ``published`` is the challenge's setting, ``research`` the older code's."""

    min_samples: int = 10_000
    max_samples: int = 50_000
    repeats: int = 20
    points: int = 10
    seed: int = 42

    def fitted_to(self, count: int) -> FpdSettings:
        """These settings, or for fewer rows than ``min_samples`` the same span of sizes starting at ``count``."""
        if count >= self.min_samples:
            return self
        span = self.max_samples / self.min_samples
        return replace(self, min_samples=count, max_samples=max(count + 1, round(count * span)))


@dataclass(frozen=True, slots=True)
class KpdSettings:
    """Batches of a KPD."""

    batch_size: int = 10_000
    batches: int = 10
    seed: int = 42

    def fitted_to(self, count: int) -> KpdSettings:
        """These settings, with batches no larger than the number of rows."""
        return self if count >= self.batch_size else replace(self, batch_size=count)


PUBLISHED_FPD, RESEARCH_FPD = FpdSettings(), FpdSettings(min_samples=20_000)
PUBLISHED_KPD, RESEARCH_KPD = KpdSettings(), KpdSettings(batch_size=5_000)


@dataclass(frozen=True, slots=True)
class Distance:
    """A distance and its error, with the number of rows of the smaller set."""

    value: float
    error: float
    count: int


def fpd(
    reference: Matrix,
    sample: Matrix,
    settings: FpdSettings = PUBLISHED_FPD,
    *,
    progress: Progress | None = None,
) -> Distance:
    """Fréchet physics distance of (N, D) reference and (M, D) sample rows (module's law).

    Raises:
        InvalidInputError: fewer than 2 rows, different widths, or values that are not finite.
    """
    x, y = _normalised(reference, sample)
    sizes = (1 / np.linspace(1 / settings.min_samples, 1 / settings.max_samples, settings.points)).astype(np.int64)
    rng = np.random.default_rng(settings.seed)
    means: list[float] = []

    def value_of(draw: tuple[Counts, Counts]) -> float:
        return _frechet(*_mean_and_root(x, draw[0]), *_mean_and_root(y, draw[1]))

    with _workers() as pool:
        for step, size in enumerate(sizes):
            draws = [(_draw(rng, len(x), size), _draw(rng, len(y), size)) for _ in range(settings.repeats)]
            means.append(float(np.mean(list(pool.map(value_of, draws)))))
            if progress is not None:
                progress((step + 1) / len(sizes))
    parameters, covariance = curve_fit(_line, 1 / sizes, means, bounds=([0, 0], [np.inf, np.inf]))
    error = float(np.sqrt(covariance[0, 0]))
    return Distance(float(parameters[0]), error, min(len(x), len(y)))


def frechet_distance(mean1: Matrix, covariance1: Matrix, mean2: Matrix, covariance2: Matrix) -> float:
    """|m1 - m2|² + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of two Gaussians; covariances may be singular."""
    return _frechet(mean1, _root(covariance1), mean2, _root(covariance2))


def kpd(
    reference: Matrix,
    sample: Matrix,
    settings: KpdSettings = PUBLISHED_KPD,
    *,
    progress: Progress | None = None,
) -> Distance:
    """Kernel physics distance of (N, D) reference and (M, D) sample rows (module's law).

    Raises:
        InvalidInputError: fewer than 2 rows, different widths, or values that are not finite.
    """
    # Single precision is enough for the products: their rounding errors average out over the pairs, and the sums are
    # kept in double precision. Samples far beyond the reference would overflow it.
    pair = _normalised(reference, sample)
    x: NDArray[np.floating] = pair[0]
    y: NDArray[np.floating] = pair[1]
    if max(float(np.abs(rows).max()) for rows in pair) <= SINGLE_PRECISION_LIMIT:
        x, y = (rows.astype(np.float32) for rows in pair)

    def value_of(batch: int) -> float:
        rng = np.random.default_rng(settings.seed + batch * 1000)
        first = _drawn(x, _draw(rng, len(x), settings.batch_size))
        second = _drawn(y, _draw(rng, len(y), settings.batch_size))
        return _unbiased_mmd(first, second, settings.batch_size)

    values: list[float] = []
    with _workers() as pool:
        for value in pool.map(value_of, range(settings.batches)):
            values.append(value)
            if progress is not None:
                progress(len(values) / settings.batches)
    low, high = np.percentile(values, KPD_PERCENTILES)
    return Distance(float(np.median(values)), float(high - low) / 2, min(len(x), len(y)))


def _line(x: Matrix, intercept: float, slope: float) -> Matrix:
    line: Matrix = intercept + slope * x
    return line


def _normalised(reference: Matrix, sample: Matrix) -> tuple[Matrix, Matrix]:
    for name, rows in (("reference", reference), ("sample", sample)):
        if rows.ndim != 2 or len(rows) < 2 or rows.shape[1] != reference.shape[1]:
            raise DefectError(name, f"shape {rows.shape}", "two or more rows of equal width")
        if not np.isfinite(rows).all():
            raise DefectError(name, "a feature that is not finite", "finite features")
    scale = np.abs(reference).max(axis=0)
    scale[scale == 0] = 1
    return reference / scale, sample / scale


def _frechet(mean1: Matrix, root1: Matrix, mean2: Matrix, root2: Matrix) -> float:
    """The distance by any factors R1 R1ᵀ = C1 and R2 R2ᵀ = C2: tr (C1 C2)^(1/2) is Σ of R1ᵀR2's singular values."""
    difference = mean1 - mean2
    overlap = svdvals(root1.T @ root2, overwrite_a=True, check_finite=False).sum()
    return float(difference @ difference + np.sum(root1**2) + np.sum(root2**2) - 2 * overlap)


def _mean_and_root(rows: Matrix, counts: Counts) -> tuple[Matrix, Matrix]:
    """Mean of the rows, each taken ``counts`` times, and a factor R with R Rᵀ their covariance."""
    present = counts > 0
    kept, weights = rows[present], counts[present].astype(np.float64)
    total = weights.sum()
    mean = weights @ kept / total
    centred = (kept - mean) * np.sqrt(weights)[:, None]
    if len(centred) <= centred.shape[1]:
        # Fewer rows than features: the rows are the smaller factor, and nothing has to be decomposed.
        return mean, centred.T / np.sqrt(total - 1)
    lower: Matrix = dsyrk(1.0 / (total - 1), centred.T, lower=1)
    return mean, _root(lower + np.tril(lower, -1).T)


def _root(covariance: Matrix) -> Matrix:
    """A factor R with R Rᵀ = C, also for a covariance without full rank."""
    try:
        return np.asarray(np.linalg.cholesky(covariance), dtype=np.float64)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(covariance)
        return np.asarray(vectors * np.sqrt(np.clip(values, 0.0, None)), dtype=np.float64)


def _draw(rng: np.random.Generator, rows: int, size: int) -> Counts:
    """(rows,) how often each row is drawn in ``size`` draws with replacement."""
    return np.bincount(rng.choice(rows, size=size), minlength=rows)


@contextmanager
def _workers() -> Iterator[ThreadPoolExecutor]:
    """One single-threaded worker per processor.

    Draws are independent, so this scales better than threads inside each small product, does not wait for descheduled
    helpers on a busy machine, and keeps every sum's order, hence the result to the bit, whatever the number of workers.
    """
    with threadpool_limits(1), ThreadPoolExecutor(usable_cores()) as pool:
        yield pool


def _drawn(rows: NDArray[np.floating], counts: Counts) -> Drawn:
    """The distinct rows among those drawn, and how often each was."""
    present = counts > 0
    return rows[present], counts[present].astype(np.float64)


def _unbiased_mmd(first: Drawn, second: Drawn, size: int) -> float:
    pairs = size * (size - 1)
    within = (_kernel_sum(first, first) - _diagonal_sum(first)) / pairs
    within += (_kernel_sum(second, second) - _diagonal_sum(second)) / pairs
    return within - 2 * _kernel_sum(first, second) / size**2


def _diagonal_sum(drawn: Drawn) -> float:
    rows, weights = drawn
    return float(weights @ (np.einsum("ij,ij->i", rows, rows) / rows.shape[1] + 1.0) ** KERNEL_DEGREE)


def _kernel_sum(first: Drawn, second: Drawn) -> float:
    """Σ_ij w_i v_j k(x_i, y_j), in blocks; where both sets are one, each block pair off the diagonal is done once."""
    (x, x_weights), (y, y_weights) = first, second
    same = x is y
    total = 0.0
    for start in range(0, len(x), KERNEL_BLOCK_ROWS):
        rows = slice(start, start + KERNEL_BLOCK_ROWS)
        for other in range(start if same else 0, len(y), KERNEL_BLOCK_ROWS):
            columns = slice(other, other + KERNEL_BLOCK_ROWS)
            block = x[rows] @ y[columns].T
            block /= x.shape[1]
            block += 1.0
            np.square(block, out=block)
            np.square(block, out=block)
            part = float(x_weights[rows] @ block @ y_weights[columns])
            total += 2 * part if same and other != start else part
    return total
