"""Training showers in memory: read, checked, brought to canonical orientation, split, with their features."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qshower.model.binning_xml import read_binning_xml
from qshower.model.decoder import ShowerView
from qshower.model.encoder import shower_features
from qshower.model.geometry import GEOMETRIES, Geometry, named_geometry
from qshower.model.grid import Grid
from qshower.model.manifest import Symmetry
from qshower.model.shower_checks import ShowerTally, findings_of, shared_rows
from qshower.model.showers_file import read_showers
from qshower.model.symmetry import canonical_elements, fitting_symmetry, turn
from qshower.model.training.sections import DataSection
from qshower.sampler.errors import DefectError, InvalidInputError, ShowerFileError

FEATURE_ROWS = 512


@dataclass(frozen=True, slots=True, eq=False)
class TrainingShowers:
    """Showers on the grid, canonical orientation, with what the networks see of them.

    Attributes:
        geometry: voxel layout.
        symmetry: of the networks.
        energies: (rows,) float64 incident energies in MeV.
        showers: (rows, L, A, R) float32 in MeV, voxels below the threshold 0.
        features: (rows, ·) float32, the encoder's input.
        log_response, log_share, count: as in ``ShowerView``.
        training, validation: row indices.
        probability: of each training row to be drawn.
        sources: name, SHA-256, rows and weight of each file.
    """

    geometry: Geometry
    symmetry: Symmetry
    energies: NDArray[np.float64]
    showers: NDArray[np.float32]
    features: Tensor
    log_response: Tensor
    log_share: Tensor
    count: Tensor
    training: NDArray[np.int64]
    validation: NDArray[np.int64]
    probability: NDArray[np.float64]
    sources: list[dict[str, object]]

    def view(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor, ShowerView]:
        """Showers, energies and view of some rows."""
        showers = torch.from_numpy(self.showers[rows])
        energies = torch.from_numpy(self.energies[rows]).float()
        hit = showers > 0
        count, log_share, log_response = self.count[rows], self.log_share[rows], self.log_response[rows]
        log_mean = log_share + (log_response + energies.log()).unsqueeze(1) - count.clamp_min(1.0).log()
        activation = showers[hit].log() - log_mean[:, :, None, None].expand_as(showers)[hit]
        return showers, energies, ShowerView(log_response, log_share, count, hit, activation)


def geometry_of(section: DataSection) -> Geometry:
    """The geometry a configuration names."""
    if section.geometry in GEOMETRIES:
        return named_geometry(section.geometry)
    path = Path(section.geometry)
    if not path.is_file():
        raise InvalidInputError(
            "data.geometry", section.geometry, f"one of {', '.join(sorted(GEOMETRIES))}, or a binning XML file"
        )
    return read_binning_xml(path, section.particle, eta_range=section.eta_range, threshold_mev=section.threshold_mev)


def load_training_showers(
    section: DataSection,
    symmetry: Symmetry | None,
    seed: int,
    *,
    check: bool = True,
    announce: Callable[[str], None] = lambda _: None,
) -> TrainingShowers:
    """Read the files of a configuration.

    Args:
        section: of the configuration.
        symmetry: of the networks, None for the one that fits the geometry; where it is ``dihedral``, showers are
            turned to canonical orientation.
        seed: of the choice of what is kept out of the training.
        check: refuse showers that cannot be in MeV, or most of which are empty; otherwise these too are announced.
        announce: told what is odd about the showers.

    Returns:
        All showers in canonical orientation, split into those to train on and those to validate on.

    Raises:
        InvalidInputError: energies outside the domain, or showers that ``check`` refuses.
    """
    geometry = geometry_of(section)
    threshold = section.threshold_mev if section.threshold_mev is not None else geometry.threshold_mev
    grid = Grid.of(geometry)
    symmetry = fitting_symmetry(symmetry, grid)
    energies_of: list[NDArray[np.float64]] = []
    showers_of: list[NDArray[np.float32]] = []
    weight_of: list[NDArray[np.float64]] = []
    sources: list[dict[str, object]] = []
    low, high = section.domain_mev
    earlier = np.zeros(1, dtype=np.uint64)
    for file in section.files:
        energies, voxels = read_showers(file.path, geometry)
        tally = _tally(energies, voxels, threshold)
        for finding in findings_of(tally.result()):
            if finding.severe and check:
                allowed = "showers in MeV that deposit energy; --no-check-data trains on these as they are"
                raise ShowerFileError(str(file.path), finding.text, allowed)
            announce(f"{file.path.name}: warning: {finding.text}")
        shared, _ = shared_rows(earlier, tally.digests())
        if shared.size:
            announce(f"{file.path.name}: warning: {shared.size} showers are in an earlier file as well.")
        earlier = np.concatenate([earlier, tally.digests()])
        outside = np.flatnonzero((energies < low) | (energies > high))
        if len(outside):
            value = f"{energies[outside[0]]:g} MeV in row {outside[0]} of {file.path.name}"
            raise InvalidInputError(
                "data.domain_mev", value, f"a domain that holds the data, now {low:g} to {high:g} MeV"
            )
        showers = grid.from_voxels(np.where(voxels < threshold, np.float32(0), voxels))
        energies_of.append(energies)
        showers_of.append(turn(showers, canonical_elements(showers, grid), grid) if symmetry == "dihedral" else showers)
        weight_of.append(np.full(len(energies), file.weight / len(energies)))
        digest = hashlib.sha256(file.path.read_bytes()).hexdigest()
        sources.append({"file": file.path.name, "sha256": digest, "showers": len(energies), "weight": file.weight})
    energies, showers = np.concatenate(energies_of), np.concatenate(showers_of)
    weight = np.concatenate(weight_of)
    order = np.random.default_rng((seed, 0)).permutation(len(energies))
    kept = max(1, int(section.validation_fraction * len(order)))
    training, validation = np.sort(order[kept:]), np.sort(order[:kept])
    if len(training) < 2:
        raise DefectError("data.files", f"{len(order)} showers", "enough showers to train and validate on")
    features, responses, shares, counts = [], [], [], []
    for start in range(0, len(energies), FEATURE_ROWS):
        rows = torch.from_numpy(showers[start : start + FEATURE_ROWS])
        view = ShowerView.of(rows, torch.from_numpy(energies[start : start + FEATURE_ROWS]).float())
        features.append(shower_features(rows, view))
        responses.append(view.log_response)
        shares.append(view.log_share)
        counts.append(view.count)
    return TrainingShowers(
        geometry=geometry,
        symmetry=symmetry,
        energies=energies,
        showers=showers,
        features=torch.cat(features),
        log_response=torch.cat(responses),
        log_share=torch.cat(shares),
        count=torch.cat(counts),
        training=training,
        validation=validation,
        probability=weight[training] / weight[training].sum(),
        sources=sources,
    )


def _tally(energies: NDArray[np.float64], voxels: NDArray[np.float32], threshold_mev: float) -> ShowerTally:
    tally = ShowerTally(threshold_mev)
    for start in range(0, len(voxels), FEATURE_ROWS):
        rows = slice(start, start + FEATURE_ROWS)
        tally.add(energies[rows], voxels[rows])
    return tally
