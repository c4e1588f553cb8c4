"""The drawing of a decoder of any kind from its tensors."""

from __future__ import annotations

from qshower.model.decoder_shape import DecoderShape, Likelihood, ScalingKind
from qshower.model.drawing.depth_drawing import DepthDrawing
from qshower.model.drawing.point_drawing import PointDrawing
from qshower.model.drawing.sampled_drawing import SampledDrawing
from qshower.model.drawing.tensors import Tensors

Drawing = SampledDrawing | PointDrawing | DepthDrawing


def build_drawing(likelihood: Likelihood, shape: DecoderShape, scaling: ScalingKind, tensors: Tensors) -> Drawing:
    """What draws showers of ``tensors``, whose names and shapes were checked (``tensors.first_difference``)."""
    if likelihood == "depth":
        return DepthDrawing.of(shape, tensors)
    if likelihood == "sampled":
        return SampledDrawing.of(shape, tensors)
    return PointDrawing.of(shape, scaling, tensors)
