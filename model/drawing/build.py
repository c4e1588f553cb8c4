"""The drawing of a decoder of any kind from its tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qshower.model.decoder_shape import DecoderShape, Likelihood, ScalingKind
from qshower.model.drawing.tensors import Tensors

if TYPE_CHECKING:
    from qshower.model.drawing.depth_drawing import DepthDrawing
    from qshower.model.drawing.point_drawing import PointDrawing
    from qshower.model.drawing.sampled_drawing import SampledDrawing

    Drawing = SampledDrawing | PointDrawing | DepthDrawing

# Kernels take time to load: only those of the kind that is drawn.


def build_drawing(likelihood: Likelihood, shape: DecoderShape, scaling: ScalingKind, tensors: Tensors) -> Drawing:
    """What draws showers of ``tensors``, whose names and shapes were checked (``tensors.first_difference``)."""
    if likelihood == "depth":
        from qshower.model.drawing.depth_drawing import DepthDrawing

        return DepthDrawing.of(shape, tensors)
    if likelihood == "sampled":
        from qshower.model.drawing.sampled_drawing import SampledDrawing

        return SampledDrawing.of(shape, tensors)
    from qshower.model.drawing.point_drawing import PointDrawing

    return PointDrawing.of(shape, scaling, tensors)
