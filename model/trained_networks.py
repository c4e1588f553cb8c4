"""A bundle's networks in torch: to train on, to judge a likelihood, to encode showers. Drawing needs none of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qshower.model.bundle import Bundle, load_encoder_tensors
from qshower.model.decoder import SampledDecoder
from qshower.model.decoder_shape import DecoderShape, Likelihood, ScalingKind
from qshower.model.depth_decoder import DepthDecoder
from qshower.model.point_decoder import PointDecoder

Decoder = SampledDecoder | PointDecoder | DepthDecoder


def build_decoder(likelihood: Likelihood, shape: DecoderShape, scaling: ScalingKind) -> Decoder:
    """The decoder that a manifest or a configuration names, with fresh parameters."""
    if likelihood == "depth":
        return DepthDecoder(shape)
    return SampledDecoder(shape) if likelihood == "sampled" else PointDecoder(shape, scaling)


def decoder_of(bundle: Bundle) -> Decoder:
    """The decoder of a bundle; BundleError if its tensors are not those that the manifest describes."""
    decoder = build_decoder(bundle.manifest.likelihood, bundle.decoder_shape, bundle.manifest.scaling)
    decoder.load_state_dict(_state(bundle.decoder_tensors()))
    return decoder.eval()


def encoder_state_of(path: Path | str) -> dict[str, Tensor]:
    """The encoder's state of the bundle in the folder ``path``, verified."""
    return _state(load_encoder_tensors(path))


def arrays_of(state: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    """A network's state as ``save_bundle`` and the drawing want it."""
    return {name: tensor.detach().numpy() for name, tensor in state.items()}


def _state(tensors: Mapping[str, NDArray[np.float32]]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.array(array)) for name, array in tensors.items()}
