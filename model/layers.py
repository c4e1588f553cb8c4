"""Network parts shared by decoders: energy features, the trunk, and convolutions around the shower's axis."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from qshower.model.decoder_shape import ENERGY_FEATURES, DecoderShape


class PerLayerLinear(nn.Module):
    """A linear map of its own for each layer: (rows, L, i) → (rows, L, o)."""

    def __init__(self, layers: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(layers, inputs, outputs) * inputs**-0.5)
        self.bias = nn.Parameter(torch.zeros(layers, 1, outputs))

    def forward(self, values: Tensor) -> Tensor:
        """(rows, L, i) → (rows, L, o)."""
        return torch.baddbmm(self.bias, values.transpose(0, 1), self.weight).transpose(0, 1)


def energy_features(shape: DecoderShape, incident_energies: Tensor) -> Tensor:
    """Smooth functions of ln E, (rows, ENERGY_FEATURES), of energies (rows,) in MeV."""
    span = torch.tensor(shape.domain_high_mev / shape.domain_low_mev, dtype=torch.float64).log()
    t = ((incident_energies.double() / shape.domain_low_mev).log() / span * 2 - 1).float()
    waves = (torch.sin(torch.pi * t), torch.cos(torch.pi * t), torch.sin(2 * torch.pi * t))
    return torch.stack([t, t * t - 0.5, *waves, torch.exp(-2 * (t + 1))], dim=1)


class Trunk(nn.Module):
    """Latent and energy → a code of the shower and one of each layer."""

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.shape = shape
        self.first = nn.Linear(shape.latent_bits + ENERGY_FEATURES, shape.trunk)
        self.second = nn.Linear(shape.trunk + ENERGY_FEATURES, shape.trunk)
        self.layer_code = nn.Linear(shape.trunk, shape.layers * shape.layer_code)

    def forward(self, latent: Tensor, energy: Tensor) -> tuple[Tensor, Tensor]:
        """Spins (rows, bits) of −1 and +1, energy features → shower code (rows, trunk), layer codes (rows, L, code)."""
        hidden = gelu(self.first(torch.cat([latent, energy], dim=1)))
        code = gelu(self.second(torch.cat([hidden, energy], dim=1)))
        return code, gelu(self.layer_code(code)).view(-1, self.shape.layers, self.shape.layer_code)


class Rings(nn.Module):
    """What is known of each layer → a code of every angular bin, by a convolution with circular padding."""

    def __init__(self, shape: DecoderShape, inputs: int) -> None:
        super().__init__()
        layers, angular, _ = shape.grid.shape
        self.size = (layers, angular, shape.angular_channels)
        self.hidden = PerLayerLinear(layers, inputs, shape.layer_hidden)
        self.ring = PerLayerLinear(layers, shape.layer_hidden, angular * shape.angular_channels)
        self.around = nn.Linear(3 * shape.angular_channels, shape.voxel_channels)

    def forward(self, values: Tensor) -> Tensor:
        """(rows, L, inputs) → (rows, L, A, voxel_channels)."""
        ring = gelu(self.ring(gelu(self.hidden(values)))).reshape(-1, *self.size)
        padded = torch.cat([ring[:, :, -1:], ring, ring[:, :, :1]], dim=2)
        channels = self.size[2]
        # Each bin with its two neighbours: overlapping pieces of three bins.
        around = padded.flatten(2).unfold(2, 3 * channels, channels).contiguous()
        return gelu(cast("Tensor", self.around(around)))


class RadialOutputs(nn.Module):
    """A code of every angular bin → ``width`` outputs of every voxel, with a bias of each layer."""

    def __init__(self, shape: DecoderShape, width: int) -> None:
        super().__init__()
        layers, _, self.radial = shape.grid.shape
        self.width = width
        self.linear = nn.Linear(shape.voxel_channels, self.radial * width)
        self.layer_bias = nn.Parameter(torch.zeros(layers, 1, self.radial * width))

    def forward(self, code: Tensor) -> Tensor:
        """(rows, L, A, voxel_channels) → (rows, L, A, R, width)."""
        outputs: Tensor = self.linear(code) + self.layer_bias
        return outputs.view(*code.shape[:-1], self.radial, self.width)

    def at(self, code: Tensor, layer: Tensor) -> Tensor:
        """The same for chosen angular bins: codes (bins, voxel_channels) of layers (bins,) → (bins, R, width)."""
        outputs: Tensor = self.linear(code) + self.layer_bias[:, 0].index_select(0, layer)
        return outputs.view(-1, self.radial, self.width)
