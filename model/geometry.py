"""The voxel layout of a segmented calorimeter, and the four layouts of the CaloChallenge.

A shower is a vector of voxel energies in MeV. Voxels are ordered by layer (slowest), then angular bin, then radial bin
(fastest)::

    voxel = start(layer) + angle * radial_bins + radius          angle edges: uniform on [-pi, pi]

Centres are bin centres: r = (r_i + r_(i+1)) / 2, alpha likewise, x = r cos(alpha) (the challenge's "eta" direction) and
y = r sin(alpha) (its "phi" direction), in mm.

Source of the numbers: the CaloChallenge's binning files and arXiv:2410.21611.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.errors import DefectError, InvalidInputError

SILICON_THRESHOLD_MEV = 0.01515
"""Readout threshold of datasets 2 and 3: 0.5 keV in silicon, divided by the sampling fraction 0.033."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of voxels.

    Attributes:
        id: the detector's number of the layer; ids grow, and may leave gaps.
        r_edges_mm: (radial bins + 1,) edges, growing, from 0 outwards.
        angular_bins: number of equal bins on [-pi, pi].
    """

    id: int
    r_edges_mm: tuple[float, ...]
    angular_bins: int

    def __post_init__(self) -> None:
        if self.id < 0:
            raise InvalidInputError("layer id", self.id, "an integer >= 0")
        if self.angular_bins < 1:
            raise InvalidInputError(f"angular_bins of layer {self.id}", self.angular_bins, "an integer >= 1")
        edges = self.r_edges_mm
        growing = all(low < high for low, high in itertools.pairwise(edges))
        if len(edges) < 2 or not all(math.isfinite(edge) for edge in edges) or edges[0] < 0 or not growing:
            raise InvalidInputError(f"r_edges_mm of layer {self.id}", edges, "two or more growing numbers >= 0")

    @property
    def radial_bins(self) -> int:
        """Number of radial bins."""
        return len(self.r_edges_mm) - 1

    @property
    def voxel_count(self) -> int:
        """Number of voxels in the layer."""
        return self.radial_bins * self.angular_bins

    def r_centres_mm(self) -> NDArray[np.float64]:
        """(voxels,) radius of each voxel's centre, in the order of the voxels."""
        edges = np.asarray(self.r_edges_mm, dtype=np.float64)
        return np.tile((edges[:-1] + edges[1:]) / 2, self.angular_bins)

    def alpha_centres(self) -> NDArray[np.float64]:
        """(voxels,) angle of each voxel's centre in radians, in the order of the voxels."""
        edges = np.linspace(-np.pi, np.pi, self.angular_bins + 1)
        return np.repeat((edges[:-1] + edges[1:]) / 2, self.radial_bins)


@dataclass(frozen=True, slots=True)
class Geometry:
    """A named voxel layout.

    Attributes:
        name: the CaloChallenge's name (``"1-photons"``, ``"1-pions"``, ``"2"``, ``"3"``) or a name of one's own.
        particle: ``"photon"``, ``"pion"``, ``"electron"``, …
        pid: PDG number of the particle.
        layers: the layers that have voxels, by growing id.
        threshold_mev: readout threshold; voxels below it are empty.
        eta_range: pseudorapidity × 100 covered by the binning, None where it does not apply.
        voxel_count: number of voxels of a shower, counted once: every request asks for it several times.
    """

    name: str
    particle: str
    pid: int
    layers: tuple[Layer, ...]
    threshold_mev: float
    eta_range: tuple[float, float] | None = None
    voxel_count: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "voxel_count", sum(layer.voxel_count for layer in self.layers))
        if not self.layers:
            raise InvalidInputError("layers", self.layers, "at least one layer with voxels")
        ids = [layer.id for layer in self.layers]
        if any(low >= high for low, high in itertools.pairwise(ids)):
            raise InvalidInputError("layers", ids, "growing ids, each once")
        if not (math.isfinite(self.threshold_mev) and self.threshold_mev >= 0):
            raise InvalidInputError("threshold_mev", self.threshold_mev, "a number >= 0")

    @property
    def layer_count(self) -> int:
        """Number of layers that have voxels."""
        return len(self.layers)

    @property
    def is_regular(self) -> bool:
        """True if all layers have the same bins, so that a shower is a (layers, angles, radii) block."""
        first = self.layers[0]
        return all(
            layer.r_edges_mm == first.r_edges_mm and layer.angular_bins == first.angular_bins for layer in self.layers
        )

    @property
    def block_shape(self) -> tuple[int, int, int]:
        """(layers, angles, radii) of a regular geometry; InvalidInputError for another."""
        if not self.is_regular:
            raise InvalidInputError("geometry", self.name, "a geometry whose layers all have the same bins")
        return self.layer_count, self.layers[0].angular_bins, self.layers[0].radial_bins

    def layer_slices(self) -> tuple[slice, ...]:
        """The voxels of each layer, in the order of ``layers``."""
        ends = np.cumsum([layer.voxel_count for layer in self.layers]).tolist()
        return tuple(slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True))

    def r_mm(self) -> NDArray[np.float64]:
        """(voxels,) radius of each voxel's centre."""
        return np.concatenate([layer.r_centres_mm() for layer in self.layers])

    def x_mm(self) -> NDArray[np.float64]:
        """(voxels,) r cos(alpha) of each voxel's centre: the "eta" direction."""
        return np.concatenate([layer.r_centres_mm() * np.cos(layer.alpha_centres()) for layer in self.layers])

    def y_mm(self) -> NDArray[np.float64]:
        """(voxels,) r sin(alpha) of each voxel's centre: the "phi" direction."""
        return np.concatenate([layer.r_centres_mm() * np.sin(layer.alpha_centres()) for layer in self.layers])

    def as_dict(self) -> dict[str, Any]:
        """A JSON-ready description; ``geometry_from_dict`` reads it back."""
        return {
            "name": self.name,
            "particle": self.particle,
            "pid": self.pid,
            "threshold_mev": self.threshold_mev,
            "eta_range": list(self.eta_range) if self.eta_range is not None else None,
            "voxel_count": self.voxel_count,
            "layers": [
                {"id": layer.id, "r_edges_mm": list(layer.r_edges_mm), "angular_bins": layer.angular_bins}
                for layer in self.layers
            ],
        }


