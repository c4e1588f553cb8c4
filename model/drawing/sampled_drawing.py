"""Showers of a sampled decoder (``model.decoder``), drawn without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from qshower.model.decoder_shape import DecoderShape
from qshower.model.drawing.network_kernels import TrunkWeights, energy_features, trunk
from qshower.model.drawing.profile_kernels import ProfileWeights, draw_layers, draw_response, layer_energies
from qshower.model.drawing.sampled_kernels import VoxelWeights, sampled_voxels
from qshower.model.drawing.tensors import Tensors
from qshower.model.drawing.weights import profile_weights, radial, ring_weights, trunk_weights

Floats = NDArray[np.float32]
Spins = NDArray[np.int8]


@dataclass(frozen=True, slots=True, eq=False)
class SampledDrawing:
    """See the module; weights as the kernels want them."""

    shape: DecoderShape
    trunk: TrunkWeights
    profile: ProfileWeights
    voxels: VoxelWeights

    @classmethod
    def of(cls, shape: DecoderShape, tensors: Tensors) -> Self:
        """Of a decoder's tensors, as a bundle holds them."""
        voxels = VoxelWeights(
            shape.grid.mask(),
            *ring_weights(tensors, "voxels.rings"),
            *radial(tensors, "voxels.hit"),
            *radial(tensors, "voxels.activation"),
        )
        return cls(shape, trunk_weights(tensors), profile_weights(shape, tensors), voxels)

    @property
    def uniform_count(self) -> int:
        """Uniforms of one shower: total, layers (present, energy, hits), voxels (hit, activation)."""
        layers, angular, radial_bins = self.shape.grid.shape
        return 1 + 3 * layers + 2 * layers * angular * radial_bins

    def profiles(self, latents: Spins, energies: Floats, uniforms: Floats) -> tuple[Floats, Floats, Floats]:
        """ln(E_tot/E_inc) (rows,), ln shares as drawn and numbers of hits (rows, L) each; arguments as of ``draw``."""
        features, code, layer_code = self._codes(latents, energies)
        return self._profiles(features, code, layer_code, uniforms)

    def draw(self, latents: Spins, energies: Floats, uniforms: Floats) -> Floats:
        """Showers (rows, L, A, R) in MeV, in canonical orientation.

        ``latents`` (rows, bits) of −1 and +1, energies (rows,) in MeV, ``uniforms`` (rows, ≥ uniform_count) in (0, 1),
        of which the first are used. A row depends on its own arguments alone, to the bit.
        """
        features, code, layer_code = self._codes(latents, energies)
        log_response, log_shares, counts = self._profiles(features, code, layer_code, uniforms)
        shared = layer_energies(log_response, log_shares, counts, energies, 0.0)
        showers: Floats = sampled_voxels(
            layer_code,
            self.shape.layer_code,
            features,
            log_response,
            log_shares,
            counts,
            shared,
            uniforms,
            1 + 3 * self.shape.layers,
            self.shape.angular_channels,
            self.voxels,
        )
        return showers

    def _codes(self, latents: Spins, energies: Floats) -> tuple[Floats, Floats, Floats]:
        features = energy_features(energies, self.shape.domain_low_mev, self.shape.domain_high_mev)
        return features, *trunk(latents, features, self.trunk)

    def _profiles(
        self, features: Floats, code: Floats, layer_code: Floats, uniforms: Floats
    ) -> tuple[Floats, Floats, Floats]:
        anywhere = np.zeros((0, self.shape.layers), dtype=np.float32)
        log_response = draw_response(code, self.shape.trunk, features, uniforms, self.profile)
        log_shares, counts = draw_layers(
            log_response,
            layer_code,
            self.shape.layer_code,
            features,
            uniforms,
            self.profile,
            self.shape.profile_memory,
            anywhere,
            anywhere,
        )
        return log_response, log_shares, counts
