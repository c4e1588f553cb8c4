"""Two-sample classifiers: can a network tell a sample's showers from the reference's?

The reference has label 1. Rows are split 60/20/20 into training, selection and test. The epoch with the best accuracy
on the selection rows is kept; its outputs are calibrated by isotonic regression on the same rows, and judged on the
test rows, which nothing has seen::

    AUC   area under the ROC curve          0.5 cannot tell, 1 always can (0.5 +- error is a perfect sample)
    JSD = 1 - cross entropy / ln 2          Jensen-Shannon divergence in bits, 0 equal, 1 disjoint

Input kinds: ``low`` log10 E_inc and 100 E_voxel / E_inc; ``low_normalised`` log10 E_inc, E_voxel / E_layer and
log10 E_layer; ``high`` the high-level features; ``cnn`` log10 E_inc and log-scaled voxels on their (layer, angle,
radius) block. Source: the CaloChallenge, arXiv:2410.21611.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from qshower.evaluation.boosted_auc import auc_error
from qshower.evaluation.energy_slices import EnergySlice
from qshower.evaluation.network_training import (
    Objective,
    Progress,
    Rows,
    Split,
    TrainingPlan,
    predict,
    share_of,
    split_bounds,
    trained,
)
from qshower.evaluation.networks import ShowerResNet, dense_network
from qshower.evaluation.shower_set import ShowerSet
from qshower.model.geometry import Geometry
from qshower.sampler.errors import InvalidInputError

Kind = Literal["low", "low_normalised", "high", "cnn"]

KINDS: tuple[Kind, ...] = ("low", "low_normalised", "high", "cnn")
LEAST_ROWS = 50
LEAST_SLICE_ROWS = 20
LAYER_FLOOR_MEV = 1e-8
CALIBRATION_LIMIT = 1e-6


@dataclass(frozen=True, slots=True)
class ClassifierSettings:
    """How a classifier is trained. The defaults are the challenge's published setting.

    Attributes:
        hidden, layers: of the dense networks.
        cnn_width: channels of the first stage of the 3D ResNet-18.
        epochs, cnn_epochs: passes over the training rows.
        batch_size: rows per step; cnn_batch_size likewise.
        learning_rate: of Adam.
        repeats: trainings with different seeds, of which mean and spread are given.
        most_rows, most_cnn_rows: rows of each set at most; None for all that there are.
    """

    hidden: int = 2048
    layers: int = 3
    cnn_width: int = 64
    epochs: int = 50
    cnn_epochs: int = 50
    batch_size: int = 1000
    cnn_batch_size: int = 250
    learning_rate: float = 2e-4
    repeats: int = 10
    most_rows: int | None = None
    most_cnn_rows: int | None = None

    def plan(self, kind: Kind) -> TrainingPlan:
        """How a network on this kind of input is trained."""
        if kind == "cnn":
            return TrainingPlan(self.cnn_epochs, self.cnn_batch_size, self.learning_rate)
        return TrainingPlan(self.epochs, self.batch_size, self.learning_rate)


PUBLISHED_CLASSIFIER = ClassifierSettings()
QUICK_CLASSIFIER = ClassifierSettings(
    hidden=256, cnn_width=8, epochs=15, cnn_epochs=3, batch_size=200, cnn_batch_size=100, learning_rate=5e-4, repeats=2,
    most_rows=4000, most_cnn_rows=1000,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class SliceAuc:
    """AUC of the test rows within one slice of incident energy, mean over trainings."""

    label: str
    auc: float
    error: float
    rows: int


@dataclass(frozen=True, slots=True)
class ClassifierResult:
    """Mean and spread over several trainings of one kind of classifier.

    Attributes:
        kind: of input.
        auc, jsd: means.
        auc_spread, jsd_spread: standard deviations over trainings (0 for one).
        auc_error: standard error that the number of test rows implies.
        trainings: (AUC, JSD) of each.
        rows: of each set, all splits together.
        test_rows: of each set.
        slices: AUC by incident energy.
    """

    kind: Kind
    auc: float
    jsd: float
    auc_spread: float
    jsd_spread: float
    auc_error: float
    trainings: tuple[tuple[float, float], ...]
    rows: int
    test_rows: int
    slices: tuple[SliceAuc, ...]


def inputs_of(kind: Kind, showers: ShowerSet, rows: NDArray[np.int64]) -> Rows:
    """(n, D) inputs of one kind for some of the kept showers: indices into ``showers.kept``."""
    features = showers.features
    if kind == "high":
        return features.take(showers.kept[rows]).matrix().astype(np.float32)
    e_inc = features.e_inc_mev[showers.kept[rows]].astype(np.float32)[:, None]
    voxels = showers.kept_mev[rows]
    log_energy = np.log10(e_inc)
    if kind == "low":
        return np.concatenate([log_energy, 100 * voxels / e_inc], axis=1)
    if kind == "cnn":
        return np.concatenate([log_energy - 4, np.log1p(voxels / np.float32(0.1)) / 3], axis=1)
    e_layer = features.e_layer_mev[showers.kept[rows]].astype(np.float32)
    counts = [layer.voxel_count for layer in showers.geometry.layers]
    shares = voxels / (np.repeat(e_layer, counts, axis=1) + np.float32(1e-16))
    return np.concatenate([log_energy, shares, np.log10(e_layer + np.float32(LAYER_FLOOR_MEV))], axis=1)


def kinds_for(geometry: Geometry) -> tuple[Kind, ...]:
    """The kinds that make sense for a layout: the 3D network needs layers of equal bins."""
    return KINDS if geometry.is_regular else KINDS[:3]


def two_sample_classifier(
    kind: Kind,
    reference: ShowerSet,
    sample: ShowerSet,
    settings: ClassifierSettings = PUBLISHED_CLASSIFIER,
    *,
    slices: Iterable[EnergySlice] = (),
    seed: int = 0,
    progress: Progress | None = None,
) -> ClassifierResult:
    """Train and judge one kind of classifier, several times (module's law).

    Raises:
        InvalidInputError: fewer than 50 showers with kept voxels in a set.
    """
    most = settings.most_cnn_rows if kind == "cnn" else settings.most_rows
    count = min(len(reference.kept), len(sample.kept), most or len(reference.kept))
    if count < LEAST_ROWS:
        raise InvalidInputError("showers", count, f"at least {LEAST_ROWS} in each set for a classifier")
    parts = tuple(slices)
    plan = settings.plan(kind)
    bounds = split_bounds(count)
    test_rows = bounds[2].stop - bounds[2].start
    trainings: list[tuple[float, float]] = []
    by_slice: list[list[tuple[float, int]]] = [[] for _ in parts]
    for repeat in range(settings.repeats):
        rng = np.random.default_rng([seed, repeat])
        chosen = [rng.permutation(len(showers.kept))[:count] for showers in (reference, sample)]
        data = [inputs_of(kind, showers, rows) for showers, rows in zip((reference, sample), chosen, strict=True)]
        energies = [
            showers.features.e_inc_mev[showers.kept[rows]]
            for showers, rows in zip((reference, sample), chosen, strict=True)
        ]
        split = Split(*(_joined(data, rows) for rows in bounds))
        network = trained(
            partial(_network, kind, reference.geometry, data[0].shape[1], settings),
            split,
            plan,
            Objective(_loss, _accuracy),
            seed=seed + repeat,
            progress=share_of(progress, repeat, settings.repeats),
        )
        scores, labels = _calibrated(network, split, plan.batch_size), split.test[1]
        trainings.append((float(roc_auc_score(labels, scores)), _divergence(labels, scores)))
        test_energies = np.concatenate([values[bounds[2]] for values in energies])
        for index, part in enumerate(parts):
            inside = part.contains(test_energies)
            if min(labels[inside].sum(), (1 - labels[inside]).sum()) >= LEAST_SLICE_ROWS:
                by_slice[index].append((float(roc_auc_score(labels[inside], scores[inside])), int(inside.sum()) // 2))
    values = np.array(trainings)
    spread = values.std(axis=0, ddof=1) if len(values) > 1 else np.zeros(2)
    mean_auc = float(values[:, 0].mean())
    return ClassifierResult(
        kind=kind,
        auc=mean_auc,
        jsd=float(values[:, 1].mean()),
        auc_spread=float(spread[0]),
        jsd_spread=float(spread[1]),
        auc_error=auc_error(mean_auc, test_rows, test_rows),
        trainings=tuple(trainings),
        rows=count,
        test_rows=test_rows,
        slices=tuple(
            SliceAuc(
                part.label,
                float(np.mean([auc for auc, _ in found])),
                auc_error(float(np.mean([auc for auc, _ in found])), found[0][1], found[0][1]),
                found[0][1],
            )
            for part, found in zip(parts, by_slice, strict=True)
            if found
        ),
    )


def _joined(data: list[Rows], rows: slice) -> tuple[Rows, Rows]:
    """Inputs and labels of both sets, the reference's label 1."""
    parts = [part[rows] for part in data]
    labels = np.concatenate([np.ones(len(parts[0])), np.zeros(len(parts[1]))]).astype(np.float32)
    return np.concatenate(parts), labels


def _network(kind: Kind, geometry: Geometry, inputs: int, settings: ClassifierSettings) -> nn.Module:
    if kind == "cnn":
        return ShowerResNet(geometry.block_shape, settings.cnn_width)
    return dense_network(inputs, settings.hidden, settings.layers, 1)


def _calibrated(network: nn.Module, split: Split, batch_size: int) -> NDArray[np.float64]:
    """Probabilities of the test rows, calibrated on the selection rows."""
    raw = [
        torch.sigmoid(predict(network, rows, batch_size))[:, 0].numpy().astype(np.float64)
        for rows, _ in (split.select, split.test)
    ]
    calibration = IsotonicRegression(out_of_bounds="clip", y_min=CALIBRATION_LIMIT, y_max=1 - CALIBRATION_LIMIT)
    calibration.fit(raw[0], split.select[1])
    return np.asarray(calibration.predict(raw[1]), dtype=np.float64)


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.binary_cross_entropy_with_logits(logits[:, 0], labels)


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    return float(((logits[:, 0] > 0) == (labels > 0.5)).float().mean())


def _divergence(labels: Rows, probabilities: NDArray[np.float64]) -> float:
    chosen = np.where(labels > 0.5, probabilities, 1 - probabilities)
    return float(1 + np.mean(np.log2(np.clip(chosen, CALIBRATION_LIMIT, 1.0))))
