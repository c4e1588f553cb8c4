"""Pearson correlations between the energies of layers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qshower.evaluation.features import FeatureSet

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class LayerCorrelations:
    """Correlations of E_layer / E_inc between layers, of a reference and a sample, and how far they are apart.

    Attributes:
        reference, sample: (L, L) Pearson matrices; 0 where a layer never varies.
        largest_difference: largest absolute entry of their difference.
        rms_difference: root mean square of the entries above the diagonal.
        expected_rms: what two sets of these sizes from one law with normal deposits would give.
        count: showers of the smaller set.
    """

    reference: Array
    sample: Array
    largest_difference: float
    rms_difference: float
    expected_rms: float
    count: int


def pearson(values: Array) -> Array:
    """(L, L) correlations of the columns of (N, L) values; 0 for a column that never varies, 1 on the diagonal."""
    centred = values - values.mean(axis=0)
    spread = np.sqrt(np.mean(centred**2, axis=0))
    scale = np.where(spread > 0, spread, 1.0)
    unit = centred / scale
    matrix = unit.T @ unit / max(len(values), 1)
    np.fill_diagonal(matrix, 1.0)
    return np.asarray(matrix, dtype=np.float64)


def compare_correlations(reference: FeatureSet, sample: FeatureSet) -> LayerCorrelations:
    """Correlations of the layers' shares of the incident energy, so that E_inc itself does not make them all 1."""
    first, second = (pearson(rows.e_layer_mev / rows.e_inc_mev[:, None]) for rows in (reference, sample))
    difference = first - second
    above = np.triu_indices(len(first), k=1)
    rms = float(np.sqrt(np.mean(difference[above] ** 2))) if len(above[0]) else 0.0
    variance = (1 - first[above] ** 2) ** 2 * (1 / len(reference) + 1 / len(sample))
    return LayerCorrelations(
        reference=first,
        sample=second,
        largest_difference=float(np.abs(difference).max()),
        rms_difference=rms,
        expected_rms=float(np.sqrt(np.mean(variance))) if len(above[0]) else 0.0,
        count=min(len(reference), len(sample)),
    )
