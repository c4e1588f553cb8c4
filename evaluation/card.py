"""The model card of a bundle: its showers beside reference showers that it never saw, in figures and pictures.

    python -m evaluation.card BUNDLE REFERENCE.hdf5 [REFERENCE2.hdf5 …]

writes ``MODEL_CARD.md`` and its pictures into the bundle's folder, and the figures into the manifest's ``quality``.
Showers are drawn with block Gibbs at the energies of the reference, one for one.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from qshower.evaluation.histograms import separation_floor, separation_power
from qshower.evaluation.quick import high_level_auc
from qshower.model.bundle import Bundle, load_bundle, update_manifest
from qshower.model.geometry import Geometry
from qshower.model.showers_file import read_showers
from qshower.sampler.gibbs.gibbs_sampler import GibbsSampler
from qshower.sampler.request import LatentRequest, SamplerOptions

Array = NDArray[np.float64]
SEED = 1
CARD = "MODEL_CARD.md"
REFERENCE_COLOUR, MODEL_COLOUR = "#555555", "#d1495b"


@dataclass(frozen=True, slots=True)
class Pair:
    """Reference showers and the model's, at the same energies, (rows, voxels) in MeV."""

    name: str
    energies_mev: Array
    reference_mev: NDArray[np.float32]
    model_mev: NDArray[np.float32]


def generate_like(bundle: Bundle, energies_mev: Array, seed: int = SEED) -> NDArray[np.float32]:
    """Showers (rows, voxels) of ``bundle`` at given energies, latents by block Gibbs, streams (seed, row)."""
    rows = len(energies_mev)
    streams = np.stack([np.full(rows, seed), np.arange(rows)], axis=1).astype(np.uint64)
    request = LatentRequest(
        bundle.machine, bundle.conditions(energies_mev), streams, SamplerOptions(sweeps=bundle.default_sweeps)
    )
    with GibbsSampler() as sampler:
        spins = sampler.sample(request).spins
    return bundle.decode(spins, energies_mev, streams, bundle.geometry.threshold_mev)


def summaries(geometry: Geometry, energies_mev: Array, showers_mev: NDArray[np.float32]) -> dict[str, Array]:
    """One-number observables of each shower, (rows,): response, mean layer, mean radius in mm, share of hit voxels."""
    total = showers_mev.sum(axis=1, dtype=np.float64)
    layers = np.stack([showers_mev[:, part].sum(axis=1) for part in geometry.layer_slices()], axis=1).astype(np.float64)
    safe = np.maximum(total, 1e-9)
    return {
        "E_tot / E_inc": total / energies_mev,
        "mean layer": layers @ np.arange(geometry.layer_count) / safe,
        "mean radius [mm]": showers_mev @ geometry.r_mm() / safe,
        "share of hit voxels": (showers_mev > 0).mean(axis=1),
    }


def bin_edges(name: str, reference: Array) -> Array:
    """Bins of an observable: the challenge's for the response, 50 over the reference's central range elsewhere."""
    if name == "E_tot / E_inc":
        return np.linspace(0.5, 1.5, 101)
    low, high = np.quantile(reference, [0.001, 0.999])
    return np.linspace(low - 0.1 * (high - low), high + 0.1 * (high - low), 51)


def measure(geometry: Geometry, pair: Pair) -> dict[str, Any]:
    """Figures of a pair: separation powers with their floors, and the quick classifier's AUC with its own."""
    figures: dict[str, Any] = {"showers": len(pair.energies_mev)}
    of_reference = summaries(geometry, pair.energies_mev, pair.reference_mev)
    of_model = summaries(geometry, pair.energies_mev, pair.model_mev)
    for name, values in of_reference.items():
        edges = bin_edges(name, values)
        p = np.histogram(values, edges)[0].astype(np.float64)
        q = np.histogram(of_model[name], edges)[0].astype(np.float64)
        figures[f"separation {name}"] = round(separation_power(p, q), 5)
        figures[f"separation floor {name}"] = round(separation_floor(p, q)[0], 5)
    auc = high_level_auc(geometry, pair.energies_mev, pair.reference_mev, pair.energies_mev, pair.model_mev)
    half = len(pair.energies_mev) // 2
    energies, showers = pair.energies_mev, pair.reference_mev
    floor = high_level_auc(geometry, energies[:half], showers[:half], energies[half:], showers[half:])
    figures |= {"AUC": round(auc.auc, 4), "AUC error": round(auc.error, 4)}
    return figures | {"AUC floor (halves of the reference)": round(floor.auc, 4)}


