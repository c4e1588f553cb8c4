"""A verdict within seconds: how well can gradient boosting on the high-level features tell two sets of showers apart?

The report's neural classifiers are the challenge's own measure.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

from qshower.sampler.cores import usable_cores
from qshower.sampler.errors import InvalidInputError

LEAST_SHOWERS = 20
FEW_BINS = 63
"""Bins of a feature in a cross-validation: a third of the time that 255 take, for the same AUC within its error."""


@dataclass(frozen=True, slots=True)
class BoostedAuc:
    """Area under the ROC curve on rows the classifier has not seen: 0.5 cannot tell, 1 always can.

    Attributes:
        auc: the area.
        error: its standard error (Hanley and McNeil, 1982).
        train_rows: rows of each class the classifier learned from.
        test_rows: rows of each class it was tested on.
    """

    auc: float
    error: float
    train_rows: int
    test_rows: int


def two_sample_auc(
    reference: NDArray[np.floating],
    sample: NDArray[np.floating],
    *,
    seed: int = 0,
    iterations: int = 100,
) -> BoostedAuc:
    """AUC of gradient boosting between two sets of feature vectors, (N, D) and (M, D)."""
    count = min(len(reference), len(sample))
    if count < LEAST_SHOWERS:
        raise InvalidInputError("showers", count, f"at least {LEAST_SHOWERS} in each set")
    rng = np.random.default_rng(seed)
    test = round(count / 2)
    sets = [rows[rng.permutation(len(rows))[:count]] for rows in (reference, sample)]
    labels = [1, 0]
    model = _classifier(iterations, seed)
    train = np.concatenate([rows[test:] for rows in sets])
    model.fit(train, np.repeat(labels, count - test))
    scores = model.predict_proba(np.concatenate([rows[:test] for rows in sets]))[:, 1]
    auc = float(roc_auc_score(np.repeat(labels, test), scores))
    return BoostedAuc(auc=auc, error=auc_error(auc, test, test), train_rows=count - test, test_rows=test)


@dataclass(frozen=True, slots=True, eq=False)
class PairedScores:
    """Classifier scores of rows that it has not seen: (N,) of the reference and of the sample, row by row a pair."""

    reference: NDArray[np.float64]
    sample: NDArray[np.float64]

    def auc(self, counts: NDArray[np.int64] | None = None) -> float:
        """Area under the ROC curve, each pair taken ``counts`` times (once if None)."""
        labels = np.repeat([1, 0], len(self.reference))
        weights = None if counts is None else np.tile(counts, 2)
        return float(roc_auc_score(labels, np.concatenate([self.reference, self.sample]), sample_weight=weights))


def paired_scores(
    reference: NDArray[np.floating],
    sample: NDArray[np.floating],
    *,
    folds: int = 5,
    seed: int = 0,
    iterations: int = 100,
) -> PairedScores:
    """Scores by gradient boosting of feature vectors (N, D) of each set, in ``folds`` parts.

    Row i of both sets must belong to one incident energy. A pair is in one part: a classifier that learned from one of
    a pair would know the energy of the other, and score two samples of one law below 0.5.
    """
    count = len(reference)
    if len(sample) != count or count < folds * LEAST_SHOWERS:
        raise InvalidInputError("showers", (count, len(sample)), f"as many in each, at least {folds * LEAST_SHOWERS}")
    part = np.random.default_rng(seed).permutation(count) % folds
    scores = np.empty((2, count))

    def score(fold: int) -> None:
        learn, test = part != fold, part == fold
        model = _classifier(iterations, seed, FEW_BINS)
        # One thread for each fit: OpenMP's threads wait busily for each other, which other work on the cores drags out.
        with threadpool_limits(1, user_api="openmp"):
            model.fit(np.concatenate([reference[learn], sample[learn]]), np.repeat([1, 0], int(learn.sum())))
            for index, rows in enumerate((reference, sample)):
                scores[index, test] = model.predict_proba(rows[test])[:, 1]

    with ThreadPoolExecutor(usable_cores()) as pool:
        list(pool.map(score, range(folds)))
    return PairedScores(scores[0], scores[1])


def _classifier(iterations: int, seed: int, bins: int = 255) -> HistGradientBoostingClassifier:
    return HistGradientBoostingClassifier(
        max_iter=iterations,
        max_bins=bins,
        learning_rate=0.08,
        max_leaf_nodes=31,
        l2_regularization=1.0,
        random_state=seed,
    )


def auc_error(auc: float, positives: int, negatives: int) -> float:
    """Standard error of an AUC measured on independent rows (Hanley and McNeil, 1982)."""
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (positives - 1) * (q1 - auc**2) + (negatives - 1) * (q2 - auc**2)
    return float(np.sqrt(max(variance, 0.0) / (positives * negatives)))
