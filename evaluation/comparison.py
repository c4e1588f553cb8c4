"""Every figure for one sample against the reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qshower.evaluation.boosted_auc import LEAST_SHOWERS, BoostedAuc, two_sample_auc
from qshower.evaluation.classifiers import (
    LEAST_ROWS,
    PUBLISHED_CLASSIFIER,
    QUICK_CLASSIFIER,
    ClassifierResult,
    ClassifierSettings,
    kinds_for,
    two_sample_classifier,
)
from qshower.evaluation.correlations import LayerCorrelations, compare_correlations
from qshower.evaluation.distances import (
    PUBLISHED_FPD,
    PUBLISHED_KPD,
    RESEARCH_FPD,
    RESEARCH_KPD,
    Distance,
    FpdSettings,
    KpdSettings,
    fpd,
    kpd,
)
from qshower.evaluation.energy_slices import EnergySlice
from qshower.evaluation.histograms import HistogramPair, HistogramSpec, compare_histogram
from qshower.evaluation.neighbours import NEIGHBOURS, Prdc, log_voxels, prdc
from qshower.evaluation.shower_set import ShowerSet
from qshower.evaluation.submission_checks import describe_shared
from qshower.model.shower_checks import Finding

Array = NDArray[np.float64]
Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class EvaluationSettings:
    """What is computed, and how thoroughly.

    Attributes:
        classifiers: train the neural classifiers.
        classifier: how; ``quick`` runs take ``QUICK_CLASSIFIER``.
        fpd, kpd: with the published features and settings.
        research_fpd, research_kpd: with the research code's 226 features and settings.
        neighbour_rows: showers of each set for precision, recall, density and coverage.
        boosted_rows: showers of each set for the gradient-boosted classifier.
        seed: of every draw.
    """

    classifiers: bool = True
    classifier: ClassifierSettings = PUBLISHED_CLASSIFIER
    fpd: FpdSettings = PUBLISHED_FPD
    kpd: KpdSettings = PUBLISHED_KPD
    research_fpd: FpdSettings = RESEARCH_FPD
    research_kpd: KpdSettings = RESEARCH_KPD
    neighbour_rows: int = 5000
    boosted_rows: int = 5000
    seed: int = 0


PUBLISHED_SETTINGS = EvaluationSettings()
QUICK_SETTINGS = EvaluationSettings(classifier=QUICK_CLASSIFIER, neighbour_rows=2000)


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """The figures of one sample; None or empty where there were too few showers, which ``notes`` says.

    Attributes:
        name: of the sample.
        reference_count, sample_count: showers.
        findings: warnings of the checks.
        histograms: one for each of the report's specifications.
        fpd, kpd, research_fpd, research_kpd: distances at the sample's N.
        fpd_at_floor, kpd_at_floor: again at the floor's smaller N, where that differs.
        neighbours: precision, recall, density, coverage.
        boosted: the quick verdict on the high-level features.
        auc_void: why there is no AUC where the two sets have showers in common; else None.
        classifiers: by kind.
        correlations: of layers.
        notes: what was cut short, and why.
    """

    name: str
    reference_count: int
    sample_count: int
    findings: tuple[Finding, ...]
    histograms: tuple[HistogramPair, ...]
    fpd: Distance | None
    kpd: Distance | None
    research_fpd: Distance | None
    research_kpd: Distance | None
    fpd_at_floor: Distance | None
    kpd_at_floor: Distance | None
    neighbours: Prdc | None
    boosted: BoostedAuc | None
    classifiers: tuple[ClassifierResult, ...]
    correlations: LayerCorrelations
    auc_void: str | None = None
    notes: tuple[str, ...] = field(default=())

    def mean_separation(self, group: str) -> float | None:
        """Mean separation power over the layers of one quantity."""
        values = [pair.separation for pair in self.histograms if pair.spec.group == group]
        return float(np.mean(values)) if values else None

    def mean_separation_error(self, group: str) -> float:
        """Its standard error, layers taken as independent."""
        values = [pair.error for pair in self.histograms if pair.spec.group == group]
        return float(np.sqrt(np.sum(np.square(values))) / max(len(values), 1))


def compare(
    reference: ShowerSet,
    sample: ShowerSet,
    specs: Sequence[HistogramSpec],
    slices: Sequence[EnergySlice],
    settings: EvaluationSettings,
    *,
    findings: tuple[Finding, ...] = (),
    floor_count: int | None = None,
    progress: Progress = lambda _stage, _share: None,
) -> Comparison:
    """All figures of a sample.

    Args:
        reference: the reference's showers.
        sample: the sample's.
        specs: histograms to fill.
        slices: of incident energy, for the classifiers.
        settings: how thoroughly.
        findings: of the checks, to be carried along.
        floor_count: N of the floor: FPD and KPD are repeated at it if the sample's N is larger.
        progress: called with the stage and the share of it that is done.

    Returns:
        The sample's figures with their errors. Where there were too few showers they are None or empty, and ``notes``
            says why.
    """
    pairs = []
    for index, spec in enumerate(specs):
        pairs.append(compare_histogram(spec, reference, sample, settings.seed))
        progress(f"{sample.name}: histograms", (index + 1) / len(specs))
    pair = _Pair(reference, sample, settings, progress)
    shared = describe_shared(reference, sample)
    distances = pair.all_distances()
    at_floor: tuple[Distance | None, Distance | None] = (None, None)
    if floor_count is not None and 2 <= floor_count < pair.count:
        at_floor = pair.distances(pair.matrices(floor_count), settings.fpd, settings.kpd, ", floor's N")
    return Comparison(
        name=sample.name,
        reference_count=len(reference),
        sample_count=len(sample),
        findings=findings,
        histograms=tuple(pairs),
        fpd=distances[0],
        kpd=distances[1],
        research_fpd=distances[2],
        research_kpd=distances[3],
        fpd_at_floor=at_floor[0],
        kpd_at_floor=at_floor[1],
        neighbours=pair.neighbours(),
        boosted=None if shared else pair.boosted(),
        classifiers=() if shared else pair.classifiers(slices),
        correlations=compare_correlations(reference.features, sample.features),
        auc_void=shared.text if shared else None,
        notes=tuple(pair.notes),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Pair:
    """A sample beside the reference; ``notes`` gathers what was cut short, and why."""

    reference: ShowerSet
    sample: ShowerSet
    settings: EvaluationSettings
    progress: Progress
    notes: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        return min(len(self.reference), len(self.sample))

    def stage(self, name: str) -> Callable[[float], None]:
        return lambda share: self.progress(f"{self.sample.name}: {name}", share)

    def matrices(self, count: int) -> tuple[Array, Array]:
        """Feature matrices of ``count`` showers of each set, in the files' order if that is all of them."""
        cut = []
        for showers in (self.reference, self.sample):
            matrix = showers.features.matrix()
            if len(matrix) > count:
                matrix = matrix[np.sort(np.random.default_rng(self.settings.seed).permutation(len(matrix))[:count])]
            cut.append(matrix)
        return cut[0], cut[1]

    def distances(
        self, matrices: tuple[Array, Array], of_fpd: FpdSettings, of_kpd: KpdSettings, label: str = ""
    ) -> tuple[Distance, Distance]:
        """FPD and KPD; ``label`` says in the progress which."""
        count = len(matrices[0])
        return (
            fpd(*matrices, of_fpd.fitted_to(count), progress=self.stage(f"FPD{label}")),
            kpd(*matrices, of_kpd.fitted_to(count), progress=self.stage(f"KPD{label}")),
        )

    def all_distances(self) -> tuple[Distance | None, ...]:
        """FPD and KPD with the published features and settings, then with the research code's."""
        count, settings = self.count, self.settings
        if count < 2:
            self.notes.append(f"FPD and KPD need at least 2 showers in each set; there are {count}.")
            return (None,) * 4
        first, second = self.matrices(count)
        used = settings.fpd.fitted_to(count)
        if used != settings.fpd:
            self.notes.append(
                f"{count} showers are fewer than the {settings.fpd.min_samples} that the published FPD needs: it was "
                f"taken with sizes from {used.min_samples} to {used.max_samples}, and KPD with batches of "
                f"{settings.kpd.fitted_to(count).batch_size}. Set these values beside the floor only."
            )
        if count <= first.shape[1]:
            self.notes.append(
                f"{count} showers for {first.shape[1]} features: covariances do not have full rank, FPD is mostly "
                "noise."
            )
        width = self.sample.features.research_matrix().shape[1]
        research = (first[:, :width], second[:, :width])
        return (
            *self.distances((first, second), settings.fpd, settings.kpd),
            *self.distances(research, settings.research_fpd, settings.research_kpd, f", {width} features"),
        )

    def neighbours(self) -> Prdc | None:
        count = min(len(self.reference.kept), len(self.sample.kept), self.settings.neighbour_rows)
        if count <= NEIGHBOURS:
            self.notes.append(
                f"Precision, recall, density and coverage need more than {NEIGHBOURS} showers; there are {count}."
            )
            return None
        threshold = self.reference.geometry.threshold_mev
        # Kept rows are in the files' order; an even stride keeps every energy where a file is sorted by it.
        points = [
            log_voxels(showers.kept_mev[np.linspace(0, len(showers.kept) - 1, count).astype(np.int64)], threshold)
            for showers in (self.reference, self.sample)
        ]
        return prdc(points[0], points[1], progress=self.stage("nearest neighbours"))

    def boosted(self) -> BoostedAuc | None:
        if self.count < LEAST_SHOWERS:
            return None
        rows = min(self.count, self.settings.boosted_rows)
        return two_sample_auc(*self.matrices(rows), seed=self.settings.seed)

    def classifiers(self, slices: Sequence[EnergySlice]) -> tuple[ClassifierResult, ...]:
        if not self.settings.classifiers:
            return ()
        count = min(len(self.reference.kept), len(self.sample.kept))
        if count < LEAST_ROWS:
            self.notes.append(f"Classifiers need at least {LEAST_ROWS} showers in each set; there are {count}.")
            return ()
        return tuple(
            two_sample_classifier(
                kind,
                self.reference,
                self.sample,
                self.settings.classifier,
                slices=slices,
                seed=self.settings.seed,
                progress=self.stage(f"classifier {kind}"),
            )
            for kind in kinds_for(self.reference.geometry)
        )