def draw_distributions(geometry: Geometry, pair: Pair, path: Path) -> None:
    """Response, profiles, sparsity and voxel spectrum of a pair, with ratios, as a PNG."""
    figure, axes = plt.subplots(2, 3, figsize=(13, 7.2), constrained_layout=True)
    of_reference = summaries(geometry, pair.energies_mev, pair.reference_mev)
    of_model = summaries(geometry, pair.energies_mev, pair.model_mev)
    for axis, name in zip(axes.ravel(), ("E_tot / E_inc", "mean layer", "share of hit voxels"), strict=False):
        _steps(axis, bin_edges(name, of_reference[name]), of_reference[name], of_model[name])
        axis.set(xlabel=name, ylabel="showers")
    weights = (pair.reference_mev.mean(axis=0), pair.model_mev.mean(axis=0))
    layers = [[part[s].sum() for s in geometry.layer_slices()] for part in weights]
    _curves(axes[1, 0], np.arange(geometry.layer_count), layers, "layer", "mean energy [MeV]")
    radii = np.unique(geometry.r_mm())
    rings = [[part[geometry.r_mm() == radius].sum() for radius in radii] for part in weights]
    _curves(axes[1, 1], radii, rings, "radius [mm]", "mean energy [MeV]")
    edges = np.geomspace(geometry.threshold_mev, pair.reference_mev.max(), 50)
    _steps(axes[1, 2], edges, pair.reference_mev[pair.reference_mev > 0], pair.model_mev[pair.model_mev > 0])
    axes[1, 2].set(xscale="log", yscale="log", xlabel="voxel energy [MeV]", ylabel="voxels")
    axes[0, 0].legend(frameon=False)
    figure.suptitle(f"{len(pair.energies_mev)} showers at the energies of {pair.name}")
    figure.savefig(path, dpi=80)
    plt.close(figure)


