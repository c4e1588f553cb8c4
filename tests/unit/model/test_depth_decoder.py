"""The depth decoder's likelihood."""

import numpy as np
import pytest
import torch

from qshower.model.decoder_shape import DecoderShape
from qshower.model.depth_decoder import DepthDecoder
from qshower.model.drawing.depth_drawing import DepthDrawing
from qshower.model.drawing.sticks import broken_stick
from qshower.model.likelihood import NormalMixture
from qshower.model.trained_networks import arrays_of
from qshower.sampler.errors import InvalidInputError

THRESHOLD = 0.01515
ROWS = 32


def decoder_of(layers: int = 6, share_bits: int = 0) -> DepthDecoder:
    torch.manual_seed(1)
    shape = DecoderShape(
        20, (16,) * layers, (9,) * layers, 1e3, 1e6, trunk=8, layer_code=6, layer_hidden=12, angular_channels=4,
        voxel_channels=16, profile_hidden=12, profile_memory=2, bits_per_layer=2, share_bits=share_bits, hit_channels=8,
        threshold_mev=THRESHOLD,
    )  # fmt: skip
    return DepthDecoder(shape)


def test_the_likelihood_of_a_share_is_that_of_its_cell() -> None:
    """Its integral over the cell is 1; parameters have finite slopes where the cell is open at one end."""
    law = NormalMixture.from_outputs(torch.tensor([0.0, 0.5, -1, -2, -1.5, -0.3, -1.0, -2, -0.5], requires_grad=True))
    for low, high in ((-1.6, -1.2), (-30.0, -2.5), (-0.4, 1.0)):
        x = torch.linspace(max(low, -8.0), high, 4001)
        mass = torch.trapezoid(law.log_density(x).exp(), x).log()
        torch.testing.assert_close(law.log_mass(torch.tensor(low), torch.tensor(high)), mass, atol=2e-3, rtol=0)
    decoder = decoder_of(share_bits=2)
    drawing = DepthDrawing.of(decoder.shape, arrays_of(decoder.state_dict()))
    rng = np.random.default_rng(2)
    latents = rng.choice(np.array([-1, 1], dtype=np.int8), (ROWS, 20))
    energies = np.exp(rng.uniform(7, 13, ROWS)).astype(np.float32)
    uniforms = rng.uniform(1e-4, 1 - 1e-4, (ROWS, drawing.uniform_count)).astype(np.float32)
    showers = torch.from_numpy(drawing.draw(latents, energies, uniforms))
    parts = decoder.log_likelihood(torch.from_numpy(latents).float(), torch.from_numpy(energies), showers)
    torch.stack(list(parts.values())).sum().backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in decoder.parameters())


def test_a_broken_stick_gives_the_energies_back() -> None:
    rng = np.random.default_rng(0)
    showers = np.zeros((3, 2, 16, 9), dtype=np.float32)
    showers[rng.random(showers.shape) < 0.1] = 1
    showers *= rng.gamma(1.0, size=showers.shape).astype(np.float32) + 0.1
    layer, angle, ring, seen, broken = broken_stick(showers, np.float32(THRESHOLD))
    for pair in np.unique(layer):
        rows = np.flatnonzero(layer == pair)
        voxels = showers[pair // 2, pair % 2]
        rest, left = (voxels[voxels > 0] - THRESHOLD).sum(), int((voxels > 0).sum())
        assert len(rows) == left - 1
        for row in rows:
            share = 1 / (1 + (left - 1) * np.exp(-broken[row]))
            np.testing.assert_allclose(THRESHOLD + share * rest, voxels[angle[row], ring[row]], rtol=1e-3)
            rest, left = rest * (1 - share), left - 1
    np.testing.assert_allclose(seen[:, 6].max(), 0.5)


def test_layers_of_different_bins_are_refused() -> None:
    shape = DecoderShape(20, (16, 8), (9, 9), 1e3, 1e6, bits_per_layer=1)
    with pytest.raises(InvalidInputError, match="likelihood"):
        DepthDecoder(shape)
