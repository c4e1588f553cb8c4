"""What draws showers of a depth decoder: the laws are those that its torch networks were trained with."""

import numpy as np
import torch

from qshower.model.decoder import ShowerView
from qshower.model.decoder_shape import EMPTY_LOG_SHARE, LEAST_REMAINING, RESPONSE_SCALE, DecoderShape
from qshower.model.depth_decoder import DepthDecoder
from qshower.model.drawing.depth_drawing import DepthDrawing
from qshower.model.drawing.sticks import broken_stick
from qshower.model.layers import energy_features
from qshower.model.trained_networks import arrays_of
from tests.mixtures import mixture_draws

THRESHOLD = 0.01515
ROWS, LAYERS = 32, 6


def networks_of(share_bits: int = 0) -> tuple[DepthDecoder, DepthDrawing]:
    torch.manual_seed(1)
    shape = DecoderShape(
        20, (16,) * LAYERS, (9,) * LAYERS, 1e3, 1e6, trunk=8, layer_code=6, layer_hidden=12, angular_channels=4,
        voxel_channels=16, profile_hidden=12, profile_memory=2, bits_per_layer=2, share_bits=share_bits, hit_channels=8,
        threshold_mev=THRESHOLD,
    )  # fmt: skip
    decoder = DepthDecoder(shape).eval().requires_grad_(requires_grad=False)
    for table in (decoder.hit_layer, decoder.energy_layer, decoder.energy_law_ring):
        table.normal_()
    if share_bits:
        decoder.share_terms[:, :, 0] = torch.tensor([-2.5, -1.5])
        decoder.share_terms[:, :, 1] = 0.05
        decoder.share_span[:] = torch.tensor([-3.0, 3.0])
    return decoder, DepthDrawing.of(shape, arrays_of(decoder.state_dict()))


def arguments(drawing: DepthDrawing) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    latents = rng.choice(np.array([-1, 1], dtype=np.int8), (ROWS, 20))
    energies = np.exp(rng.uniform(7, 13, ROWS)).astype(np.float32)
    return latents, energies, rng.uniform(1e-4, 1 - 1e-4, (ROWS, drawing.uniform_count)).astype(np.float32)


