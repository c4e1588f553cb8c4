"""The depth decoder: its draws are what its likelihood says, row by row whatever the batch."""

import numpy as np
import pytest
import torch

from qshower.model.decoder import ShowerView
from qshower.model.depth_decoder import DepthDecoder
from qshower.model.depth_kernels import broken_stick
from qshower.model.inverse_transforms import bounded_mixture
from qshower.model.layers import DecoderShape, energy_features
from qshower.model.likelihood import NormalMixture
from qshower.model.share_cells import LEAST_REMAINING
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


def test_shares_are_drawn_from_the_cells_that_the_bits_name() -> None:
    decoder = decoder_of(share_bits=2)
    decoder.share_terms[:, :, 0] = torch.tensor([-2.5, -1.8, -1.2])
    decoder.share_terms[:, :, 1] = 0.05
    decoder.share_span[:] = torch.tensor([-3.0, 3.0])
    latent, energies, uniforms = arguments(decoder)
    bits, energy = decoder.bits(latent), energy_features(decoder.shape, energies)
    cells = decoder.cells(bits, energies)
    assert cells is not None
    low, high = cells
    cell = (bits[..., 0] > 0) * 2 + (bits[..., 1] > 0) * 1
    t = (energies / 10**4.5).log().clamp(-3, 3)[:, None]
    border = torch.tensor([-30, -2.5, -1.8, -1.2]) + 0.05 * t.unsqueeze(2) * torch.tensor([0, 1, 1, 1])
    torch.testing.assert_close(low, border.expand(-1, 6, -1).gather(2, cell.unsqueeze(2)).squeeze(2))
    with torch.inference_mode():
        _, log_share, count = decoder.profile.draw(
            energy,
            decoder._code(energy),
            decoder._profile_code(bits, energy),
            uniforms[:, :19],
            (low.numpy(), high.numpy()),
        )
    filled = count > 0
    share = log_share.exp() * filled
    x = log_share - ((1 - (share.cumsum(dim=1) - share)).clamp_min(0) + LEAST_REMAINING).log()
    assert filled.any()
    assert ((x >= low - 1e-4) & (x <= high + 1e-4))[filled & (log_share > -13 + 1e-4)].all()
    # Whatever the cells, no more is given away than there is, but for the thousandth at the end of a shower.
    assert share.sum(dim=1).max() < 1 + 6 * LEAST_REMAINING


def test_the_likelihood_of_a_share_is_that_of_its_cell() -> None:
    """Its integral over the cell is 1; parameters have finite slopes where the cell is open at one end."""
    law = NormalMixture.from_outputs(torch.tensor([0.0, 0.5, -1, -2, -1.5, -0.3, -1.0, -2, -0.5], requires_grad=True))
    for low, high in ((-1.6, -1.2), (-30.0, -2.5), (-0.4, 1.0)):
        x = torch.linspace(max(low, -8.0), high, 4001)
        mass = torch.trapezoid(law.log_density(x).exp(), x).log()
        torch.testing.assert_close(law.log_mass(torch.tensor(low), torch.tensor(high)), mass, atol=2e-3, rtol=0)
    decoder = decoder_of(share_bits=2)
    latent, energies, uniforms = arguments(decoder)
    showers = torch.from_numpy(decoder.draw(latent, energies, uniforms))
    torch.stack(list(decoder.log_likelihood(latent, energies, showers).values())).sum().backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in decoder.parameters())


@pytest.mark.parametrize(("low", "high"), [(-1.6, -1.2), (-11.0, -4.0), (-0.2, 0.0), (3.0, 5.0), (-11.0, 0.0)])
def test_a_bounded_draw_has_the_law_of_the_mixture_between_its_bounds(low: float, high: float) -> None:
    outputs = np.array([0, 0.5, -1, -2, -1.5, -0.3, -1.0, -2, -0.5], dtype=np.float32)
    uniforms = (np.arange(4000, dtype=np.float32) + np.float32(0.5)) / 4000
    drawn = np.sort([bounded_mixture(outputs, u, np.float32(low), np.float32(high)) for u in uniforms])
    assert (drawn[0] >= low, drawn[-1] <= high) == (True, True)
    x = torch.linspace(low, high, 4001)
    density = NormalMixture.from_outputs(torch.from_numpy(outputs)).log_density(x).double().exp()
    below = (density.cumsum(0) / density.sum()).numpy()
    # In the far tails the law is taken as exponential.
    np.testing.assert_allclose(np.searchsorted(drawn, x.numpy()) / 4000, below, atol=0.03)


def test_a_cell_where_the_mixture_has_nothing_gives_its_nearer_bound() -> None:
    outputs = np.array([0, -9, -9, -2, -2, -2, -9, -9, -9], dtype=np.float32)
    assert bounded_mixture(outputs, np.float32(0.5), np.float32(0.5), np.float32(1)) == np.float32(0.5)
    assert bounded_mixture(outputs, np.float32(0.5), np.float32(-9), np.float32(-5)) == np.float32(-5)


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
