import math

import numpy as np
import pytest
import torch

from qshower.model.drawing.point_kernels import fraction_of_log1p, fraction_of_logit
from qshower.model.scaling import build_scaling
from qshower.sampler.errors import InvalidInputError

BACK = {"logit": fraction_of_logit, "log1p": fraction_of_log1p}


@pytest.mark.parametrize("kind", ["logit", "log1p"])
def test_scalings_are_invertible_and_keep_zero(kind: str) -> None:
    scaling = build_scaling(kind)
    fraction = torch.cat([torch.zeros(1), torch.logspace(-6, math.log10(0.99), 200)]).double()
    scaled = scaling.forward(fraction)
    assert scaled[0] == 0
    assert (scaled.diff() > 0).all()
    back = [BACK[kind](value) for value in scaled.tolist()]
    np.testing.assert_allclose(back, fraction.numpy(), rtol=1e-6, atol=1e-12)


def test_scalings_have_the_published_values() -> None:
    half = torch.tensor([0.5], dtype=torch.float64)
    x = 1e-7 + (1 - 2e-7) * 0.5
    expected = math.log(x / (1 - x)) - math.log(1e-7 / (1 - 1e-7))
    assert build_scaling("logit").forward(half).item() == pytest.approx(expected, rel=1e-12)
    assert build_scaling("log1p").forward(half).item() == pytest.approx(math.log(13.5), rel=1e-12)


def test_unknown_scaling_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="scaling: 'sqrt'"):
        build_scaling("sqrt")
