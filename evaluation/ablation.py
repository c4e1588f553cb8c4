"""What a bundle's Boltzmann machine contributes to its showers: the five priors of ``priors`` side by side.

With A the cross-validated AUC of gradient boosting on the high-level features, the share of the way from independent
bits to the ceiling (the codes of real showers) that the machine closes is::

    share = (A_independent − A_machine) / (A_independent − A_codes)

Its error is the spread over bootstrap samples of the showers; it is only given where independent bits and the ceiling
are two standard errors apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from qshower.evaluation.boosted_auc import PairedScores, paired_scores
from qshower.evaluation.energy_slices import EnergySlice
from qshower.evaluation.features import FeatureSet
from qshower.evaluation.free_couplings import CouplingNats, coupling_nats
from qshower.evaluation.mixing import CONDITIONS, Mixing, mixing
from qshower.evaluation.priors import PRIORS, Latents, draw_latents
from qshower.evaluation.shower_set import ShowerSet, load_shower_set
from qshower.model.bundle import Bundle
from qshower.model.showers_file import open_showers
from qshower.model.showers_writer import write_showers
from qshower.sampler.errors import DefectError

ROWS = 1400
MOST_LEVELS = 128
FOLDS = 5
LEAST_ROWS = 100
RESAMPLES = 200
RESOLVED = 2.0
"""Standard errors that independent bits and the ceiling must be apart."""

Array = NDArray[np.float64]
Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Measured:
    """A figure and its standard error."""

    value: float
    error: float


@dataclass(frozen=True, slots=True)
class Level:
    """Figures of the showers with one condition, whose energies lie from ``low_mev`` to ``high_mev``."""

    low_mev: float
    high_mev: float
    rows: int
    coupling_nats: Measured
    divergence_nats: Measured | None


@dataclass(frozen=True, slots=True)
class Ablation:
    """What the machine of a bundle contributes.

    Attributes:
        bundle: its name.
        rows: showers of each prior.
        sweeps: Gibbs sweeps of each draw.
        folds: of the cross-validation.
        auc: by prior.
        share: of the way from independent bits to the ceiling; None if it is not given, and ``share_note`` says why.
        machine_gain, energy_gain: how much larger the AUC of independent bits, and of another energy's draws, is than
            the machine's.
        coupling_nats: of the couplings between free spins, mean over showers.
        annealing_gap: ln Z annealed downwards less upwards, mean over conditions.
        divergence_nats: KL(posterior ‖ machine), mean over showers; None where the posterior is not known.
        mixing: R-hat of chains with dispersed starts.
        levels: by condition, in order of energy.
    """

    bundle: str
    rows: int
    sweeps: int
    folds: int
    auc: dict[str, Measured]
    share: Measured | None
    share_note: str | None
    machine_gain: Measured
    energy_gain: Measured
    coupling_nats: Measured
    annealing_gap: float
    divergence_nats: Measured | None
    mixing: Mixing
    levels: tuple[Level, ...]


def ablate(
    bundle: Bundle,
    reference: ShowerSet,
    slices: Sequence[EnergySlice],
    edges: Array,
    *,
    rows: int = ROWS,
    keep: int = ROWS,
    seed: int = 0,
    progress: Progress = lambda _stage, _share: None,
) -> tuple[Ablation, tuple[ShowerSet, ...]]:
    """Showers of each prior at the energies of real ones, and what their comparison says.

    Args:
        bundle: the model.
        reference: real showers that it never saw; those outside its domain are left out.
        slices: of incident energy, for the average showers.
        edges: of the voxel-energy histogram.
        rows: showers of each prior, at most.
        keep: how many showers of each prior keep their voxels.
        seed: of every draw.
        progress: called with the stage and the share of it that is done.

    Returns:
        What was found, and the showers of each prior, in the order of ``priors.PRIORS`` as far as the bundle has them.

    Raises:
        InvalidInputError: another geometry than the reference's, or fewer than 100 real showers in the domain.
    """
    if bundle.geometry.layers != reference.geometry.layers:
        allowed = f"a bundle of the reference's geometry {reference.geometry.name}"
        raise DefectError("bundle", f"{bundle.name} of geometry {bundle.geometry.name}", allowed)
    low, high = bundle.domain_mev
    energies = reference.features.e_inc_mev
    inside = np.flatnonzero((energies >= low) & (energies <= high))
    if len(inside) < LEAST_ROWS:
        raise DefectError(
            "reference", f"{len(inside)} showers of {low:g} to {high:g} MeV", f"{LEAST_ROWS} or more for the priors"
        )
    chosen = np.sort(np.random.default_rng(seed).permutation(inside)[:rows])
    real = reference.features.take(chosen)
    progress("priors: latents", 0.0)
    latents = draw_latents(bundle, real.e_inc_mev, _voxels(reference, chosen), seed)
    progress("priors: latents", 1.0)
    load = partial(load_shower_set, geometry=bundle.geometry, slices=slices, keep=keep, edges=edges, seed=seed)
    sets = _showers(bundle, latents, real.e_inc_mev, load, progress)
    scores = {}
    for index, (key, showers) in enumerate(zip(latents.spins, sets, strict=True)):
        scores[key] = paired_scores(real.matrix(), showers.features.matrix(), folds=FOLDS, seed=seed)
        progress("priors: boosted trees", (index + 1) / len(sets))
    found = _compared(scores, seed)
    picked = np.unique(np.linspace(0, len(latents.conditions) - 1, MOST_LEVELS).round().astype(np.int64))
    progress("priors: annealed importance sampling", 0.0)
    nats = coupling_nats(bundle.machine, latents.draws[picked], seed=seed)
    progress("priors: annealed importance sampling", 1.0)
    few = np.unique(np.linspace(0, len(latents.conditions) - 1, CONDITIONS).round().astype(np.int64))
    progress("priors: mixing", 0.0)
    mixed = mixing(bundle.machine, latents.conditions[few], sweeps=bundle.default_sweeps, seed=seed)
    progress("priors: mixing", 1.0)
    levels = _levels(bundle, latents, real, picked, nats)
    weights = np.array([level.rows for level in levels]) / sum(level.rows for level in levels)
    divergences = [level.divergence_nats for level in levels if level.divergence_nats is not None]
    return (
        Ablation(
            bundle=bundle.name,
            rows=len(chosen),
            sweeps=bundle.default_sweeps,
            folds=FOLDS,
            auc=found.auc,
            share=found.share,
            share_note=found.share_note,
            machine_gain=found.machine_gain,
            energy_gain=found.energy_gain,
            coupling_nats=_mean([level.coupling_nats for level in levels], weights, nats.gap / 2),
            annealing_gap=nats.gap,
            divergence_nats=_mean(divergences, weights, nats.gap / 2) if divergences else None,
            mixing=mixed,
            levels=levels,
        ),
        sets,
    )


def _voxels(reference: ShowerSet, chosen: NDArray[np.int64]) -> NDArray[np.float32]:
    """(chosen, voxels) showers of the reference's file."""
    wanted = reference.rows[chosen]
    parts = []
    with open_showers(reference.path, reference.geometry) as file:
        row = 0
        for _, showers in file.chunks():
            parts.append(showers[wanted[(wanted >= row) & (wanted < row + len(showers))] - row])
            row += len(showers)
    return np.concatenate(parts)


