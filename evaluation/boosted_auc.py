"""A verdict within seconds: how well can gradient boosting on the high-level features tell two sets of showers apart?

The report's neural classifiers are the challenge's own measure.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

from qshower.sampler.errors import InvalidInputError

LEAST_SHOWERS = 20


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
    test_share: float = 0.5,
    iterations: int = 100,
) -> BoostedAuc:
    """AUC of gradient boosting between two sets of feature vectors, (N, D) and (M, D)."""
    count = min(len(reference), len(sample))
    if count < LEAST_SHOWERS:
        raise InvalidInputError("showers", count, f"at least {LEAST_SHOWERS} in each set")
    if not 0 < test_share < 1:
        raise InvalidInputError("test_share", test_share, "a number between 0 and 1")
    rng = np.random.default_rng(seed)
    test = max(1, round(count * test_share))
    sets = [rows[rng.permutation(len(rows))[:count]] for rows in (reference, sample)]
    labels = [1, 0]
    model = HistGradientBoostingClassifier(
        max_iter=iterations, learning_rate=0.08, max_leaf_nodes=31, l2_regularization=1.0, random_state=seed
    )
    train = np.concatenate([rows[test:] for rows in sets])
    model.fit(train, np.repeat(labels, count - test))
    scores = model.predict_proba(np.concatenate([rows[:test] for rows in sets]))[:, 1]
    auc = float(roc_auc_score(np.repeat(labels, test), scores))
    return BoostedAuc(auc=auc, error=auc_error(auc, test, test), train_rows=count - test, test_rows=test)


def auc_error(auc: float, positives: int, negatives: int) -> float:
    """Standard error of an AUC measured on independent rows (Hanley and McNeil, 1982)."""
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (positives - 1) * (q1 - auc**2) + (negatives - 1) * (q2 - auc**2)
    return float(np.sqrt(max(variance, 0.0) / (positives * negatives)))
