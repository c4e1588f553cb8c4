"""The CaloChallenge's histograms and what is said of a pair of them.

For a reference with counts n_b (N in all bins) and a sample with m_b (M), p = n/N and q = m/M over the bins' range::

    separation = 1/2 sum_b (p_b - q_b)^2 / (p_b + q_b + 1e-16)                       0 equal, 1 disjoint
    chi2       = sum_b (sqrt(M/N) n_b - sqrt(N/M) m_b)^2 / (n_b + m_b)               over bins with entries

Under equal laws chi2 has (bins with entries - 1) degrees of freedom, and separation = chi2 (1/N + 1/M) / 4, hence its
floor, the mean and spread that the numbers of showers and bins alone imply. Voxels of one shower are not independent,
so for voxel energies chi2 and that floor are not given; the measured floor of reference against reference is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qshower.evaluation.energy_slices import EnergySlice
from qshower.evaluation.features import FeatureSet
from qshower.evaluation.shower_set import ShowerSet, voxel_edges

Array = NDArray[np.float64]
Scale = Literal["linear", "log"]

SEPARATION_FLOOR = 1e-16
RESAMPLES = 100
LAYER_BINS = 39
VOXEL_KEY = "e_voxel"


@dataclass(frozen=True, slots=True, eq=False)
class HistogramSpec:
    """What a histogram shows and where its bins lie.

    Attributes:
        key: unique name, used in ``report.json``: the quantity, and the layer or slice.
        group: the quantity: ``response``, ``e_layer``, ``centre_eta`` …
        title: for people.
        axis: label of the axis, with its unit.
        edges: (bins + 1,).
        scale: of the axis.
        column: column of the quantity's array, None for one without columns.
        part: restrict to a slice of incident energy.
    """

    key: str
    group: str
    title: str
    axis: str
    edges: Array
    scale: Scale = "linear"
    column: int | None = None
    part: EnergySlice | None = None


@dataclass(frozen=True, slots=True, eq=False)
class HistogramPair:
    """A reference's and a sample's histogram of one quantity, with figures of their difference.

    Attributes:
        spec: the quantity and bins.
        reference_counts, sample_counts: (bins,).
        reference_outside, sample_outside: entries out of the bins' range.
        separation: see module; its error is from resampling the entries.
        error: standard error of ``separation``.
        chi2, ndf: None for voxel energies.
        expected_floor, expected_spread: mean and standard deviation of the separation under equal laws; None likewise.
    """

    spec: HistogramSpec
    reference_counts: Array
    sample_counts: Array
    reference_outside: int
    sample_outside: int
    separation: float
    error: float
    chi2: float | None
    ndf: int | None
    expected_floor: float | None
    expected_spread: float | None


def separation_power(reference_counts: Array, sample_counts: Array) -> float:
    """Separation of two histograms of equal bins; 1 if exactly one of them is empty, 0 if both are."""
    total, other = float(reference_counts.sum()), float(sample_counts.sum())
    if total == 0 or other == 0:
        return float(total != other)
    p, q = reference_counts / total, sample_counts / other
    return float(0.5 * np.sum((p - q) ** 2 / (p + q + SEPARATION_FLOOR)))


def chi_squared(reference_counts: Array, sample_counts: Array) -> tuple[float, int]:
    """χ² of two histograms of unequal size, and its degrees of freedom; (0, 0) where one is empty."""
    n, m = float(reference_counts.sum()), float(sample_counts.sum())
    both = reference_counts + sample_counts
    filled = both > 0
    if n == 0 or m == 0:
        return 0.0, 0
    difference = np.sqrt(m / n) * reference_counts - np.sqrt(n / m) * sample_counts
    return float(np.sum(difference[filled] ** 2 / both[filled])), int(filled.sum()) - 1


def separation_floor(reference_counts: Array, sample_counts: Array) -> tuple[float, float]:
    """Mean and standard deviation of the separation if both histograms came from one law (module's χ² relation)."""
    n, m = float(reference_counts.sum()), float(sample_counts.sum())
    if n == 0 or m == 0:
        return 0.0, 0.0
    bins = int(np.count_nonzero(reference_counts + sample_counts)) - 1
    unit = (1 / n + 1 / m) / 4
    return bins * unit, float(np.sqrt(2 * bins)) * unit


def histogram_specs(
    reference: FeatureSet, slices: Sequence[EnergySlice], largest_voxel_mev: float
) -> tuple[HistogramSpec, ...]:
    """The published histograms for a reference: E_layer and E_voxel end at its largest values."""
    geometry = reference.geometry
    small = geometry.name in ("2", "3")
    outer = max(layer.r_edges_mm[-1] for layer in geometry.layers)
    known = small or geometry.name.startswith("1-")
    specs = [HistogramSpec("response", "response", "Response", "E_tot / E_inc", np.linspace(0.5, 1.5, 101))]
    for index, part in enumerate(slices):
        specs.append(
            HistogramSpec(
                f"response_slice_{index}",
                "response_slices",
                f"Response, {part.label}",
                "E_tot / E_inc",
                _slice_edges(geometry.name, part),
                part=part,
            )
        )
    for column, layer in enumerate(geometry.layers):
        specs.append(_layer_spec("e_layer", column, layer.id, _layer_edges(reference, column), "log"))
    angular = [layer.id for layer in geometry.layers if layer.angular_bins > 1]
    wide = (12, 13) if geometry.name.startswith("1-") else ()
    for group in ("centre_eta", "centre_phi", "width_eta", "width_phi"):
        for column, number in enumerate(angular):
            if group.startswith("centre"):
                limit = 30.0 if small else (500.0 if number in wide else 100.0) if known else outer
                edges = np.linspace(-limit, limit, 101)
            else:
                limit = 30.0 if small else (400.0 if number in wide else 100.0) if known else outer
                edges = np.linspace(0.0, limit, 101)
            specs.append(_layer_spec(group, column, number, edges))
    far = (12, 13, 14) if geometry.name.startswith("1-") else ()
    for column, layer in enumerate(geometry.layers):
        specs.append(_layer_spec("sparsity", column, layer.id, np.linspace(0.0, 1.0, 21)))
        reach = 42.0 if small else (1500.0 if layer.id in far else 500.0) if known else outer
        specs.append(_layer_spec("centre_r", column, layer.id, np.linspace(0.0, reach, 101)))
        width = 20.0 if small else (1500.0 if layer.id in far else 500.0) if known else outer
        specs.append(_layer_spec("width_r", column, layer.id, np.linspace(0.0, width, 101)))
    edges = voxel_edges(geometry.threshold_mev, largest_voxel_mev)
    specs.append(HistogramSpec(VOXEL_KEY, VOXEL_KEY, "Voxel energy", "E_voxel [MeV]", edges, "log"))
    return tuple(specs)


def compare_histogram(spec: HistogramSpec, reference: ShowerSet, sample: ShowerSet, seed: int = 0) -> HistogramPair:
    """Fill one histogram from both sets and compare."""
    if spec.key == VOXEL_KEY:
        return _compare_voxels(spec, reference, sample, seed)
    filled = []
    outside = []
    for showers in (reference, sample):
        values = quantity(showers.features, spec)
        counts = np.histogram(values, bins=spec.edges)[0].astype(np.float64)
        filled.append(counts)
        outside.append(len(values) - int(counts.sum()))
    chi2, ndf = chi_squared(*filled)
    floor, spread = separation_floor(*filled)
    return HistogramPair(
        spec=spec,
        reference_counts=filled[0],
        sample_counts=filled[1],
        reference_outside=outside[0],
        sample_outside=outside[1],
        separation=separation_power(*filled),
        error=_multinomial_error(filled[0], filled[1], seed),
        chi2=chi2,
        ndf=ndf,
        expected_floor=floor,
        expected_spread=spread,
    )


def quantity(features: FeatureSet, spec: HistogramSpec) -> Array:
    """The values a histogram is filled with."""
    if spec.group in ("response", "response_slices"):
        response: Array = features.e_tot_mev / features.e_inc_mev
        return response if spec.part is None else response[spec.part.contains(features.e_inc_mev)]
    names = {"sparsity": "sparsity", "e_layer": "e_layer_mev"}
    values: Array = getattr(features, names.get(spec.group, f"{spec.group}_mm"))
    return values[:, spec.column]


def _slice_edges(name: str, part: EnergySlice) -> Array:
    if not name.startswith("1-"):
        return np.linspace(0.5, 1.5, 101)
    narrow = name == "1-photons" and part.high_mev > 2.0**12 * 1.5
    return np.linspace(0.9, 1.1, 21) if narrow else np.linspace(0.4, 1.4, 21)


def _layer_edges(reference: FeatureSet, column: int) -> Array:
    values = reference.e_layer_mev[:, column]
    largest = float(values.max())
    low = reference.geometry.threshold_mev or max(largest, 1e-6) * 1e-6
    return np.logspace(np.log10(low), np.log10(max(largest, low * 1.001)), LAYER_BINS + 1)


_TITLES = {
    "e_layer": ("Energy in layer {}", "E_layer [MeV]"),
    "centre_eta": ("Centre of energy in eta, layer {}", "centre in eta [mm]"),
    "centre_phi": ("Centre of energy in phi, layer {}", "centre in phi [mm]"),
    "width_eta": ("Width in eta, layer {}", "width in eta [mm]"),
    "width_phi": ("Width in phi, layer {}", "width in phi [mm]"),
    "sparsity": ("Sparsity, layer {}", "share of empty voxels"),
    "centre_r": ("Radial centre of energy, layer {}", "radial centre [mm]"),
    "width_r": ("Radial width, layer {}", "radial width [mm]"),
}


def _layer_spec(group: str, column: int, number: int, edges: Array, scale: Scale = "linear") -> HistogramSpec:
    title, axis = _TITLES[group]
    return HistogramSpec(f"{group}_{number}", group, title.format(number), axis, edges, scale, column)


def _multinomial_error(reference: Array, sample: Array, seed: int) -> float:
    """Standard deviation of the separation when the entries of both histograms are drawn again."""
    n, m = int(reference.sum()), int(sample.sum())
    if n == 0 or m == 0:
        return 0.0
    rng = np.random.default_rng(seed)
    first = rng.multinomial(n, reference / n, size=RESAMPLES)
    second = rng.multinomial(m, sample / m, size=RESAMPLES)
    return float(np.std([separation_power(a, b) for a, b in zip(first, second, strict=True)], ddof=1))


def _compare_voxels(spec: HistogramSpec, reference: ShowerSet, sample: ShowerSet, seed: int) -> HistogramPair:
    groups = [showers.voxel_counts[showers.voxel_counts.sum(axis=1) > 0] for showers in (reference, sample)]
    counts = [rows.sum(axis=0).astype(np.float64) for rows in groups]
    rng = np.random.default_rng(seed)
    again = [
        separation_power(*(rows[rng.integers(len(rows), size=len(rows))].sum(axis=0) for rows in groups))
        for _ in range(RESAMPLES if all(len(rows) > 1 for rows in groups) else 0)
    ]
    hits = [
        showers.tallies.hit_voxels if _whole(showers) else int(showers.voxel_counts.sum())
        for showers in (reference, sample)
    ]
    return HistogramPair(
        spec=spec,
        reference_counts=counts[0],
        sample_counts=counts[1],
        reference_outside=max(0, hits[0] - int(counts[0].sum())),
        sample_outside=max(0, hits[1] - int(counts[1].sum())),
        separation=separation_power(counts[0], counts[1]),
        error=float(np.std(again, ddof=1)) if again else 0.0,
        chi2=None,
        ndf=None,
        expected_floor=None,
        expected_spread=None,
    )


def _whole(showers: ShowerSet) -> bool:
    return bool((np.diff(showers.rows) == 1).all())
