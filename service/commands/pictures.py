"""Pictures of bundles and shower files, as PNG."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from qshower.model.bundle import Bundle
from qshower.model.geometry import Geometry
from qshower.model.showers_file import ShowersFile
from qshower.sampler.errors import InvalidInputError
from qshower.sampler.files import replacing
from qshower.sampler.gibbs.gibbs_sampler import GibbsSampler
from qshower.sampler.request import LatentRequest, SamplerOptions

MOST_SHOWERS = 10_000
SHOWERS_PER_ENERGY = 128

mpl.use("agg")


def draw_showers(file: ShowersFile, folder: Path) -> list[Path]:
    """Response, profiles, voxel spectrum and mean shower of a file's first 10,000 showers."""
    chunks = list(file.chunks(stop=MOST_SHOWERS))
    energies = np.concatenate([energies for energies, _ in chunks])
    showers = np.concatenate([showers for _, showers in chunks])
    return [
        _saved(folder, "profiles.png", _profiles(file.geometry, [(str(file.path.name), energies, showers)])),
        _saved(folder, "mean_shower.png", _mean_shower(file.geometry, showers)),
    ]


def draw_bundle(bundle: Bundle, folder: Path) -> list[Path]:
    """The machine's parameters, and profiles of showers generated at three energies."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, values, name in ((left, bundle.machine.h, "h [kT]"), (right, bundle.machine.j, "J [kT]")):
        axes.hist(values, bins=100, log=True)
        axes.set(xlabel=name, ylabel="number")
    groups = []
    with GibbsSampler() as sampler:
        for energy in np.geomspace(*bundle.domain_mev, 5)[1:4]:
            energies = np.full(SHOWERS_PER_ENERGY, energy)
            groups.append((f"{energy / 1000:.4g} GeV", energies, _generated(bundle, sampler, energies)))
    mean = np.concatenate([showers for _, _, showers in groups])
    return [
        _saved(folder, "machine.png", figure),
        _saved(folder, "profiles.png", _profiles(bundle.geometry, groups)),
        _saved(folder, "mean_shower.png", _mean_shower(bundle.geometry, mean)),
    ]


def _generated(bundle: Bundle, sampler: GibbsSampler, energies: NDArray[np.float64]) -> NDArray[np.float32]:
    streams = np.stack([np.zeros(energies.shape[0]), np.arange(energies.shape[0])], axis=1).astype(np.uint64)
    options = SamplerOptions(sweeps=bundle.default_sweeps)
    batch = sampler.sample(LatentRequest(bundle.machine, bundle.conditions(energies), streams, options))
    return bundle.decode(batch.spins, energies, streams, bundle.geometry.threshold_mev)


def _profiles(geometry: Geometry, groups: Iterable[tuple[str, NDArray[np.float64], NDArray[np.float32]]]) -> Figure:
    figure = Figure(figsize=(9, 7), layout="constrained")
    (response, depth), (radius, spectrum) = figure.subplots(2, 2)
    layers = geometry.layer_slices()
    rings = np.unique(geometry.r_mm())
    for name, energies, showers in groups:
        response.hist(showers.sum(axis=1) / energies, bins=60, histtype="step", density=True, label=name)
        means = [float(showers[:, part].sum(axis=1).mean()) for part in layers]
        depth.step([layer.id for layer in geometry.layers], means, where="mid", label=name)
        mean = showers.mean(axis=0)
        radius.plot(rings, [float(mean[geometry.r_mm() == ring].sum()) for ring in rings], ".-", label=name)
        hits = showers[showers > 0]
        if hits.size:
            bins = np.geomspace(hits.min(), max(hits.max(), hits.min() * 1.01), 60)
            spectrum.hist(hits, bins=bins.tolist(), histtype="step", label=name)
    response.set(xlabel="E_tot / E_inc", ylabel="density")
    depth.set(xlabel="layer", ylabel="mean energy [MeV]", yscale="log")
    radius.set(xlabel="r [mm]", ylabel="mean energy of the ring [MeV]", yscale="log")
    spectrum.set(xlabel="voxel energy [MeV]", ylabel="number", xscale="log", yscale="log")
    response.legend()
    return figure


def _mean_shower(geometry: Geometry, showers: NDArray[np.float32]) -> Figure:
    """Mean energy density of six layers, seen along the axis."""
    figure = Figure(figsize=(9, 6), layout="constrained")
    mean, slices = showers.mean(axis=0), geometry.layer_slices()
    picked = np.unique(np.linspace(0, len(slices) - 1, 6).round().astype(int))
    for place, index in enumerate(picked, 1):
        layer = geometry.layers[index]
        values = mean[slices[index]].reshape(layer.angular_bins, -1)
        axes = figure.add_subplot(2, 3, place, projection="polar")
        edges = np.asarray(layer.r_edges_mm)
        area = np.pi * np.diff(edges**2) / layer.angular_bins
        angles = np.linspace(-np.pi, np.pi, layer.angular_bins + 1)
        # A polar sector is drawn as a polygon: one bin around the whole axis needs more corners than two.
        fine = max(1, 64 // layer.angular_bins)
        around = np.linspace(-np.pi, np.pi, layer.angular_bins * fine + 1)
        density = np.repeat(values / area, fine, axis=0).T
        if density.max() > 0:
            density = np.log10(np.maximum(density, density.max() * 1e-4))
        axes.pcolormesh(around if fine > 1 else angles, edges, density)
        axes.set(title=f"layer {layer.id}", xticks=[], yticks=[])
    return figure


def _saved(folder: Path, name: str, figure: Figure) -> Path:
    if folder.exists() and not folder.is_dir():
        raise InvalidInputError("--output", str(folder), "a folder")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    return path
