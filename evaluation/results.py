"""What an evaluation found, before it is written down."""

from __future__ import annotations

from dataclasses import dataclass

from qshower.evaluation.ablation import Ablation
from qshower.evaluation.comparison import Comparison, EvaluationSettings
from qshower.evaluation.cost import Cost
from qshower.evaluation.energy_slices import EnergySlice
from qshower.evaluation.histograms import HistogramSpec
from qshower.evaluation.multiclass import MulticlassResult
from qshower.evaluation.profiles import Profiles
from qshower.evaluation.shower_set import ShowerSet
from qshower.model.geometry import Geometry
from qshower.model.shower_checks import Finding


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """Everything a report shows.

    Attributes:
        geometry: the layout.
        reference: the reference's showers.
        samples: the samples' showers.
        reference_findings: warnings about the reference.
        slices: of incident energy.
        specs: of the histograms.
        comparisons: of the samples, in their order.
        floor: reference against reference; None if the reference has too few showers to halve.
        floor_kind: ``"halves"`` of the reference, or ``"file"``, a second reference.
        reference_profiles, sample_profiles: average showers, by slice.
        multiclass: None with fewer than two samples, or without classifiers.
        ablation: None without a bundle, or without its priors.
        cost: None without a bundle.
        settings: what was asked for.
        quick: a run of minutes.
        device: where networks were trained.
        created: when, in UTC.
    """

    geometry: Geometry
    reference: ShowerSet
    samples: tuple[ShowerSet, ...]
    reference_findings: tuple[Finding, ...]
    slices: tuple[EnergySlice, ...]
    specs: tuple[HistogramSpec, ...]
    comparisons: tuple[Comparison, ...]
    floor: Comparison | None
    floor_kind: str
    reference_profiles: tuple[Profiles, ...]
    sample_profiles: tuple[tuple[Profiles, ...], ...]
    multiclass: MulticlassResult | None
    ablation: Ablation | None
    cost: Cost | None
    settings: EvaluationSettings
    quick: bool
    device: str
    created: str