def _showers(
    bundle: Bundle,
    latents: Latents,
    energies_mev: Array,
    load: Callable[..., ShowerSet],
    progress: Progress,
) -> tuple[ShowerSet, ...]:
    """The decoded showers of each prior, summarised by ``load`` as those of any file."""
    sets = []
    with TemporaryDirectory() as folder:
        for index, (key, spins) in enumerate(latents.spins.items()):
            path = Path(folder) / f"{key}.hdf5"
            showers = bundle.decode(spins, energies_mev, latents.streams, bundle.geometry.threshold_mev)
            write_showers(path, energies_mev, showers)
            found = load(path, name=PRIORS[key])
            path.unlink()
            sets.append(replace(found, path=bundle.path))
            progress("priors: showers", (index + 1) / len(latents.spins))
    return tuple(sets)


@dataclass(frozen=True, slots=True)
class _Compared:
    auc: dict[str, Measured]
    share: Measured | None
    share_note: str | None
    machine_gain: Measured
    energy_gain: Measured


def _compared(scores: dict[str, PairedScores], seed: int) -> _Compared:
    """AUCs, their differences and the share, with errors from drawing the showers again, the same for all priors."""
    count = len(next(iter(scores.values())).reference)
    again = np.random.default_rng((seed, 2)).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    values = {key: item.auc() for key, item in scores.items()}
    spread = {key: np.array([item.auc(counts) for counts in again]) for key, item in scores.items()}

    def difference(first: str, second: str) -> Measured:
        return Measured(values[first] - values[second], float((spread[first] - spread[second]).std(ddof=1)))

    gain = difference("independent", "machine")
    share, note = None, None
    if "codes" not in scores:
        note = "The bundle has neither a code nor an encoder, so that its ceiling is not known."
    else:
        way = difference("independent", "codes")
        if way.value <= RESOLVED * way.error:
            note = "Independent bits are as near to the ceiling as these showers can tell: there is no way to close."
        else:
            shares = (spread["independent"] - spread["machine"]) / (spread["independent"] - spread["codes"])
            low, high = np.percentile(shares, (15.865, 84.135))
            share = Measured(gain.value / way.value, float(high - low) / 2)
    return _Compared(
        auc={key: Measured(value, float(spread[key].std(ddof=1))) for key, value in values.items()},
        share=share,
        share_note=note,
        machine_gain=gain,
        energy_gain=difference("other_energy", "machine"),
    )


def _levels(
    bundle: Bundle, latents: Latents, real: FeatureSet, picked: NDArray[np.int64], nats: CouplingNats
) -> tuple[Level, ...]:
    energies = bundle.machine.energies(latents.posterior.spins) if latents.posterior is not None else None
    found = []
    for place, level in enumerate(picked):
        rows = np.flatnonzero(latents.level == level)
        divergence = None
        if latents.posterior is not None and latents.posterior.log_probability is not None and energies is not None:
            values = latents.posterior.log_probability[rows] + energies[rows] + nats.log_z[place]
            scatter = values.std(ddof=1) / np.sqrt(len(rows)) if len(rows) > 1 else abs(values[0])
            divergence = Measured(float(values.mean()), float(np.hypot(scatter, nats.log_z_error[place])))
        found.append(
            Level(
                low_mev=float(real.e_inc_mev[rows].min()),
                high_mev=float(real.e_inc_mev[rows].max()),
                rows=len(rows),
                coupling_nats=Measured(float(nats.nats[place]), float(nats.nats_error[place])),
                divergence_nats=divergence,
            )
        )
    return tuple(sorted(found, key=lambda level: level.low_mev))


def _mean(values: Sequence[Measured], weights: Array, common_error: float) -> Measured:
    """Weighted mean; ``common_error`` is the same for all values."""
    error = np.sqrt(np.sum((weights * [item.error for item in values]) ** 2) + common_error**2)
    return Measured(float(weights @ [item.value for item in values]), float(error))
