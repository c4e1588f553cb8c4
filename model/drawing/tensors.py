"""A decoder's tensors: their names and shapes by kind of likelihood, and how kernels want them.

The names are those of the torch modules' parameters and buffers: a bundle's file serves both.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from qshower.model.decoder_shape import (
    BITS_WINDOW,
    ENERGY_FEATURES,
    FIELDS,
    LAYER_VALUES,
    NEIGHBOUR_LAYERS,
    PROFILE_BITS_WINDOW,
    PROFILE_COMPONENTS,
    SHARE_POWERS,
    STICK_VALUES,
    VOXEL_COMPONENTS,
    WINDOW,
    DecoderShape,
    Likelihood,
)

Tensors = Mapping[str, NDArray[np.float32]]
Shapes = dict[str, tuple[int, ...]]

BUFFERS = frozenset({"visible", "share_terms", "share_span"})
"""Tensors that are no learned parameters."""
NEAR_VALUES = LAYER_VALUES * (2 * NEIGHBOUR_LAYERS + 1)


def tensor_shapes(likelihood: Likelihood, shape: DecoderShape) -> Shapes:
    """Shapes of a decoder's tensors, by name."""
    if likelihood == "depth":
        return _of_depth(shape)
    trunk = {
        **_linear("trunk.first", shape.latent_bits + ENERGY_FEATURES, shape.trunk),
        **_linear("trunk.second", shape.trunk + ENERGY_FEATURES, shape.trunk),
        **_linear("trunk.layer_code", shape.trunk, shape.layers * shape.layer_code),
    }
    told = shape.layer_code + ENERGY_FEATURES
    if likelihood == "squared_error":
        return {**trunk, **_rings("rings", shape, told), **_radial("heads", shape, 2)}
    return {
        **trunk,
        **_of_profile(shape),
        **_rings("voxels.rings", shape, told + 1 + NEAR_VALUES),
        **_radial("voxels.hit", shape, 1),
        **_radial("voxels.activation", shape, 3 * VOXEL_COMPONENTS),
    }


def first_difference(tensors: Tensors, shapes: Shapes) -> str | None:
    """What is wrong first with ``tensors``; None if they have just these names and shapes."""
    for name, wanted in shapes.items():
        if name not in tensors:
            return f"no tensor {name}"
        if tensors[name].shape != wanted:
            return f"{name} of shape {tensors[name].shape} instead of {wanted}"
    unknown = sorted(set(tensors) - set(shapes))
    return f"an unknown tensor {unknown[0]}" if unknown else None


def parameter_count(shapes: Shapes) -> int:
    """Learned numbers of a decoder."""
    return sum(int(np.prod(size)) for name, size in shapes.items() if name not in BUFFERS)


def _linear(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _per_layer(name: str, layers: int, inputs: int, outputs: int) -> Shapes:
    return {f"{name}.weight": (layers, inputs, outputs), f"{name}.bias": (layers, 1, outputs)}


def _rings(name: str, shape: DecoderShape, inputs: int) -> Shapes:
    layers, angular, _ = shape.grid.shape
    return {
        **_per_layer(f"{name}.hidden", layers, inputs, shape.layer_hidden),
        **_per_layer(f"{name}.ring", layers, shape.layer_hidden, angular * shape.angular_channels),
        **_linear(f"{name}.around", 3 * shape.angular_channels, shape.voxel_channels),
    }


def _radial(name: str, shape: DecoderShape, width: int) -> Shapes:
    outputs = shape.grid.shape[2] * width
    return {
        **_linear(f"{name}.linear", shape.voxel_channels, outputs),
        f"{name}.layer_bias": (shape.layers, 1, outputs),
    }


def _of_profile(shape: DecoderShape) -> Shapes:
    layers, hidden, law = shape.layers, shape.profile_hidden, 3 * PROFILE_COMPONENTS
    remembered = 1 + LAYER_VALUES * shape.profile_memory if shape.profile_memory else 0
    return {
        **_linear("profile.response", shape.trunk + ENERGY_FEATURES, law),
        **_per_layer("profile.hidden", layers, shape.layer_code + ENERGY_FEATURES + 1 + remembered, hidden),
        **_per_layer("profile.energy", layers, hidden, 1 + law),
        **_per_layer("profile.count_hidden", layers, hidden + 2, hidden),
        **_per_layer("profile.count", layers, hidden, law),
    }


def _of_depth(shape: DecoderShape) -> Shapes:
    layers, angular, radial = shape.grid.shape
    bits, channels, width = shape.bits_per_layer, shape.voxel_channels, shape.hit_channels
    ring, law = angular * shape.angular_channels, 3 * VOXEL_COMPONENTS
    told = (2 * BITS_WINDOW + 1) * (bits - shape.share_bits) + ENERGY_FEATURES + 1 + NEAR_VALUES
    cells = {"share_terms": (layers, shape.share_bits, SHARE_POWERS), "share_span": (layers, 2)}
    return {
        "visible": (layers, bits),
        **(cells if shape.share_bits else {}),
        **_linear("shower_code", ENERGY_FEATURES, shape.trunk),
        **_of_profile(shape),
        **_linear("profile_bits", (2 * PROFILE_BITS_WINDOW + 1) * bits, shape.layer_code),
        **_per_layer("profile_energy", layers, ENERGY_FEATURES, shape.layer_code),
        **_per_layer("layer", layers, told, shape.layer_hidden),
        **_linear("ring", shape.layer_hidden, ring),
        **_per_layer("ring_energy", layers, ENERGY_FEATURES, ring),
        **_linear("around", 3 * shape.angular_channels, channels),
        "window": (channels, (2 * WINDOW + 1) * FIELDS * radial),
        "harmonics": (3, channels, FIELDS * radial),
        **_linear("mix", channels, width),
        **_linear("hit", width, radial),
        "hit_layer": (layers, radial),
        **_linear("energy", width, width),
        "energy_near": (width, 3 * radial),
        "energy_rings": (width, radial),
        "energy_layer": (layers, width),
        "energy_ring": (radial, width),
        **_linear("energy_stick", STICK_VALUES, width),
        **_linear("energy_law", width, law),
        "energy_law_ring": (radial, law),
    }
