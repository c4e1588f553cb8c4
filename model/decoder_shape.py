"""Sizes of a decoder, and the constants that its likelihood (torch) and its draws (``model.drawing``) share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qshower.model.grid import Grid

Likelihood = Literal["sampled", "squared_error", "depth"]
ScalingKind = Literal["logit", "log1p"]

ENERGY_FEATURES = 6
PROFILE_COMPONENTS = 3
VOXEL_COMPONENTS = 3
EMPTY_LOG_SHARE = -14.0
"""The ln share of a layer without hits."""
# Logarithms of the response vary by percents, those of shares by units: this brings them to one scale.
RESPONSE_SCALE = 10.0
LAYER_VALUES = 3
NEIGHBOUR_LAYERS = 2
# ln σ of a component lies between these.
MIN_LOG_SCALE, MAX_LOG_SCALE = -5.0, 2.0
SCALE_CENTRE = (MAX_LOG_SCALE + MIN_LOG_SCALE) / 2
SCALE_HALF = (MAX_LOG_SCALE - MIN_LOG_SCALE) / 2

# Of the decoder for coded latents (``model.depth_decoder``, ``model.share_cells``).
FIELDS = 3
FORGET = 0.25
FIELD_SCALE_MEV, FIELD_UNIT = 0.2, 0.25
WINDOW = 2
BITS_WINDOW, PROFILE_BITS_WINDOW = 1, 2
STICK_VALUES = 7
REFERENCE_MEV = 10**4.5
SHARE_POWERS = 4
LEAST_REMAINING = 1e-3
"""Added to what is left of the energy, whose logarithm is then finite."""
SHARES = (-30.0, 0.0)
"""Between which every x (``share_cells``) lies."""

# Of the decoder with the reference's heads (``model.point_decoder``): ε ≤ 1 is ln(1 + 1/0.04) = 3.26 for log1p,
# 2·ln(1/1e-7) = 32.2 for logit.
HIGHEST_SCALED = {"log1p": 3.3, "logit": 32.3}
LOGIT_REGULATOR, LOG1P_REGULATOR = 1e-7, 0.04


@dataclass(frozen=True, slots=True)
class DecoderShape:
    """Sizes of a decoder.

    ``domain_low_mev`` and ``domain_high_mev`` set the scale of its energy features; ``profile_memory`` is how many
    layers before a layer are seen when that layer's energy is drawn, 0 for none (its energy then depends on the latent
    and the energies alone). ``bits_per_layer``, ``share_bits`` (how many of those, the first, name the cell of the
    layer's energy share), ``hit_channels`` and ``threshold_mev``, the least energy of a hit voxel, are for
    ``model.depth_decoder``.
    """

    latent_bits: int
    angular_bins: tuple[int, ...]
    radial_bins: tuple[int, ...]
    domain_low_mev: float
    domain_high_mev: float
    trunk: int = 384
    layer_code: int = 32
    layer_hidden: int = 96
    angular_channels: int = 12
    voxel_channels: int = 32
    profile_hidden: int = 64
    profile_memory: int = 2
    bits_per_layer: int = 0
    share_bits: int = 0
    hit_channels: int = 32
    threshold_mev: float = 0.0

    @property
    def grid(self) -> Grid:
        """The voxels' grid."""
        return Grid(tuple(self.angular_bins), tuple(self.radial_bins))

    @property
    def layers(self) -> int:
        """Number of layers."""
        return len(self.angular_bins)
