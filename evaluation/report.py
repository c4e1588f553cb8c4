"""``evaluate``: judge files of showers against a reference and write the report."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from qshower.evaluation.ablation import ROWS, ablate
from qshower.evaluation.classifiers import LEAST_ROWS
from qshower.evaluation.comparison import PUBLISHED_SETTINGS, QUICK_SETTINGS, Comparison, EvaluationSettings, compare
from qshower.evaluation.cost import measure_cost
from qshower.evaluation.energy_slices import energy_slices
from qshower.evaluation.histograms import histogram_specs
from qshower.evaluation.multiclass import multiclass_classifier
from qshower.evaluation.network_training import device
from qshower.evaluation.priors import PRIORS
from qshower.evaluation.profiles import slice_profiles
from qshower.evaluation.report_html import page
from qshower.evaluation.report_json import as_json, summary_rows
from qshower.evaluation.results import Evaluation
from qshower.evaluation.shower_set import ShowerSet, load_shower_set, voxel_edges
from qshower.evaluation.submission_checks import check_reference, check_sample, describe_shared, find_copies
from qshower.model.bundle import load_bundle
from qshower.model.geometry import Geometry, geometry_from_dict
from qshower.model.manifest import read_manifest
from qshower.model.shower_checks import Finding
from qshower.model.showers_file import open_showers
from qshower.sampler.errors import DefectError, InvalidInputError, ShowerFileError
from qshower.sampler.files import replaceable, why, write_file

Progress = Callable[[str, float], None]
Announce = Callable[[str], None]

INDEX, REPORT = "index.html", "report.json"
KEPT_BYTES = 1_200_000_000
CLASSIFIER_MEMORY_SHARE = 0.25
MOST_SAMPLES = 30
RESERVED = {"reference", "floor", *PRIORS.values()}
"""Names that the report gives itself."""


@dataclass(frozen=True, slots=True)
class WrittenReport:
    """Where a report was written, and what it says.

    Attributes:
        index: ``index.html``.
        report: ``report.json``.
        data: the content of ``report.json``.
        summary: header and rows of the summary table, as text.
    """

    index: Path
    report: Path
    data: dict[str, Any]
    summary: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What is judged beside the samples, and how thoroughly.

    Attributes:
        geometry: voxel layout, or what ``chosen_geometry`` takes; None for the bundle's, or, without one, for what the
            reference says or its number of voxels.
        quick: smaller networks and fewer rows: a run of minutes. Otherwise the published settings.
        classifiers: train the neural classifiers.
        floor_reference: a second Geant4 file for the floors; None to halve the reference.
        bundle: folder of a bundle: its showers are judged under five laws of its latents, and their cost measured.
        prior_showers: showers of each of the five, at most; 0 leaves them out.
        names: of the samples in figures; None for the files' names.
        seed: of every draw.
        settings: in place of those that ``quick`` stands for.
    """

    geometry: Geometry | str | None = None
    quick: bool = False
    classifiers: bool = True
    floor_reference: Path | None = None
    bundle: Path | None = None
    prior_showers: int = ROWS
    names: Sequence[str] | None = None
    seed: int = 0
    settings: EvaluationSettings | None = None

    @property
    def priors(self) -> bool:
        """Whether showers of the bundle are judged."""
        return self.bundle is not None and self.prior_showers > 0

    @property
    def thoroughness(self) -> EvaluationSettings:
        """The settings to use."""
        base = self.settings or (QUICK_SETTINGS if self.quick else PUBLISHED_SETTINGS)
        return replace(base, classifiers=self.classifiers and base.classifiers, seed=self.seed)


def evaluate(
    reference: Path,
    samples: Sequence[Path],
    output: Path,
    choices: Choices = Choices(),
    *,
    progress: Progress = lambda _stage, _share: None,
    announce: Announce = lambda _line: None,
) -> WrittenReport:
    """Judge samples against a reference the CaloChallenge's way and write ``index.html`` and ``report.json``.

    Args:
        reference: Geant4 showers.
        samples: one file of each generator; none are needed with a bundle.
        output: folder of the report; made if it is missing.
        choices: what else, and how thoroughly.
        progress: called with a stage and the share of it that is done.
        announce: called with a line of text as soon as a figure is known.

    Returns:
        Where the report lies, its figures as ``report.json`` holds them, and the rows of its summary as text.

    Raises:
        ShowerFileError: a file that cannot be judged, and why.
        InvalidInputError: arguments that do not fit together.
    """
    _check_folder(output)
    for path in (output / INDEX, output / REPORT):
        replaceable(path)
    return write_report(run_evaluation(reference, samples, choices, progress=progress, announce=announce), output)


