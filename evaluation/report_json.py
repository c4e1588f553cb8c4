"""The content of ``report.json``: plain numbers, texts and lists, every figure with its N, its error and its floor."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qshower.evaluation.comparison import Comparison
from qshower.evaluation.distances import Distance
from qshower.evaluation.histograms import HistogramPair
from qshower.evaluation.multiclass import MulticlassResult
from qshower.evaluation.neighbours import Prdc
from qshower.evaluation.profiles import Profiles
from qshower.evaluation.results import Evaluation

FORMAT = 1

GROUPS = {
    "response": "E_tot / E_inc",
    "response_slices": "E_tot / E_inc in slices of E_inc",
    "e_layer": "Energy of layers",
    "e_voxel": "Voxel energies",
    "centre_eta": "Centre in eta",
    "centre_phi": "Centre in phi",
    "width_eta": "Width in eta",
    "width_phi": "Width in phi",
    "sparsity": "Sparsity",
    "centre_r": "Radial centre",
    "width_r": "Radial width",
}
"""Groups of histograms, in the order of the report."""


def as_json(result: Evaluation) -> dict[str, Any]:
    """The report as JSON-ready values. Distances are as computed; published FPD and KPD are multiplied by 1000."""
    return {
        "format": FORMAT,
        "created": result.created,
        "geometry": result.geometry.name,
        "voxels": result.geometry.voxel_count,
        "layers": [layer.id for layer in result.geometry.layers],
        "quick": result.quick,
        "device": result.device,
        "settings": asdict(result.settings),
        "slices": [asdict(part) for part in result.slices],
        "reference": {
            "path": str(result.reference.path),
            "count": len(result.reference),
            "warnings": [asdict(finding) for finding in result.reference_findings],
            "profiles": [_profiles(part) for part in result.reference_profiles],
            "correlations": _rounded(result.comparisons[0].correlations.reference),
        },
        "floor": {"kind": result.floor_kind, **_comparison(result.floor)} if result.floor else None,
        "samples": [
            {
                "path": str(sample.path),
                **_comparison(comparison, result.floor),
                "profiles": [_profiles(part) for part in profiles],
                "qpu": _qpu(dict(sample.provenance)),
            }
            for sample, comparison, profiles in zip(
                result.samples, result.comparisons, result.sample_profiles, strict=True
            )
        ],
        "multiclass": _multiclass(result.multiclass) if result.multiclass else None,
        "ablation": asdict(result.ablation) if result.ablation else None,
        "cost": asdict(result.cost) if result.cost else None,
    }


def _comparison(comparison: Comparison, floor: Comparison | None = None) -> dict[str, Any]:
    floors = {pair.spec.key: pair for pair in floor.histograms} if floor else {}
    return {
        "name": comparison.name,
        "count": comparison.sample_count,
        "reference_count": comparison.reference_count,
        "warnings": [asdict(finding) for finding in comparison.findings],
        "notes": list(comparison.notes),
        "histograms": {pair.spec.key: _histogram(pair, floors.get(pair.spec.key)) for pair in comparison.histograms},
        "separation": {
            group: {
                "mean": comparison.mean_separation(group),
                "error": comparison.mean_separation_error(group),
                "floor": floor.mean_separation(group) if floor else None,
            }
            for group in GROUPS
            if comparison.mean_separation(group) is not None
        },
        "fpd": _distance(comparison.fpd, floor.fpd if floor else None, comparison.fpd_at_floor),
        "kpd": _distance(comparison.kpd, floor.kpd if floor else None, comparison.kpd_at_floor),
        "research_fpd": _distance(comparison.research_fpd, floor.research_fpd if floor else None),
        "research_kpd": _distance(comparison.research_kpd, floor.research_kpd if floor else None),
        "neighbours": _neighbours(comparison.neighbours, floor.neighbours if floor else None),
        "auc_void": comparison.auc_void,
        "boosted_auc": {
            **asdict(comparison.boosted),
            "floor": floor.boosted.auc if floor and floor.boosted else None,
        }
        if comparison.boosted
        else None,
        "classifiers": {
            item.kind: {
                **{key: value for key, value in asdict(item).items() if key != "kind"},
                "floor": next(
                    (
                        {"auc": other.auc, "jsd": other.jsd, "rows": other.rows}
                        for other in floor.classifiers
                        if other.kind == item.kind
                    ),
                    None,
                )
                if floor
                else None,
            }
            for item in comparison.classifiers
        },
        "correlations": {
            "rms_difference": comparison.correlations.rms_difference,
            "largest_difference": comparison.correlations.largest_difference,
            "expected_rms": comparison.correlations.expected_rms,
            "floor": floor.correlations.rms_difference if floor else None,
            "count": comparison.correlations.count,
            "matrix": _rounded(comparison.correlations.sample),
        },
    }


def _profiles(profiles: Profiles) -> dict[str, Any]:
    return {
        "count": profiles.count,
        "radii_mm": profiles.radii_mm.tolist(),
        "longitudinal": profiles.longitudinal.tolist(),
        "radial": profiles.radial.tolist(),
        "rings": [[None if np.isnan(energy) else energy for energy in layer] for layer in profiles.rings.tolist()],
    }


def _rounded(matrix: NDArray[np.float64]) -> list[list[float]]:
    rounded: list[list[float]] = np.round(matrix, 6).tolist()
    return rounded


def _histogram(pair: HistogramPair, floor: HistogramPair | None) -> dict[str, Any]:
    return {
        "title": pair.spec.title,
        "group": pair.spec.group,
        "axis": pair.spec.axis,
        "scale": pair.spec.scale,
        "separation": pair.separation,
        "error": pair.error,
        "floor": floor.separation if floor else None,
        "floor_count": int(floor.sample_counts.sum()) if floor else None,
        "expected_floor": pair.expected_floor,
        "expected_spread": pair.expected_spread,
        "chi2": pair.chi2,
        "ndf": pair.ndf,
        "reference_entries": int(pair.reference_counts.sum()),
        "sample_entries": int(pair.sample_counts.sum()),
        "reference_outside": pair.reference_outside,
        "sample_outside": pair.sample_outside,
        "edges": pair.spec.edges.tolist(),
        "reference_counts": pair.reference_counts.astype(int).tolist(),
        "sample_counts": pair.sample_counts.astype(int).tolist(),
    }


def _distance(
    value: Distance | None, floor: Distance | None, at_floor: Distance | None = None
) -> dict[str, Any] | None:
    if value is None:
        return None
    return {
        **asdict(value),
        "floor": asdict(floor) if floor else None,
        "at_floor_count": asdict(at_floor) if at_floor else None,
    }


def _neighbours(value: Prdc | None, floor: Prdc | None) -> dict[str, Any] | None:
    return None if value is None else {**asdict(value), "floor": asdict(floor) if floor else None}


def _multiclass(value: MulticlassResult) -> dict[str, Any]:
    return {
        "names": list(value.names),
        "scores": value.scores.tolist(),
        "errors": value.errors.tolist(),
        "uniform": value.uniform,
        "confusion": value.confusion.tolist(),
        "accuracy": value.accuracy,
        "edges": value.edges.tolist(),
        "reference_histograms": value.reference_histograms.tolist(),
        "rows": value.rows,
        "reference_rows": value.reference_rows,
        "trainings": value.trainings,
    }


def _qpu(provenance: dict[str, Any]) -> dict[str, Any] | None:
    """What a file's provenance says of QPU time, which is not this machine's."""
    access = provenance.get("qpu_access_time_us")
    if not isinstance(access, int | float) or isinstance(access, bool) or not abs(access) < math.inf:
        return None
    return {"solver": provenance.get("solver"), "qpu_access_time_us": float(access)}


def summary_rows(data: dict[str, Any]) -> list[list[str]]:
    """Header and rows of the summary table: the samples, then the floor."""
    kinds = sorted({kind for sample in data["samples"] for kind in sample["classifiers"]}, key=_kind_order)
    header = ["", "N", "sep. E_tot/E_inc", "sep. layers", "sep. voxels", "FPD × 10³", "KPD × 10³", "AUC boosted"]
    header += [f"AUC {kind.replace('_', ' ')}" for kind in kinds]
    header += ["precision / recall", "density / coverage"]
    rows = [header]
    entries = list(data["samples"])
    if data["floor"]:
        name = "second reference" if data["floor"]["kind"] == "file" else "halves of the reference"
        entries.append({**data["floor"], "name": f"floor ({name})"})
    rows += [_summary(entry, kinds) for entry in entries]
    return rows


def _kind_order(kind: str) -> int:
    return ("low", "low_normalised", "high", "cnn").index(kind)


def _summary(entry: dict[str, Any], kinds: list[str]) -> list[str]:
    separation, boosted, neighbours = entry["separation"], entry["boosted_auc"], entry["neighbours"]
    count = str(entry["count"])
    if entry["reference_count"] != entry["count"]:
        count += f" / {entry['reference_count']}"
    row = [entry["name"], count]
    row += [with_error(separation[key]["mean"], separation[key]["error"]) for key in ("response", "e_layer", "e_voxel")]
    row += [
        "–" if entry[key] is None else with_error(entry[key]["value"], entry[key]["error"], 1e3)
        for key in ("fpd", "kpd")
    ]
    absent = "void" if entry.get("auc_void") else "–"
    row.append(absent if boosted is None else with_error(boosted["auc"], boosted["error"]))
    for kind in kinds:
        item = entry["classifiers"].get(kind)
        row.append(absent if item is None else with_error(item["auc"], max(item["auc_spread"], item["auc_error"])))
    if neighbours is None:
        return [*row, "–", "–"]
    row.append(f"{neighbours['precision']:.3f} / {neighbours['recall']:.3f}")
    row.append(f"{neighbours['density']:.3f} / {neighbours['coverage']:.3f}")
    return row


def with_error(value: float, error: float, scale: float = 1.0) -> str:
    """A value ± its error, both times ``scale``, with as many digits as the error has meaning.

    >>> with_error(0.02461, 0.00031, 1000.0)
    '24.6 ± 0.3'
    """
    value, error = scale * value, scale * error
    if error <= 0:
        return f"{value:.3g}"
    digits = 0
    while digits < 6 and round(error, digits) * 10**digits < 2:
        digits += 1
    return f"{value:.{digits}f} ± {error:.{digits}f}"
