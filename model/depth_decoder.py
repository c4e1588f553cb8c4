"""The decoder for coded latents: layers are drawn in order of depth, each given the voxels of the layers before it.

::

    p(shower | b, E) = p(E_tot | E) . prod_l p(e_l, n_l | e_<l, n_<l, E_tot, b, E)
                    . prod_l p(hits of l | voxels of <l, e, n, b, E) p(energies of l's hits | the same)

b are the bits of a ``ShowerCode``, those of a layer seen by that layer and its neighbours alone; they lie on the
latent's spins ``visible``, the other free spins are hidden. ``Profile`` (``model.decoder``) draws E_tot, the layers'
energies e_l and their numbers of hits n_l; where the first bits of a layer name a cell of its share of what the layers
before have left of E_tot (``share_cells``), the share is drawn from within it. Then, layer by layer, a hit logit for
every voxel comes from the layer's other bits, its energy and those of its neighbours, and from *fields*: linear maps of
ln(1 + E_v / 0.2 MeV) of the voxels of the last layer, of the one before it, and of an average over all layers before
that forgets by 1/4 a layer. A field has a window of two angular bins on either side and the 0th, 1st and 2nd angular
harmonics of every ring. n_l hits are drawn by Pareto sampling.

Energies break a stick. With t the threshold, the layer's hits share x = e_l - n_l t in the order ring by ring; hit k of
those left (m of them, that share the rest R) takes t + f R with f in (0, 1), and

    ln(f / (1 - f)) + ln(m - 1)

is a mixture of normals, given the layer's code at that angle, its hits, what is left and where the energy drawn so far
lies; the last hit takes what is left. So layers have exactly the energies of the profile, and no voxel is below the
threshold or above what its layer holds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, gelu, hardswish, pad

from qshower.model.decoder import Profile, ShowerView, layer_values
from qshower.model.decoder_shape import (
    BITS_WINDOW,
    ENERGY_FEATURES,
    FIELD_SCALE_MEV,
    FIELD_UNIT,
    FIELDS,
    FORGET,
    NEIGHBOUR_LAYERS,
    PROFILE_BITS_WINDOW,
    RESPONSE_SCALE,
    SHARE_POWERS,
    SHARES,
    STICK_VALUES,
    VOXEL_COMPONENTS,
    WINDOW,
    DecoderShape,
)
from qshower.model.drawing.sticks import broken_stick
from qshower.model.layers import PerLayerLinear, energy_features
from qshower.model.likelihood import NormalMixture
from qshower.model.share_cells import ShareCells
from qshower.sampler.errors import InvalidInputError


@dataclass(frozen=True, slots=True)
class Seen:
    """What filled layers (pairs of row and layer) see of the voxels before them and of their own hits.

    ``layer`` (pairs,); ``window`` (pairs, A, (2 WINDOW + 1) FIELDS R) and ``harmonics`` (pairs, 5, FIELDS R): the
    fields' inputs; ``near_hits`` (pairs, A, 3 R): hits at an angle and its neighbours; ``ring_hits`` (pairs, R): ln(1
    + hits).
    """

    layer: Tensor
    window: Tensor
    harmonics: Tensor
    near_hits: Tensor
    ring_hits: Tensor


class DepthDecoder(nn.Module):
    """See the module. ``visible`` (L, bits_per_layer) are the places, among the free spins, of the code's bits."""

    visible: Tensor
    share_terms: Tensor
    share_span: Tensor
    waves: Tensor
    recall: Tensor

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        if not shape.grid.regular:
            raise InvalidInputError("likelihood", "depth", "sampled: the layers have different bins")
        self.shape = shape
        layers, angular, radial = shape.grid.shape
        bits, hidden, channels = shape.bits_per_layer, shape.layer_hidden, shape.voxel_channels
        width, ring = shape.hit_channels, shape.angular_channels
        inputs = FIELDS * radial
        self.shower_code = nn.Linear(ENERGY_FEATURES, shape.trunk)
        self.profile = Profile(shape)
        self.profile_bits = nn.Linear((2 * PROFILE_BITS_WINDOW + 1) * bits, shape.layer_code)
        self.profile_energy = PerLayerLinear(layers, ENERGY_FEATURES, shape.layer_code)
        # Bits that name a cell of a share tell the voxels nothing that the share itself does not.
        told = bits - shape.share_bits
        near = (2 * BITS_WINDOW + 1) * told + ENERGY_FEATURES + 1 + 3 * (2 * NEIGHBOUR_LAYERS + 1)
        self.layer = PerLayerLinear(layers, near, hidden)
        self.ring = nn.Linear(hidden, angular * ring)
        self.ring_energy = PerLayerLinear(layers, ENERGY_FEATURES, angular * ring)
        self.around = nn.Linear(3 * ring, channels)
        self.window = nn.Parameter(0.1 * torch.randn(channels, (2 * WINDOW + 1) * inputs))
        self.harmonics = nn.Parameter(0.1 * torch.randn(3, channels, inputs))
        self.mix = nn.Linear(channels, width)
        self.hit = nn.Linear(width, radial)
        self.hit_layer = nn.Parameter(torch.zeros(layers, radial))
        self.energy = nn.Linear(width, width)
        self.energy_near = nn.Parameter(0.1 * torch.randn(width, 3 * radial))
        self.energy_rings = nn.Parameter(0.1 * torch.randn(width, radial))
        self.energy_layer = nn.Parameter(torch.zeros(layers, width))
        self.energy_ring = nn.Parameter(0.3 * torch.randn(radial, width))
        self.energy_stick = nn.Linear(STICK_VALUES, width)
        self.energy_law = nn.Linear(width, 3 * VOXEL_COMPONENTS)
        self.energy_law_ring = nn.Parameter(torch.zeros(radial, 3 * VOXEL_COMPONENTS))
        angle = 2 * torch.pi * torch.arange(angular) / angular
        waves = torch.stack([torch.ones(angular), angle.cos(), angle.sin(), (2 * angle).cos(), (2 * angle).sin()])
        self.register_buffer("waves", waves, persistent=False)
        lag = torch.arange(layers)[:, None] - torch.arange(layers)[None, :] - 1
        recall = torch.where(lag >= 0, FORGET * (1 - FORGET) ** lag.clamp_min(0), torch.zeros(()))
        self.register_buffer("recall", recall, persistent=False)
        self.register_buffer("visible", torch.arange(layers * bits).view(layers, bits))
        if shape.share_bits:
            self.register_buffer("share_terms", torch.zeros(layers, shape.share_bits, SHARE_POWERS))
            self.register_buffer("share_span", torch.zeros(layers, 2))

    def bits(self, latent: Tensor) -> Tensor:
        """(rows, L, bits_per_layer) of a latent (rows, free spins)."""
        return latent[:, self.visible.flatten()].view(-1, *self.visible.shape)

    def cells(self, bits: Tensor, incident_energies: Tensor) -> tuple[Tensor, Tensor] | None:
        """Lowest and highest x (``share_cells``) that the bits allow, (rows, L) each; None if none name a cell."""
        named = self.shape.share_bits
        if not named:
            return None
        cells = ShareCells(self.share_terms.double().numpy(), self.share_span.double().numpy())
        limits = cells.limits(bits[:, :, :named].numpy().astype(np.int8), incident_energies.double().numpy())
        low, high = (torch.from_numpy(limit).float().clamp(*SHARES) for limit in limits)
        return low, high

    def log_likelihood(self, latent: Tensor, incident_energies: Tensor, showers: Tensor) -> dict[str, Tensor]:
        """ln p(shower | b, E) by part, each (rows,), in nats, of showers (rows, L, A, R) in MeV."""
        bits, view = self.bits(latent), ShowerView.of(showers, incident_energies)
        energy = energy_features(self.shape, incident_energies)
        layer_code = self._profile_code(bits, energy)
        cells = self.cells(bits, incident_energies)
        total, layers = self.profile.log_likelihood(energy, self._code(energy), layer_code, view, cells)
        pairs = (view.count > 0).flatten().nonzero()[:, 0]
        ring = self._rings(bits, energy, view.log_response, view.log_share, view.count)
        seen = self._seen(showers, view.hit, pairs)
        code = self.voxel_code(ring.flatten(0, 1)[pairs], seen)
        hits = -binary_cross_entropy_with_logits(
            self.hit_logits(code, seen.layer), view.hit.flatten(0, 1)[pairs].float(), reduction="none"
        ).sum(dim=(1, 2))
        rows, depth = view.count.shape
        by_row = torch.zeros(rows, dtype=hits.dtype)
        activations = self._stick(showers, view.count, pairs, self._energy_code(code, seen))
        return {
            "total": total,
            "layers": layers,
            "hits": by_row.index_add(0, pairs // depth, hits),
            "activations": activations,
        }

    def voxel_code(self, ring: Tensor, seen: Seen) -> Tensor:
        """(pairs, A, hit_channels) of filled layers, from ``ring`` (pairs, A, voxel_channels)."""
        waves = seen.harmonics
        maps = self.harmonics.transpose(1, 2)
        amplitude = torch.cat([waves[:, :1] @ maps[0], waves[:, 1:3] @ maps[1], waves[:, 3:] @ maps[2]], dim=1)
        field = seen.window @ self.window.T + torch.einsum("pwc,wa->pac", amplitude, self.waves)
        return hardswish(self.mix(hardswish(ring + field)))

    def hit_logits(self, code: Tensor, layer: Tensor) -> Tensor:
        """(pairs, A, R) logits of a hit."""
        logits: Tensor = self.hit(code) + self.hit_layer[layer].unsqueeze(1)
        return logits

    def _code(self, energy: Tensor) -> Tensor:
        return gelu(self.shower_code(energy))

    def _profile_code(self, bits: Tensor, energy: Tensor) -> Tensor:
        per_layer = energy.unsqueeze(1).expand(-1, self.shape.layers, -1)
        return gelu(self.profile_bits(_windows(bits, PROFILE_BITS_WINDOW)) + self.profile_energy(per_layer))

    def _rings(self, bits: Tensor, energy: Tensor, log_response: Tensor, log_share: Tensor, count: Tensor) -> Tensor:
        """(rows, L, A, voxel_channels): what is known of a layer before any voxel is drawn."""
        layers, angular, _ = self.shape.grid.shape
        near = layer_values((count > 0).to(count.dtype), log_share, count)
        shared = torch.cat([energy, log_response.unsqueeze(1) * RESPONSE_SCALE / 2], dim=1)
        per_layer = shared.unsqueeze(1).expand(-1, layers, -1)
        told = bits[:, :, self.shape.share_bits :]
        values = torch.cat([_windows(told, BITS_WINDOW), per_layer, _windows(near, NEIGHBOUR_LAYERS)], dim=2)
        hidden = gelu(self.layer(values))
        ring = gelu(self.ring(hidden) + self.ring_energy(per_layer[:, :, :ENERGY_FEATURES]))
        channels = self.shape.angular_channels
        code: Tensor = self.around(_around(ring.reshape(-1, layers, angular, channels), 1))
        return code

    def _seen(self, showers: Tensor, hit: Tensor, pairs: Tensor) -> Seen:
        with torch.no_grad():
            light = torch.log1p(showers / FIELD_SCALE_MEV) * FIELD_UNIT
            one, two = (pad(light[:, :-back], (0, 0, 0, 0, back, 0)) for back in (1, 2))
            memory = (self.recall @ light.flatten(2)).view_as(light)
            image = torch.stack([one, two, memory], dim=3).flatten(3).flatten(0, 1)[pairs]
            hits = hit.flatten(0, 1)[pairs].float()
            return Seen(
                layer=pairs % self.shape.layers,
                window=_around(image, WINDOW),
                harmonics=torch.einsum("pak,wa->pwk", image, self.waves),
                near_hits=_around(hits, 1),
                ring_hits=torch.log1p(hits.sum(dim=1)),
            )

    def _energy_code(self, code: Tensor, seen: Seen) -> Tensor:
        shared = seen.ring_hits @ self.energy_rings.T + self.energy_layer[seen.layer]
        result: Tensor = self.energy(code) + seen.near_hits @ self.energy_near.T + shared.unsqueeze(1)
        return result

    def _stick(self, showers: Tensor, count: Tensor, pairs: Tensor, code: Tensor) -> Tensor:
        """ln p of the hits' energies, (rows,); ``code`` (pairs, A, hit_channels)."""
        rows, depth = count.shape
        found = broken_stick(showers.numpy(), np.float32(self.shape.threshold_mev))
        layer, angle, ring, seen, broken = (torch.from_numpy(array) for array in found)
        place = torch.zeros(rows * depth, dtype=torch.int64)
        place[pairs] = torch.arange(len(pairs))
        own = code.flatten(0, 1)[place[layer] * code.shape[1] + angle]
        hidden = hardswish(own + self.energy_ring[ring] + self.energy_stick(seen))
        law = NormalMixture.from_outputs(self.energy_law(hidden) + self.energy_law_ring[ring])
        return torch.zeros(rows).index_add(0, layer // depth, law.log_density(broken))


def _windows(values: Tensor, reach: int) -> Tensor:
    """Each layer beside its neighbours: (rows, L, k) -> (rows, L, (2 reach + 1) k), 0 beyond the ends."""
    layers = values.shape[1]
    padded = pad(values, (0, 0, reach, reach))
    return torch.cat([padded[:, offset : offset + layers] for offset in range(2 * reach + 1)], dim=2)


def _around(values: Tensor, reach: int) -> Tensor:
    """Each angular bin beside its neighbours round the circle: (..., A, k) -> (..., A, (2 reach + 1) k)."""
    padded = torch.cat([values[..., -reach:, :], values, values[..., :reach, :]], dim=-2)
    width = values.shape[-1]
    return padded.flatten(-2).unfold(-1, (2 * reach + 1) * width, width).contiguous()
