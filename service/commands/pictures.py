"""Pictures of bundles and shower files, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qshower.evaluation.profiles import profiles_of
from qshower.evaluation.report_figures import ring_figure
from qshower.evaluation.svg import histogram_figure, line_figure, sheet
from qshower.model.bundle import Bundle
from qshower.model.geometry import Geometry
from qshower.model.showers_file import ShowersFile
from qshower.sampler.errors import DefectError
from qshower.sampler.files import replaceable, write_file
from qshower.sampler.gibbs.gibbs_sampler import GibbsSampler
from qshower.sampler.request import LatentRequest, SamplerOptions, streams_of

SHOWERS_PICTURE, MACHINE_PICTURE = "showers.svg", "machine.svg"
MOST_SHOWERS = 10_000
SHOWERS_PER_ENERGY = 128
BINS = 60
LEAST_HIGH_MEV = 1e-6
"""End of the colours where all showers are empty."""

Group = tuple[str, NDArray[np.float64], NDArray[np.float32]]
"""Name, incident energies and showers."""


def draw_showers(file: ShowersFile, folder: Path) -> list[Path]:
    """Response, profiles, voxel spectrum and mean shower of a file's first 10,000 showers."""
    chunks = list(file.chunks(stop=MOST_SHOWERS))
    energies = np.concatenate([energies for energies, _ in chunks])
    showers = np.concatenate([showers for _, showers in chunks])
    return [_saved(folder, SHOWERS_PICTURE, _profiles(file.geometry, [(file.path.name, energies, showers)]))]


def draw_bundle(bundle: Bundle, folder: Path) -> list[Path]:
    """The machine's parameters, and profiles of showers generated at three energies."""
    groups = []
    with GibbsSampler() as sampler:
        for energy in np.geomspace(*bundle.domain_mev, 5)[1:4]:
            energies = np.full(SHOWERS_PER_ENERGY, energy)
            groups.append((f"{energy / 1000:.4g} GeV", energies, _generated(bundle, sampler, energies)))
    machine = [
        _histogram(f"{name} [kT]", [values]) for name, values in (("h", bundle.machine.h), ("J", bundle.machine.j))
    ]
    return [
        _saved(folder, MACHINE_PICTURE, sheet(machine)),
        _saved(folder, SHOWERS_PICTURE, _profiles(bundle.geometry, groups)),
    ]


def _generated(bundle: Bundle, sampler: GibbsSampler, energies: NDArray[np.float64]) -> NDArray[np.float32]:
    streams = streams_of(0, energies.shape[0])
    options = SamplerOptions(sweeps=bundle.default_sweeps)
    batch = sampler.sample(LatentRequest(bundle.machine, bundle.conditions(energies), streams, options))
    return bundle.decode(batch.spins, energies, streams, bundle.geometry.threshold_mev)


def _profiles(geometry: Geometry, groups: Sequence[Group]) -> str:
    """The first group is drawn in grey, the others in colour."""
    profiles = [profiles_of(geometry, showers.mean(axis=0, dtype=np.float64), len(showers)) for _, _, showers in groups]
    names = ", ".join(name for name, _, _ in groups)
    layers = np.array([layer.id for layer in geometry.layers], dtype=np.float64)
    figures = [
        _histogram("E_tot / E_inc", [showers.sum(axis=1) / energies for _, energies, showers in groups], title=names),
        line_figure("Energy by layer [MeV]", "layer", layers, [one.longitudinal for one in profiles], log_y=True),
        line_figure(
            "Energy by ring [MeV]", "radius [mm]", profiles[0].radii_mm, [one.radial for one in profiles], log_y=True
        ),
        _histogram("voxel energy [MeV]", [showers[showers > 0] for _, _, showers in groups], log_x=True),
    ]
    for (name, _, _), profile in zip(groups, profiles, strict=True):
        high_mev = max(float(np.nanmax(profile.rings)), LEAST_HIGH_MEV)
        ids = [layer.id for layer in geometry.layers]
        figures.append(ring_figure(name, ids, profile.radii_mm, profile.rings, high_mev=high_mev))
    return sheet(figures)


def _histogram(axis: str, groups: Sequence[NDArray[np.floating]], *, title: str = "", log_x: bool = False) -> str:
    values = np.concatenate(groups)
    low, high = (float(values.min()), float(values.max())) if values.size else (1.0, 2.0)
    edges = (
        np.geomspace(low, max(high, low * 1.01), BINS + 1)
        if log_x
        else np.linspace(low, max(high, low + 1e-6), BINS + 1)
    )
    counts = [np.histogram(group, edges)[0].astype(np.float64) for group in groups]
    return histogram_figure(title, axis, edges, counts[0], counts[1:], log_x=log_x, log_y=True)


def check_folder(folder: Path, *names: str) -> None:
    """DefectError if pictures of these names cannot be written into the folder, before anything long is read."""
    if folder.exists() and not folder.is_dir():
        raise DefectError(str(folder), "a file, not a folder", "a folder for pictures")
    for name in names:
        replaceable(folder / name)


def _saved(folder: Path, name: str, drawing: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    write_file(path, drawing)
    return path
