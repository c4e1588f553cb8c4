"""Showers of a depth decoder (``model.depth_decoder``), drawn without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from qshower.model.decoder_shape import FIELDS, SHARES, WINDOW, DecoderShape
from qshower.model.drawing.code_kernels import CodeWeights, profile_codes
from qshower.model.drawing.depth_kernels import DepthWeights, depth_voxels
from qshower.model.drawing.network_kernels import energy_features
from qshower.model.drawing.products import packed, padded
from qshower.model.drawing.profile_kernels import ProfileWeights, draw_layers, draw_response, layer_energies
from qshower.model.drawing.share_kernels import cell_limits
from qshower.model.drawing.stick_kernels import StickWeights
from qshower.model.drawing.sticks import angular_waves
from qshower.model.drawing.tensors import Tensors
from qshower.model.drawing.weights import linear, per_layer, profile_weights

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Spins = NDArray[np.int8]


@dataclass(frozen=True, slots=True, eq=False)
class DepthDrawing:
    """See the module; weights as the kernels want them.

    Attributes:
        shape: sizes of the decoder.
        visible: (L · bits_per_layer,) places, among the free spins, of the code's bits.
        cells: terms and span of the ``ShareCells`` that the bits name, if they name any.
        code: weights of the profile's codes.
        profile: weights of the profile.
        voxels: weights of the voxels.
    """

    shape: DecoderShape
    visible: NDArray[np.int64]
    cells: tuple[Doubles, Doubles] | None
    code: CodeWeights
    profile: ProfileWeights
    voxels: DepthWeights

    @classmethod
    def of(cls, shape: DecoderShape, tensors: Tensors) -> Self:
        """Of a decoder's tensors, as a bundle holds them."""
        cells = None
        if shape.share_bits:
            terms, span = (tensors[name].astype(np.float64) for name in ("share_terms", "share_span"))
            cells = terms, span
        bits, bits_bias = linear(tensors, "profile_bits")
        energy, energy_bias = per_layer(tensors, "profile_energy")
        code = CodeWeights(*linear(tensors, "shower_code"), bits, energy, energy_bias + bits_bias)
        visible = tensors["visible"].astype(np.int64).reshape(-1)
        return cls(shape, visible, cells, code, profile_weights(shape, tensors), _voxel_weights(shape, tensors))

    @property
    def uniform_count(self) -> int:
        """Uniforms of one shower: total, layers (present, energy, hits), voxels (hit, energy)."""
        layers, angular, radial = self.shape.grid.shape
        return 1 + 3 * layers + 2 * layers * angular * radial

    def profiles(self, latents: Spins, energies: Floats, uniforms: Floats) -> tuple[Floats, Floats, Floats]:
        """ln(E_tot/E_inc) (rows,), ln shares as drawn and numbers of hits (rows, L) each; arguments as of ``draw``."""
        return self._profiles(self._bits(latents), self._features(energies), energies, uniforms)

    def draw(self, latents: Spins, energies: Floats, uniforms: Floats) -> Floats:
        """Showers (rows, L, A, R) in MeV, in canonical orientation; arguments as of ``SampledDrawing.draw``."""
        bits, features = self._bits(latents), self._features(energies)
        log_response, log_shares, counts = self._profiles(bits, features, energies, uniforms)
        shared = layer_energies(log_response, log_shares, counts, energies, self.shape.threshold_mev)
        showers: Floats = depth_voxels(
            bits,
            self.shape.share_bits,
            features,
            log_response,
            log_shares,
            counts,
            shared,
            uniforms,
            1 + 3 * self.shape.layers,
            (self.shape.angular_channels, self.shape.voxel_channels),
            np.float32(self.shape.threshold_mev),
            self.voxels,
        )
        return showers

    def _bits(self, latents: Spins) -> Spins:
        return np.ascontiguousarray(latents[:, self.visible]).reshape(-1, self.shape.layers, self.shape.bits_per_layer)

    def _features(self, energies: Floats) -> Floats:
        features: Floats = energy_features(energies, self.shape.domain_low_mev, self.shape.domain_high_mev)
        return features

    def _profiles(
        self, bits: Spins, features: Floats, energies: Floats, uniforms: Floats
    ) -> tuple[Floats, Floats, Floats]:
        low = high = np.zeros((0, self.shape.layers), dtype=np.float32)
        if self.cells is not None:
            limits = cell_limits(bits, energies.astype(np.float64), *self.cells)
            low, high = (limit.clip(*SHARES).astype(np.float32) for limit in limits)
        code, layer_code = profile_codes(bits, features, self.shape.layer_code, self.code)
        log_response = draw_response(code, self.shape.trunk, features, uniforms, self.profile)
        log_shares, counts = draw_layers(
            log_response,
            layer_code,
            self.shape.layer_code,
            features,
            uniforms,
            self.profile,
            self.shape.profile_memory,
            low,
            high,
        )
        return log_response, log_shares, counts


def _voxel_weights(shape: DecoderShape, tensors: Tensors) -> DepthWeights:
    radial, channels, width = shape.grid.shape[2], shape.voxel_channels, shape.hit_channels
    ring, ring_bias = linear(tensors, "ring")
    ring_energy, ring_energy_bias = per_layer(tensors, "ring_energy")
    hit, hit_bias = linear(tensors, "hit")
    energy, energy_bias = linear(tensors, "energy")
    window = tensors["window"].reshape(channels, 2 * WINDOW + 1, FIELDS, radial).transpose(3, 1, 2, 0)
    harmonics = tensors["harmonics"].reshape(3, channels, FIELDS, radial).transpose(3, 0, 2, 1)
    near = tensors["energy_near"].reshape(width, 3, radial).transpose(1, 2, 0)
    sticks = StickWeights(
        packed(tensors["energy_stick.weight"].T),
        packed(tensors["energy_law.weight"].T),
        padded(tensors["energy_ring"] + tensors["energy_stick.bias"]),
        padded(tensors["energy_law.bias"] + tensors["energy_law_ring"]),
        angular_waves(shape.grid.shape[1]),
    )
    return DepthWeights(
        *per_layer(tensors, "layer"),
        ring,
        ring_energy,
        ring_bias + ring_energy_bias,
        *linear(tensors, "around"),
        *linear(tensors, "mix"),
        hit,
        hit_bias + padded(tensors["hit_layer"]),
        energy,
        energy_bias + padded(tensors["energy_layer"]),
        padded(near),
        padded(tensors["energy_rings"].T),
        padded(window.reshape(radial, 2 * WINDOW + 1, FIELDS * channels)),
        padded(harmonics.reshape(radial, 3, FIELDS * channels)),
        sticks,
    )
