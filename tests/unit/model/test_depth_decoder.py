"""The depth decoder: its draws are what its likelihood says, row by row whatever the batch."""

import numpy as np
import pytest
import torch

from qshower.model.depth_decoder import DepthDecoder
from qshower.model.depth_kernels import broken_stick
from qshower.model.layers import DecoderShape
from qshower.sampler.errors import InvalidInputError

THRESHOLD = 0.01515
ROWS = 32


def decoder_of(layers: int = 6) -> DepthDecoder:
    torch.manual_seed(1)
    shape = DecoderShape(
        20, (16,) * layers, (9,) * layers, 1e3, 1e6, trunk=8, layer_code=6, layer_hidden=12, angular_channels=4,
        voxel_channels=16, profile_hidden=12, profile_memory=2, bits_per_layer=2, hit_channels=8,
        threshold_mev=THRESHOLD,
    )  # fmt: skip
    return DepthDecoder(shape)


def arguments(decoder: DepthDecoder) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    rng = np.random.default_rng(2)
    latent = torch.from_numpy(rng.choice([-1.0, 1.0], (ROWS, 20)).astype(np.float32))
    energies = torch.from_numpy(np.exp(rng.uniform(7, 13, ROWS)).astype(np.float32))
    return latent, energies, rng.uniform(1e-4, 1 - 1e-4, (ROWS, decoder.uniform_count)).astype(np.float32)


def test_draws_teacher_forced_give_the_hits_and_sticks_of_the_likelihood() -> None:
    """Logits that the likelihood sees in a drawn shower order the drawn hits as the draw did."""
    decoder = decoder_of()
    latent, energies, uniforms = arguments(decoder)
    showers = decoder.draw(latent, energies, uniforms)
    grid = torch.from_numpy(showers)
    with torch.inference_mode():
        from qshower.model.decoder import ShowerView
        from qshower.model.layers import energy_features

        view = ShowerView.of(grid, energies)
        bits, energy = decoder.bits(latent), energy_features(decoder.shape, energies)
        ring = decoder._rings(bits, energy, view.log_response, view.log_share, view.count)
        pairs = (view.count > 0).flatten().nonzero()[:, 0]
        seen = decoder._seen(grid, view.hit, pairs)
        code = decoder.voxel_code(ring.flatten(0, 1)[pairs], seen)
        logits = decoder.hit_logits(code, seen.layer).flatten(1).numpy()
    split = 1 + 3 * 6
    u = uniforms[:, split : split + 6 * 144].reshape(ROWS * 6, 144)[pairs.numpy()]
    hit = view.hit.flatten(0, 1)[pairs].flatten(1).numpy()
    keys = logits + np.log(u / (1 - u))
    lowest = np.where(hit, keys, np.inf).min(axis=1)
    highest = np.where(hit, -np.inf, keys).max(axis=1)
    assert len(keys) > 50
    assert (lowest > highest - 1e-3).all()


def test_layers_have_their_energy_and_no_voxel_is_below_the_threshold() -> None:
    decoder = decoder_of()
    showers = decoder.draw(*arguments(decoder))
    assert np.isfinite(showers).all()
    assert showers[showers > 0].min() >= np.float32(THRESHOLD)
    assert (showers.sum(axis=(1, 2, 3)) > 0).any()


def test_a_row_does_not_depend_on_the_others_that_are_drawn() -> None:
    decoder = decoder_of()
    latent, energies, uniforms = arguments(decoder)
    whole = decoder.draw(latent, energies, uniforms)
    np.testing.assert_array_equal(decoder.draw(latent, energies, uniforms[:5]), whole[:5])


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