def draw_showers(geometry: Geometry, pair: Pair, path: Path) -> None:
    """Three reference showers above the model's at the same energies, layers × radii summed over angles, as a PNG."""
    layers, angular, radial = geometry.block_shape
    wanted = np.geomspace(pair.energies_mev.min() * 2, pair.energies_mev.max() * 0.8, 3)
    rows = [int(np.abs(np.log(pair.energies_mev / energy)).argmin()) for energy in wanted]
    figure, axes = plt.subplots(2, 3, figsize=(11, 4.4), constrained_layout=True, sharex=True, sharey=True)
    for column, row in enumerate(rows):
        for line, (label, showers) in enumerate((("Geant4", pair.reference_mev), ("qshower", pair.model_mev))):
            image = showers[row].reshape(layers, angular, radial)
            both = np.concatenate(
                [image[:, : angular // 2].sum(axis=1)[:, ::-1], image[:, angular // 2 :].sum(axis=1)], 1
            )
            top = pair.reference_mev[row].reshape(layers, angular, radial).sum(axis=1).max()
            norm = mpl.colors.LogNorm(0.1, top)
            drawn = axes[line, column].imshow(
                np.where(both > 0, both, np.nan).T,
                origin="lower",
                aspect="auto",
                norm=norm,
                cmap="magma_r",
                extent=(-0.5, layers - 0.5, -radial * 4.65, radial * 4.65),
            )
            axes[line, column].set_title(f"{label}, {pair.energies_mev[row] / 1000:.3g} GeV", fontsize=10)
            figure.colorbar(drawn, ax=axes[line, column], label="MeV" if column == 2 else None)
    for axis in axes[1]:
        axis.set_xlabel("layer")
    for axis in axes[:, 0]:
        axis.set_ylabel("radius [mm]")
    figure.savefig(path, dpi=90)
    plt.close(figure)


def write_card(folder: Path, references: Sequence[Path]) -> dict[str, Any]:
    """Write a bundle's card and return its figures."""
    bundle = load_bundle(folder)
    geometry = bundle.geometry
    low, high = bundle.domain_mev
    evaluated: dict[str, Any] = {}
    pictures: list[str] = []
    for reference in references:
        energies, showers = read_showers(reference, geometry)
        inside = (energies >= low) & (energies <= high)
        energies, showers = energies[inside], showers[inside]
        showers = np.where(showers < geometry.threshold_mev, np.float32(0), showers)
        pair = Pair(reference.stem, energies, showers, generate_like(bundle, energies))
        evaluated[reference.name] = measure(geometry, pair)
        pictures.append(f"{reference.stem}.png")
        draw_distributions(geometry, pair, folder / pictures[-1])
        if geometry.is_regular:
            draw_showers(geometry, pair, folder / "showers.png")
    quality = {**bundle.manifest.quality, "evaluation": evaluated}
    update_manifest(folder, quality=quality)
    (folder / CARD).write_text(_text(bundle, evaluated, pictures), encoding="utf-8")
    return evaluated


def _steps(axis: Axes, edges: Array, reference: NDArray[Any], model: NDArray[Any]) -> None:
    axis.hist(reference, edges.tolist(), histtype="stepfilled", color=REFERENCE_COLOUR, alpha=0.35, label="Geant4")
    axis.hist(model, edges.tolist(), histtype="step", color=MODEL_COLOUR, linewidth=1.4, label="qshower")


def _curves(axis: Axes, x: NDArray[Any], values: Sequence[Sequence[float]], x_label: str, y_label: str) -> None:
    axis.plot(x, values[0], color=REFERENCE_COLOUR, linewidth=4, alpha=0.45, label="Geant4")
    axis.plot(x, values[1], color=MODEL_COLOUR, linewidth=1.4, label="qshower")
    axis.set(yscale="log", xlabel=x_label, ylabel=y_label)


def _text(bundle: Bundle, evaluated: dict[str, Any], pictures: Sequence[str]) -> str:
    manifest, training = bundle.manifest, bundle.manifest.training
    configuration = training["configuration"]
    schedule = configuration["schedule"]
    files = "\n".join(
        f"- `{of['file']}`: {of['showers']} showers, weight {of['weight']:g}, SHA-256 `{of['sha256'][:16]}…`"
        for of in training["files"]
    )
    names = list(next(iter(evaluated.values())))
    header = "| figure | " + " | ".join(f"`{name}`" for name in evaluated) + " |"
    rows = [
        f"| {name} | " + " | ".join(f"{figures[name]:g}" for figures in evaluated.values()) + " |" for name in names
    ]
    nats = json.dumps(manifest.quality.get("validation_nats_per_shower", {}), indent=1)
    start = training.get("started_from")
    frozen = f" Encoder and decoder are those of `{start}`; only the Boltzmann machine was trained." if start else ""
    machine, (low, high) = bundle.machine, bundle.domain_mev
    return f"""# {manifest.name}

{manifest.description}.{frozen}

{machine.node_count} spins and {machine.j.size} couplers on {machine.topology}; {manifest.energy_code.levels} energy
levels; incident energies {low:g} to {high:g} MeV; {manifest.sweeps} Gibbs sweeps a draw.

## Training

Data, log-uniform in energy by the weights:

{files}

{training["showers_trained_on"]} showers to train on, {training["showers_validated_on"]} to validate on.
Command: `{training["command"]}`, seed {schedule["seed"]}: {schedule["autoencoder_steps"]} steps of encoder, decoder and
machine together (batch {schedule["batch"]}), then {schedule["prior_steps"]} steps of the machine alone (batch
{schedule["prior_batch"]}); {training["seconds"] / 60:.0f} minutes on one CPU core.

Bound on the validation showers, nats per shower:

```json
{nats}
```

## Quality

Measured once, on files that had no part in training or selection, at the files' own energies; latents by block Gibbs.
AUC: gradient boosting on the CaloChallenge's high-level features, half the showers to learn from, half to test; 0.5
cannot tell model from Geant4, 1 always can. Separation powers run from 0 to 1; their floor is the mean separation of
two samples of one law with as many showers.

{header}
|---|{"---|" * len(evaluated)}
{chr(10).join(rows)}

![showers](showers.png)

{chr(10).join(f"![distributions]({picture})" for picture in pictures)}

## Limits

Electrons along the axis of this one calorimeter. Within a layer voxels are drawn independently given the latent, the
layer's energy and its number of hits, so that correlations between single voxels of different layers, beyond what the
latent carries, are weaker than Geant4's.
"""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the model card of a bundle.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("references", type=Path, nargs="+")
    given = parser.parse_args()
    mpl.use("Agg")
    print(json.dumps(write_card(given.bundle, given.references), indent=1))