def test_draws_teacher_forced_give_the_hits_and_sticks_of_the_likelihood() -> None:
    """Laws that the likelihood sees in a drawn shower give, with the same uniforms, the drawn hits and energies."""
    decoder, drawing = networks_of()
    latents, energies, uniforms = arguments(drawing)
    showers = drawing.draw(latents, energies, uniforms)
    grid = torch.from_numpy(showers)
    with torch.inference_mode():
        view = ShowerView.of(grid, torch.from_numpy(energies))
        bits = decoder.bits(torch.from_numpy(latents).float())
        features = energy_features(decoder.shape, torch.from_numpy(energies))
        ring = decoder._rings(bits, features, view.log_response, view.log_share, view.count)
        pairs = (view.count > 0).flatten().nonzero()[:, 0]
        seen = decoder._seen(grid, view.hit, pairs)
        code = decoder.voxel_code(ring.flatten(0, 1)[pairs], seen)
        logits = decoder.hit_logits(code, seen.layer).flatten(1).numpy()
        own = decoder._energy_code(code, seen)
    split = 1 + 3 * LAYERS
    u = uniforms[:, split : split + LAYERS * 144].reshape(ROWS * LAYERS, 144)[pairs.numpy()]
    hit = view.hit.flatten(0, 1)[pairs].flatten(1).numpy()
    keys = logits + np.log(u / (1 - u))
    lowest = np.where(hit, keys, np.inf).min(axis=1)
    highest = np.where(hit, -np.inf, keys).max(axis=1)
    assert len(keys) > 50
    assert (lowest > highest - 1e-3).all()

    layer, angle, place, sticks, broken = (torch.from_numpy(a) for a in broken_stick(showers, np.float32(THRESHOLD)))
    of_pair = torch.zeros(ROWS * LAYERS, dtype=torch.int64)
    of_pair[pairs] = torch.arange(len(pairs))
    with torch.inference_mode():
        known = own[of_pair[layer], angle] + decoder.energy_ring[place] + decoder.energy_stick(sticks)
        law = decoder.energy_law(torch.nn.functional.hardswish(known)) + decoder.energy_law_ring[place]
    second = split + LAYERS * 144 + (layer % LAYERS) * 144 + angle * 9 + place
    chosen = uniforms[(layer // LAYERS).numpy(), second.numpy()]
    drawn = mixture_draws(law.numpy(), chosen)
    inside = np.abs(drawn) < 8
    assert inside.sum() > 80
    assert np.quantile(np.abs(drawn - broken.numpy())[inside], 0.99) < 2e-3


def test_profiles_are_drawn_from_the_laws_of_the_likelihood() -> None:
    """Teacher-forced on the drawn layers, the trained maps give back every drawn energy."""
    decoder, drawing = networks_of()
    latents, energies, uniforms = arguments(drawing)
    response, share, count = drawing.profiles(latents, energies, uniforms)
    with torch.inference_mode():
        features = energy_features(decoder.shape, torch.from_numpy(energies))
        code = decoder._profile_code(decoder.bits(torch.from_numpy(latents).float()), features)
        total, shares, counts_drawn = (torch.from_numpy(array) for array in (response, share, count))
        view = ShowerView(total, shares, counts_drawn, torch.zeros(0), torch.zeros(0))
        laws, _ = decoder.profile.outputs(features, code, view)
        whole = decoder.profile.response(torch.cat([decoder._code(features), features], dim=1)).numpy()
    drawn = mixture_draws(whole, uniforms[:, 0])
    np.testing.assert_allclose(response, drawn / RESPONSE_SCALE, rtol=1e-4, atol=1e-5)
    filled = count > 0
    assert 0 < filled.mean() < 1
    for layer in range(LAYERS):
        outputs, u = laws[:, layer].numpy(), uniforms[:, 1 + 3 * layer : 3 + 3 * layer]
        np.testing.assert_array_equal(u[:, 0] < 1 / (1 + np.exp(-outputs[:, 0])), filled[:, layer])
        expected = mixture_draws(outputs[:, 1:], u[:, 1]).clip(EMPTY_LOG_SHARE + 1, 0)
        np.testing.assert_allclose(share[filled[:, layer], layer], expected[filled[:, layer]], atol=2e-4)


def test_layers_have_their_energy_and_no_voxel_is_below_the_threshold() -> None:
    _, drawing = networks_of()
    showers = drawing.draw(*arguments(drawing))
    assert np.isfinite(showers).all()
    assert showers[showers > 0].min() >= np.float32(THRESHOLD)
    assert (showers.sum(axis=(1, 2, 3)) > 0).any()


def test_shares_are_drawn_from_the_cells_that_the_bits_name() -> None:
    decoder, drawing = networks_of(share_bits=2)
    latents, energies, uniforms = arguments(drawing)
    wide = torch.from_numpy(energies)
    bits = decoder.bits(torch.from_numpy(latents).float())
    cells = decoder.cells(bits, wide)
    assert cells is not None
    low, high = cells
    cell = (bits > 0).sum(dim=2)
    t = (wide / 10**4.5).log().clamp(-3, 3)[:, None]
    border = torch.tensor([-30, -2.5, -1.5]) + 0.05 * t.unsqueeze(2) * torch.tensor([0, 1, 1])
    torch.testing.assert_close(low, border.expand(-1, LAYERS, -1).gather(2, cell.unsqueeze(2)).squeeze(2))
    _, log_share, count = drawing.profiles(latents, energies, uniforms)
    filled = count > 0
    share = np.exp(log_share) * filled
    x = log_share - np.log(np.maximum(1 - (share.cumsum(axis=1) - share), 0) + LEAST_REMAINING)
    assert filled.any()
    assert ((x >= low.numpy() - 1e-4) & (x <= high.numpy() + 1e-4))[filled & (log_share > -13 + 1e-4)].all()
    # Whatever the cells, no more is given away than there is, but for the thousandth at the end of a shower.
    assert share.sum(axis=1).max() < 1 + 6 * LEAST_REMAINING


def test_a_row_does_not_depend_on_the_others_that_are_drawn() -> None:
    _, drawing = networks_of()
    latents, energies, uniforms = arguments(drawing)
    whole = drawing.draw(latents, energies, uniforms)
    for rows in (slice(0, 1), slice(0, 5), slice(7, 16), slice(31, 32)):
        np.testing.assert_array_equal(drawing.draw(latents[rows], energies[rows], uniforms[rows]), whole[rows])
