"""Which submission is Geant4 closest to? One classifier of several submissions at once.

A network is trained to name the submission a shower comes from; it never sees the reference in training. On the
reference's showers x it then gives log p(k | x) for each submission k; the mean over showers is the submission's score,
higher is better, and a uniform guess scores -ln(number of submissions). Inputs are log10 E_inc and 100 E_voxel / E_inc;
two hidden layers of 2048, cross entropy, Adam, 50 epochs. Source: the CaloChallenge's workshop of May 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qshower.evaluation.classifiers import (
    LEAST_ROWS,
    PUBLISHED_CLASSIFIER,
    ClassifierSettings,
    inputs_of,
)
from qshower.evaluation.network_training import Objective, Progress, Split, predict, share_of, split_bounds, trained
from qshower.evaluation.networks import dense_network
from qshower.evaluation.shower_set import ShowerSet
from qshower.sampler.errors import InvalidInputError

HIDDEN_LAYERS = 2
HISTOGRAM_LIMIT = -12.0
HISTOGRAM_BINS = 48

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class MulticlassResult:
    """Scores of K submissions.

    Attributes:
        names: (K,) of the submissions.
        scores: (K,) mean log-posterior of each submission on the reference's showers, mean over trainings.
        errors: (K,) standard errors over showers, or the spread over trainings where that is larger.
        confusion: (K, K) mean log-posterior of column k on unseen showers of submission row j.
        accuracy: share of unseen submission showers whose submission is named right.
        edges: (bins + 1,) of the histograms of log p(k | x).
        reference_histograms: (K, bins) on the reference's showers, each summing to 1; the first bin has all below.
        rows: showers of each submission in training, selection and test together.
        reference_rows: reference showers.
        trainings: how many.
    """

    names: tuple[str, ...]
    scores: Array
    errors: Array
    confusion: Array
    accuracy: float
    edges: Array
    reference_histograms: Array
    rows: int
    reference_rows: int
    trainings: int

    @property
    def uniform(self) -> float:
        """The score of a guess."""
        return -float(np.log(len(self.names)))


def multiclass_classifier(
    reference: ShowerSet,
    samples: Sequence[ShowerSet],
    settings: ClassifierSettings = PUBLISHED_CLASSIFIER,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> MulticlassResult:
    """Train on the submissions and score them on the reference (module's law).

    Raises:
        InvalidInputError: fewer than two submissions, or fewer than 50 showers in one.
    """
    if len(samples) < 2:
        raise InvalidInputError("samples", len(samples), "at least two submissions")
    count = min(*(len(sample.kept) for sample in samples), settings.most_rows or len(samples[0].kept))
    if count < LEAST_ROWS:
        raise InvalidInputError("showers", count, f"at least {LEAST_ROWS} in each submission")
    judged = inputs_of("low", reference, np.arange(min(len(reference.kept), settings.most_rows or len(reference.kept))))
    scores, confusions, accuracies = [], [], []
    edges = np.linspace(HISTOGRAM_LIMIT, 0.0, HISTOGRAM_BINS + 1)
    histograms = np.zeros((len(samples), HISTOGRAM_BINS))
    standard = np.zeros(len(samples))
    for repeat in range(settings.repeats):
        rng = np.random.default_rng([seed, repeat])
        data = [inputs_of("low", sample, rng.permutation(len(sample.kept))[:count]) for sample in samples]
        split = Split(*(_labelled(data, rows) for rows in split_bounds(count)))
        network = trained(
            partial(dense_network, judged.shape[1], settings.hidden, HIDDEN_LAYERS, len(samples)),
            split,
            settings.plan("low"),
            Objective(_loss, _log_score),
            seed=seed + repeat,
            progress=share_of(progress, repeat, settings.repeats),
        )
        posterior = _log_posterior(network, judged, settings.batch_size)
        own = _log_posterior(network, split.test[0], settings.batch_size)
        labels = split.test[1].astype(np.int64)
        scores.append(posterior.mean(axis=0))
        standard += posterior.std(axis=0, ddof=1) / np.sqrt(len(posterior)) / settings.repeats
        confusions.append(np.stack([own[labels == label].mean(axis=0) for label in range(len(samples))]))
        accuracies.append(float((own.argmax(axis=1) == labels).mean()))
        clipped = np.clip(posterior, HISTOGRAM_LIMIT + 1e-9, -1e-12)
        for label in range(len(samples)):
            histograms[label] += np.histogram(clipped[:, label], bins=edges)[0] / len(posterior) / settings.repeats
    stacked = np.stack(scores)
    spread = stacked.std(axis=0, ddof=1) if len(stacked) > 1 else np.zeros(len(samples))
    return MulticlassResult(
        names=tuple(sample.name for sample in samples),
        scores=stacked.mean(axis=0),
        errors=np.maximum(standard, spread),
        confusion=np.mean(confusions, axis=0),
        accuracy=float(np.mean(accuracies)),
        edges=edges,
        reference_histograms=histograms,
        rows=count,
        reference_rows=len(judged),
        trainings=settings.repeats,
    )


def _labelled(data: list[NDArray[np.float32]], rows: slice) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    parts = [part[rows] for part in data]
    labels = np.concatenate([np.full(len(part), label, dtype=np.float32) for label, part in enumerate(parts)])
    return np.concatenate(parts), labels


def _log_posterior(network: nn.Module, rows: NDArray[np.float32], batch_size: int) -> Array:
    logits = predict(network, rows, batch_size).double()
    return np.asarray(torch.log_softmax(logits, dim=1).numpy(), dtype=np.float64)


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits, labels.long())


def _log_score(logits: Tensor, labels: Tensor) -> float:
    """The mean log-posterior of the right label: the figure of merit itself."""
    return -float(_loss(logits, labels))
