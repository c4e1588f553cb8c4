"""Showers of the reference's decoder heads (``model.point_decoder``), drawn without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from qshower.model.decoder_shape import HIGHEST_SCALED, DecoderShape, ScalingKind
from qshower.model.drawing.network_kernels import TrunkWeights, energy_features, trunk
from qshower.model.drawing.point_kernels import PointWeights, point_voxels
from qshower.model.drawing.tensors import Tensors
from qshower.model.drawing.weights import radial, ring_weights, trunk_weights

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class PointDrawing:
    """See the module; ``scaling`` is the name of the voxel scaling, weights are as the kernels want them."""

    shape: DecoderShape
    scaling: ScalingKind
    trunk: TrunkWeights
    voxels: PointWeights

    @classmethod
    def of(cls, shape: DecoderShape, scaling: ScalingKind, tensors: Tensors) -> Self:
        """Of a decoder's tensors, as a bundle holds them."""
        voxels = PointWeights(shape.grid.mask(), *ring_weights(tensors, "rings"), *radial(tensors, "heads"))
        return cls(shape, scaling, trunk_weights(tensors), voxels)

    @property
    def uniform_count(self) -> int:
        """Uniforms of one shower: one per voxel of the grid."""
        layers, angular, radial_bins = self.shape.grid.shape
        return layers * angular * radial_bins

    def draw(self, latents: NDArray[np.int8], energies: Floats, uniforms: Floats) -> Floats:
        """Showers (rows, L, A, R) in MeV; arguments as of ``SampledDrawing.draw``."""
        features = energy_features(energies, self.shape.domain_low_mev, self.shape.domain_high_mev)
        _, layer_code = trunk(latents, features, self.trunk)
        showers: Floats = point_voxels(
            layer_code,
            self.shape.layer_code,
            features,
            energies,
            uniforms,
            self.shape.angular_channels,
            self.scaling == "log1p",
            HIGHEST_SCALED[self.scaling],
            self.voxels,
        )
        return showers
