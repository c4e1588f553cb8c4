"""A decoder's tensors in panels, as ``products`` wants them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qshower.model.decoder_shape import DecoderShape
from qshower.model.drawing.network_kernels import TrunkWeights
from qshower.model.drawing.products import packed, padded
from qshower.model.drawing.profile_kernels import ProfileWeights
from qshower.model.drawing.tensors import Tensors

Floats = NDArray[np.float32]


def linear(tensors: Tensors, name: str) -> tuple[Floats, Floats]:
    """Weight in panels and bias of a map of all layers."""
    return packed(tensors[f"{name}.weight"].T), padded(tensors[f"{name}.bias"])


def per_layer(tensors: Tensors, name: str) -> tuple[Floats, Floats]:
    """Weights in panels (L, ·) and biases (L, ·) of the maps of each layer."""
    return packed(tensors[f"{name}.weight"]), padded(tensors[f"{name}.bias"][:, 0])


def radial(tensors: Tensors, name: str) -> tuple[Floats, Floats]:
    """Weight in panels and biases (L, ·) of a ``model.layers.RadialOutputs``."""
    weight, bias = tensors[f"{name}.linear.weight"].T, tensors[f"{name}.linear.bias"]
    return packed(weight), padded(bias + tensors[f"{name}.layer_bias"][:, 0])


def trunk_weights(tensors: Tensors) -> TrunkWeights:
    """Of a ``model.layers.Trunk``."""
    parts = (linear(tensors, f"trunk.{name}") for name in ("first", "second", "layer_code"))
    return TrunkWeights(*(array for part in parts for array in part))


def ring_weights(tensors: Tensors, name: str) -> tuple[Floats, Floats, Floats, Floats, Floats, Floats]:
    """Of a ``model.layers.Rings``: its three maps and their biases."""
    hidden, ring = per_layer(tensors, f"{name}.hidden"), per_layer(tensors, f"{name}.ring")
    return *hidden, *ring, *linear(tensors, f"{name}.around")


def profile_weights(shape: DecoderShape, tensors: Tensors) -> ProfileWeights:
    """Of a ``model.decoder.Profile``."""
    names = ("hidden", "energy", "count_hidden", "count")
    parts = [linear(tensors, "profile.response"), *(per_layer(tensors, f"profile.{name}") for name in names)]
    highest = shape.grid.mask().sum(axis=(1, 2)).astype(np.float32)
    return ProfileWeights(highest, *(array for part in parts for array in part))
