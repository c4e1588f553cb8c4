"""What draws showers of a sampled decoder: the laws are those that its torch networks were trained with."""

import numpy as np
import pytest
import torch

from qshower.model.decoder import SampledDecoder, ShowerView
from qshower.model.decoder_shape import EMPTY_LOG_SHARE, RESPONSE_SCALE, DecoderShape
from qshower.model.drawing.sampled_drawing import SampledDrawing
from qshower.model.geometry import named_geometry
from qshower.model.grid import Grid
from qshower.model.layers import energy_features
from qshower.model.trained_networks import arrays_of
from tests.mixtures import mixture_draws

ROWS = 48


def shape_of(name: str = "1-photons", memory: int = 2) -> DecoderShape:
    grid = Grid.of(named_geometry(name))
    sizes = {"trunk": 24, "layer_code": 8, "layer_hidden": 16, "profile_memory": memory}
    return DecoderShape(12, grid.angular_bins, grid.radial_bins, 1e3, 1e6, **sizes)


def networks_of(shape: DecoderShape) -> tuple[SampledDecoder, SampledDrawing]:
    torch.manual_seed(3)
    decoder = SampledDecoder(shape).eval().requires_grad_(requires_grad=False)
    with torch.no_grad():
        for head in (decoder.voxels.hit, decoder.voxels.activation):
            head.layer_bias.normal_()
    return decoder, SampledDrawing.of(shape, arrays_of(decoder.state_dict()))


def arguments(drawing: SampledDrawing, rows: int = ROWS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    latents = rng.choice(np.array([-1, 1], dtype=np.int8), (rows, drawing.shape.latent_bits))
    uniforms = rng.uniform(1e-4, 1 - 1e-4, (rows, drawing.uniform_count)).astype(np.float32)
    return latents, np.geomspace(1e3, 1e6, rows).astype(np.float32), uniforms


@pytest.mark.parametrize("memory", [0, 1, 3])
def test_profiles_are_drawn_from_the_laws_of_the_likelihood(memory: int) -> None:
    """Teacher-forced on the drawn layers, the trained maps give back every drawn energy and count."""
    shape = shape_of(memory=memory)
    decoder, drawing = networks_of(shape)
    latents, energies, uniforms = arguments(drawing)
    response, share, count = drawing.profiles(latents, energies, uniforms)
    with torch.inference_mode():
        features = energy_features(shape, torch.from_numpy(energies))
        code, layer_code = decoder.trunk(torch.from_numpy(latents).float(), features)
        law = decoder.profile.response(torch.cat([code, features], dim=1)).numpy()
        total, shares, counts_drawn = (torch.from_numpy(array) for array in (response, share, count))
        view = ShowerView(total, shares, counts_drawn, torch.zeros(0), torch.zeros(0))
        energy_outputs, count_outputs = (t.numpy() for t in decoder.profile.outputs(features, layer_code, view))
    np.testing.assert_allclose(response, mixture_draws(law, uniforms[:, 0]) / RESPONSE_SCALE, rtol=1e-4, atol=1e-5)
    draws = uniforms[:, 1 : 1 + 3 * shape.layers].reshape(ROWS, shape.layers, 3)
    filled = count > 0
    assert 0 < filled.mean() < 1
    for layer in range(shape.layers):
        hit = draws[:, layer, 0] < 1 / (1 + np.exp(-energy_outputs[:, layer, 0]))
        np.testing.assert_array_equal(hit, filled[:, layer])
        expected = mixture_draws(energy_outputs[:, layer, 1:], draws[:, layer, 1]).clip(EMPTY_LOG_SHARE + 1, 0)
        np.testing.assert_allclose(share[hit, layer], expected[hit], atol=2e-4)
        counts = np.exp(mixture_draws(count_outputs[:, layer], draws[:, layer, 2]).clip(-1, 12))
        wanted = np.floor(counts + 0.5).clip(1, decoder.profile.highest[layer].item())
        assert np.abs(count[hit, layer] - wanted[hit]).max(initial=0) <= 1


@pytest.mark.parametrize("geometry", ["1-photons", "2"])
def test_voxels_are_drawn_from_the_laws_of_the_likelihood(geometry: str) -> None:
    """Hits and energies worked out from the torch networks' laws, with the same uniforms, are those drawn."""
    shape = shape_of(geometry)
    decoder, drawing = networks_of(shape)
    latents, energies, uniforms = arguments(drawing, 6)
    showers = drawing.draw(latents, energies, uniforms)
    view = ShowerView.of(torch.from_numpy(showers), torch.from_numpy(energies))
    with torch.inference_mode():
        features = energy_features(shape, torch.from_numpy(energies))
        _, layer_code = decoder.trunk(torch.from_numpy(latents).float(), features)
        code = decoder.voxels(features, layer_code, view.log_response, view.log_share, view.count)
        logits = decoder.voxels.hit_logits(code).flatten(2).double().numpy()
        laws = decoder.voxels.activation(code).flatten(2, 3).numpy()
    voxels = logits.shape[2]
    split = 1 + 3 * shape.layers
    u = uniforms[:, split : split + 2 * shape.layers * voxels].reshape(6, 2, shape.layers, voxels)
    found = showers.reshape(6, shape.layers, voxels)
    keys = logits + np.log(u[:, 0] / (1 - u[:, 0].astype(np.float64)))
    lowest = np.where(found > 0, keys, np.inf).min(axis=2)
    highest = np.where(found > 0, -np.inf, keys).max(axis=2)
    assert (lowest > highest - 1e-3).all()
    values = np.exp(mixture_draws(laws.reshape(-1, laws.shape[3]), u[:, 1].reshape(-1)).clip(-12, 8)).astype(float)
    values = values.reshape(found.shape) * (found > 0)
    layer = found.sum(axis=2, keepdims=True, dtype=np.float64)
    expected = values / np.maximum(values.sum(axis=2, keepdims=True), 1e-30) * layer
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-6 * layer.max())


def test_drawn_showers_have_the_drawn_profile() -> None:
    shape = shape_of()
    _, drawing = networks_of(shape)
    latents, energies, uniforms = arguments(drawing)
    showers = drawing.draw(latents, energies, uniforms)
    response, _, count = drawing.profiles(latents, energies, uniforms)
    some = count.sum(axis=1) > 0
    np.testing.assert_allclose(showers.sum(axis=(1, 2, 3))[some], (np.exp(response) * energies)[some], rtol=1e-4)
    np.testing.assert_array_equal((showers > 0).sum(axis=(2, 3)), count)
    assert not showers[:, ~shape.grid.mask()].any()


def test_a_row_does_not_depend_on_the_others_that_are_drawn() -> None:
    _, drawing = networks_of(shape_of("2"))
    latents, energies, uniforms = arguments(drawing, 21)
    whole = drawing.draw(latents, energies, uniforms)
    for rows in (slice(0, 1), slice(0, 5), slice(7, 16), slice(20, 21)):
        np.testing.assert_array_equal(drawing.draw(latents[rows], energies[rows], uniforms[rows]), whole[rows])