def geometry_from_dict(values: Mapping[str, Any]) -> Geometry:
    """The geometry described by ``Geometry.as_dict``; InvalidInputError where something is missing or wrong."""
    try:
        layers = tuple(
            Layer(int(layer["id"]), tuple(float(edge) for edge in layer["r_edges_mm"]), int(layer["angular_bins"]))
            for layer in values["layers"]
        )
        eta = values.get("eta_range")
        geometry = Geometry(
            name=str(values["name"]),
            particle=str(values["particle"]),
            pid=int(values["pid"]),
            layers=layers,
            threshold_mev=float(values["threshold_mev"]),
            eta_range=None if eta is None else (float(eta[0]), float(eta[1])),
        )
    except InvalidInputError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise DefectError("geometry", f"{type(error).__name__}: {error}", "the fields of a geometry") from error
    if "voxel_count" in values and values["voxel_count"] != geometry.voxel_count:
        raise InvalidInputError("voxel_count", values["voxel_count"], f"{geometry.voxel_count}, as the layers have it")
    return geometry


def _layers(*specifications: tuple[int, str, int]) -> tuple[Layer, ...]:
    return tuple(
        Layer(number, tuple(float(edge) for edge in edges.split()), angular)
        for number, edges, angular in specifications
    )


def _regular_layers(count: int, radial_bins: int, step_mm: float, angular_bins: int) -> tuple[Layer, ...]:
    # Rounded, so that the edges are the decimal numbers of the binning files.
    edges = tuple(round(step_mm * index, 6) for index in range(radial_bins + 1))
    return tuple(Layer(number, edges, angular_bins) for number in range(count))


_FRONT = (0, "0 5 10 30 50 100 200 400 600", 1)
_BACK = (3, "0 50 100 200 400 600", 1)

_PHOTON_LAYERS = _layers(
    _FRONT,
    (1, "0 2 4 6 8 10 12 15 20 30 40 50 70 90 120 150 200", 10),
    (2, "0 2 5 10 15 20 25 30 40 50 60 80 100 130 160 200 250 300 350 400", 10),
    _BACK,
    (12, "0 100 200 400 1000 2000", 1),
)

_PION_LAYERS = _layers(
    _FRONT,
    (1, "0 1 4 7 10 15 30 50 90 150 200", 10),
    (2, "0 5 10 20 30 50 80 130 200 300 400", 10),
    _BACK,
    (12, "0 10 20 30 50 80 100 130 160 200 250 300 350 400 1000 2000", 10),
    (13, "0 10 20 30 50 80 100 130 160 200 250 300 350 400 600 1000 2000", 10),
    (14, "0 50 100 150 200 250 300 400 600 1000 2000", 1),
)


def _by_name(geometries: Sequence[Geometry]) -> dict[str, Geometry]:
    return {geometry.name: geometry for geometry in geometries}


GEOMETRIES: Mapping[str, Geometry] = _by_name(
    (
        Geometry("1-photons", "photon", 22, _PHOTON_LAYERS, 1.0, (0.0, 130.0)),
        Geometry("1-pions", "pion", 211, _PION_LAYERS, 1.0, (0.0, 80.0)),
        Geometry("2", "electron", 11, _regular_layers(45, 9, 4.65, 16), SILICON_THRESHOLD_MEV),
        Geometry("3", "electron", 11, _regular_layers(45, 18, 2.325, 50), SILICON_THRESHOLD_MEV),
    )
)
"""The CaloChallenge's layouts by name: 368, 533, 6480 and 40500 voxels."""


def named_geometry(name: str) -> Geometry:
    """The built-in geometry of that name; InvalidInputError, naming those that exist, for another."""
    try:
        return GEOMETRIES[name]
    except KeyError:
        raise InvalidInputError("geometry", name, f"one of {', '.join(GEOMETRIES)}") from None


def geometry_of_voxel_count(voxel_count: int) -> Geometry:
    """The built-in geometry with that many voxels: how a file of unknown origin is recognised."""
    for geometry in GEOMETRIES.values():
        if geometry.voxel_count == voxel_count:
            return geometry
    known = ", ".join(f"{geometry.voxel_count} ({name})" for name, geometry in GEOMETRIES.items())
    raise InvalidInputError("voxel count", voxel_count, known)
