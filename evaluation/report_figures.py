"""The figures that the page and the model card share, from the content of ``report.json``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qshower.evaluation.svg import Cells, ColourScale, heat_figure, histogram_figure, line_figure

LOG_GROUPS = frozenset({"e_layer", "e_voxel", "centre_eta", "centre_phi", "width_eta", "width_phi"})
HEAT_DECADES = 6


def comparison_figure(histograms: Sequence[dict[str, Any]]) -> str:
    """One quantity of the reference and of each sample, as the samples' entries of ``histograms`` hold it."""
    first = histograms[0]
    return histogram_figure(
        first["title"],
        first["axis"],
        np.array(first["edges"]),
        np.array(first["reference_counts"], dtype=np.float64),
        [np.array(histogram["sample_counts"], dtype=np.float64) for histogram in histograms],
        log_x=first["scale"] == "log",
        log_y=first["group"] in LOG_GROUPS,
    )


def profile_figures(layers: Sequence[int], profiles: Sequence[dict[str, Any]]) -> list[str]:
    """Mean energy by layer and by ring; the reference's profiles come first."""
    by_layer, by_ring = ([np.array(profile[key]) for profile in profiles] for key in ("longitudinal", "radial"))
    radii = np.array(profiles[0]["radii_mm"])
    return [
        line_figure("Energy by layer [MeV]", "layer", np.array(layers, dtype=np.float64), by_layer),
        line_figure("Energy by ring [MeV]", "radius [mm]", radii, by_ring, log_y=True),
    ]


def ring_figures(names: Sequence[str], layers: Sequence[int], profiles: Sequence[dict[str, Any]]) -> list[str]:
    """Mean energy by layer and ring on the scale of the reference, which comes first; none if it is empty."""
    rings = [np.array(profile["rings"], dtype=np.float64) for profile in profiles]
    high_mev, radii_mm = float(np.nanmax(rings[0])), np.array(profiles[0]["radii_mm"])
    if high_mev <= 0:
        return []
    return [ring_figure(name, layers, radii_mm, own, high_mev=high_mev) for name, own in zip(names, rings, strict=True)]


def ring_figure(
    title: str, layers: Sequence[int], radii_mm: NDArray[np.float64], rings: NDArray[np.float64], *, high_mev: float
) -> str:
    """Mean energies ``rings`` (layers, radii) in MeV, in colours of six decades up to ``high_mev``."""
    decades = np.where(np.isnan(rings), np.nan, np.log10(np.maximum(rings, 1e-300)))
    top = float(np.log10(high_mev))
    return heat_figure(
        title,
        decades.T[::-1],
        ColourScale(top - HEAT_DECADES, top, "MeV", decades=True),
        Cells("layer", [str(layer) for layer in layers]),
        Cells("radius [mm]", [f"{radius:.3g}" for radius in radii_mm[::-1]]),
    )