def _check_folder(output: Path) -> None:
    """InvalidInputError before anything long is computed, if the folder can be neither written to nor made."""
    existing = next(path for path in (output, *output.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise DefectError(str(output), f"{existing} is no folder, or not writable", "a folder to write to")


def write_report(result: Evaluation, output: Path) -> WrittenReport:
    """Write ``index.html`` and ``report.json`` into a folder, each whole or not at all."""
    data = as_json(result)
    index, report = output / INDEX, output / REPORT
    html = page(data)
    try:
        output.mkdir(parents=True, exist_ok=True)
        for path, text in ((report, json.dumps(data, indent=1, allow_nan=False) + "\n"), (index, html)):
            write_file(path, text)
    except OSError as error:
        raise DefectError(str(output), why(error), "a folder to write to") from error
    return WrittenReport(index, report, data, tuple(map(tuple, summary_rows(data))))


def run_evaluation(
    reference: Path,
    samples: Sequence[Path],
    choices: Choices = Choices(),
    *,
    progress: Progress = lambda _stage, _share: None,
    announce: Announce = lambda _line: None,
) -> Evaluation:
    """Compute everything that ``evaluate`` reports, and write nothing."""
    priors, floor_reference, seed = choices.priors, choices.floor_reference, choices.seed
    if not 1 <= len(samples) + priors <= MOST_SAMPLES:
        raise InvalidInputError("samples", len(samples), f"1 to {MOST_SAMPLES} files")
    labels = _labels(samples, choices.names)
    chosen = choices.thoroughness

    geometry = choices.geometry
    if geometry is None and choices.bundle is not None:
        geometry = geometry_from_dict(read_manifest(choices.bundle)[0].geometry)
    with open_showers(reference, geometry, allow_negative=True) as file:
        layout = file.geometry
        slices = energy_slices(layout, file.energies_mev())
    for path in (*samples, *([floor_reference] if floor_reference else [])):
        open_showers(path, layout, allow_negative=True).close()  # shapes are known to be right before anything long
    keep = _kept_rows(layout, len(samples) + 1 + bool(floor_reference) + (len(PRIORS) if priors else 0), chosen)

    def load(path: Path, name: str, edges: Any) -> ShowerSet:
        return load_shower_set(
            path,
            layout,
            slices,
            name=name,
            edges=edges,
            keep=keep,
            seed=seed,
            progress=lambda share: progress(f"{name}: reading", share),
        )

    reference_set = load(reference, "reference", None)
    reference_findings = check_reference(reference_set)
    for finding in reference_findings:
        announce(f"reference: warning: {finding.text}")
    edges = voxel_edges(layout.threshold_mev, reference_set.tallies.largest_voxel_mev)
    specs = histogram_specs(reference_set.features, slices, reference_set.tallies.largest_voxel_mev)

    loaded: list[tuple[ShowerSet, tuple[Finding, ...]]] = []
    for path, name in zip(samples, labels, strict=True):
        sample = load(path, name, edges)
        findings = check_sample(reference_set, sample)
        loaded.append((sample, findings + find_copies([other for other, _ in loaded], sample)))
        for finding in loaded[-1][1]:
            announce(f"{name}: warning: {finding.text}")
    given = len(loaded)
    ablation = None
    if choices.bundle is not None and priors:
        ablation, sets = ablate(
            load_bundle(choices.bundle),
            reference_set,
            slices,
            edges,
            rows=choices.prior_showers,
            keep=min(keep, choices.prior_showers),
            seed=seed,
            progress=progress,
        )
        loaded += [(showers, ()) for showers in sets]
        aucs = ", ".join(f"{PRIORS[key]} {auc.value:.3f} ± {auc.error:.3f}" for key, auc in ablation.auc.items())
        announce(f"AUC by latents: {aucs}; couplings between free spins {ablation.coupling_nats.value:.2f} nats")
    floor_pair, floor_kind = _floor_pair(reference_set, floor_reference, load, edges)
    smallest = min(len(reference_set), *(len(sample) for sample, _ in loaded))
    floor_count = None if floor_pair is None else min(smallest, *(len(half) for half in floor_pair))

    floor = None
    if floor_pair is not None:
        first, second = floor_pair
        floor = compare(first, replace(second, name="floor"), specs, slices, chosen, progress=progress)
        announce(_early("floor (reference against reference)", floor))
    comparisons = []
    for index, (sample, findings) in enumerate(loaded):
        # Boosted trees judge the priors: ten trainings of four networks for each of them would take a day of a core.
        used = chosen if index < given else replace(chosen, classifiers=False)
        comparisons.append(
            compare(
                reference_set,
                sample,
                specs,
                slices,
                used,
                findings=findings,
                floor_count=floor_count,
                progress=progress,
            )
        )
        announce(_early(sample.name, comparisons[-1]))
    sets = tuple(sample for sample, _ in loaded)
    multiclass = None
    files = _distinct(loaded[:given])
    if chosen.classifiers and len(files) > 1 and min(len(sample.kept) for sample in files) >= LEAST_ROWS:
        multiclass = multiclass_classifier(
            reference_set,
            files,
            chosen.classifier,
            seed=seed,
            progress=lambda share: progress("multi-class classifier", share),
        )
    cost = None
    if choices.bundle is not None:
        progress("cost of the bundle", 0.0)
        cost = measure_cost(choices.bundle, (1, 100) if choices.quick else (1, 100, 10_000), seed)
        progress("cost of the bundle", 1.0)
    return Evaluation(
        geometry=layout,
        reference=reference_set,
        samples=sets,
        reference_findings=reference_findings,
        slices=slices,
        specs=specs,
        comparisons=tuple(comparisons),
        floor=floor,
        floor_kind=floor_kind,
        reference_profiles=slice_profiles(reference_set, slices),
        sample_profiles=tuple(slice_profiles(sample, slices) for sample in sets),
        multiclass=multiclass,
        ablation=ablation,
        cost=cost,
        settings=chosen,
        quick=choices.quick,
        device=str(device()),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _floor_pair(
    reference: ShowerSet, path: Path | None, load: Callable[[Path, str, Any], ShowerSet], edges: Any
) -> tuple[tuple[ShowerSet, ShowerSet] | None, str]:
    if path is not None:
        second = load(path, "floor", edges)
        check_sample(reference, second)
        shared = describe_shared(reference, second)
        if shared is not None:
            raise ShowerFileError(str(path), shared.text, "other showers than the reference's, for a floor")
        return (reference, second), "file"
    if len(reference) < 2 * 2:
        return None, "halves"
    return (reference.half(0), reference.half(1)), "halves"


def _distinct(loaded: Sequence[tuple[ShowerSet, tuple[Finding, ...]]]) -> tuple[ShowerSet, ...]:
    """The samples that the multi-class classifier may tell from each other: none has showers of another set."""
    return tuple(sample for sample, findings in loaded if "copies" not in {finding.code for finding in findings})


def _labels(samples: Sequence[Path], names: Sequence[str] | None) -> tuple[str, ...]:
    if names is not None:
        if len(names) != len(samples) or len(set(names)) != len(names) or RESERVED & set(names):
            allowed = f"{len(samples)} different names other than {', '.join(sorted(RESERVED))}"
            raise InvalidInputError("names", list(names), allowed)
        return tuple(names)
    labels: list[str] = []
    for path in samples:
        stem = path.stem if path.stem not in RESERVED else f"{path.stem} (sample)"
        known = sum(label == stem or label.startswith(f"{stem} #") for label in labels)
        labels.append(f"{stem} #{known + 1}" if known else stem)
    return tuple(labels)


def _kept_rows(geometry: Geometry, sets: int, settings: EvaluationSettings) -> int:
    """How many showers of each file keep their voxels: as many as are used, within a bound on memory."""
    row_bytes = 4 * geometry.voxel_count * sets
    budget = KEPT_BYTES
    wanted = settings.neighbour_rows
    if settings.classifiers:
        limits = (settings.classifier.most_rows, settings.classifier.most_cnn_rows)
        wanted = max(wanted, *(limit if limit is not None else 1_000_000 for limit in limits))
        available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        budget = (
            max(budget, int(available * CLASSIFIER_MEMORY_SHARE)) if settings.classifier.most_rows is None else budget
        )
    return max(1, min(wanted, budget // row_bytes))


def _early(name: str, result: Comparison) -> str:
    parts = []
    if result.fpd is not None and result.kpd is not None:
        parts.append(f"FPD {1e3 * result.fpd.value:.4g} ± {1e3 * result.fpd.error:.2g}")
        parts.append(f"KPD {1e3 * result.kpd.value:.3g} ± {1e3 * result.kpd.error:.2g} (× 1000)")
    response = next(pair for pair in result.histograms if pair.spec.key == "response")
    parts.append(f"separation of E_tot/E_inc {response.separation:.4f}")
    if result.boosted is not None:
        parts.append(f"boosted AUC {result.boosted.auc:.3f} ± {result.boosted.error:.3f}")
    parts += ["AUC void"] if result.auc_void else []
    parts += [f"AUC {item.kind} {item.auc:.3f}" for item in result.classifiers]
    return f"{name}: {', '.join(parts)}"
