"""Names and shapes of a decoder's tensors are those of its torch networks."""

import numpy as np
import pytest

from qshower.model.decoder_shape import DecoderShape, Likelihood
from qshower.model.drawing.tensors import first_difference, parameter_count, tensor_shapes
from qshower.model.geometry import named_geometry
from qshower.model.grid import Grid
from qshower.model.trained_networks import arrays_of, build_decoder


@pytest.mark.parametrize(
    ("likelihood", "geometry", "share_bits"),
    [
        ("sampled", "2", 0),
        ("sampled", "1-pions", 0),
        ("squared_error", "1-photons", 0),
        ("depth", "2", 0),
        ("depth", "2", 2),
    ],
)
def test_tensors_are_those_of_the_networks(likelihood: Likelihood, geometry: str, share_bits: int) -> None:
    grid = Grid.of(named_geometry(geometry))
    shape = DecoderShape(
        12, grid.angular_bins, grid.radial_bins, 1e3, 1e6, trunk=24, bits_per_layer=3, share_bits=share_bits
    )
    decoder = build_decoder(likelihood, shape, "logit")
    shapes = tensor_shapes(likelihood, shape)
    assert shapes == {name: tuple(tensor.shape) for name, tensor in decoder.state_dict().items()}
    assert parameter_count(shapes) == sum(parameter.numel() for parameter in decoder.parameters())
    assert first_difference(arrays_of(decoder.state_dict()), shapes) is None


def test_the_first_difference_is_named() -> None:
    shapes = {"one": (2, 3), "two": (4,)}
    right = {"one": np.zeros((2, 3), dtype=np.float32), "two": np.zeros(4, dtype=np.float32)}
    assert first_difference({"one": right["one"]}, shapes) == "no tensor two"
    assert (
        first_difference(right | {"two": np.zeros(5, dtype=np.float32)}, shapes) == "two of shape (5,) instead of (4,)"
    )
    assert first_difference(right | {"three": right["two"]}, shapes) == "an unknown tensor three"
