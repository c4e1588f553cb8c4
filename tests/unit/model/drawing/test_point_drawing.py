"""What draws showers of the reference's heads: the laws are those of its torch networks."""

import numpy as np
import pytest
import torch

from qshower.model.decoder_shape import DecoderShape, ScalingKind
from qshower.model.drawing.point_drawing import PointDrawing
from qshower.model.geometry import named_geometry
from qshower.model.grid import Grid
from qshower.model.point_decoder import PointDecoder
from qshower.model.trained_networks import arrays_of


@pytest.mark.parametrize(("geometry", "scaling"), [("2", "logit"), ("1-photons", "log1p")])
def test_hits_are_bernoulli_draws_of_one_activation(geometry: str, scaling: ScalingKind) -> None:
    torch.manual_seed(1)
    grid = Grid.of(named_geometry(geometry))
    shape = DecoderShape(12, grid.angular_bins, grid.radial_bins, 1e3, 1e6, trunk=24, layer_code=8, layer_hidden=16)
    decoder = PointDecoder(shape, scaling).eval().requires_grad_(requires_grad=False)
    drawing = PointDrawing.of(shape, scaling, arrays_of(decoder.state_dict()))
    rng = np.random.default_rng(2)
    latents = rng.choice(np.array([-1, 1], dtype=np.int8), (11, 12))
    energies = np.geomspace(2e3, 9e5, 11).astype(np.float32)
    uniforms = rng.random((11, drawing.uniform_count)).astype(np.float32)
    showers = drawing.draw(latents, energies, uniforms)
    logits, activation = decoder(torch.from_numpy(latents).float(), torch.from_numpy(energies))
    probability = torch.sigmoid(logits).numpy()
    near = np.abs(uniforms.reshape(probability.shape) - probability) < 1e-6
    hit = uniforms.reshape(probability.shape) < probability
    np.testing.assert_array_equal((showers > 0)[~near], hit[~near])
    scaled = decoder.scaling.forward(torch.from_numpy(showers / energies[:, None, None, None]).double())
    np.testing.assert_allclose(scaled.numpy()[hit & ~near], activation.numpy()[hit & ~near], rtol=1e-4)
    np.testing.assert_array_equal(drawing.draw(latents[4:5], energies[4:5], uniforms[4:5]), showers[4:5])
