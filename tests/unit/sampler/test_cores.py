"""Numbers of threads, as every sampler takes them."""

from typing import Any

import numpy as np
import pytest

from qshower.sampler.annealing import AnnealingSampler
from qshower.sampler.errors import InvalidInputError
from qshower.sampler.gibbs.gibbs_sampler import GibbsSampler
from qshower.sampler.tempering import TemperingSampler


@pytest.mark.parametrize("kind", [AnnealingSampler, GibbsSampler, TemperingSampler])
def test_threads_may_be_numpy_s(kind: Any) -> None:
    kind(threads=np.int64(2)).close()
    for threads in (0, -1, True, 1.0, "2", np.float64(2)):
        with pytest.raises(InvalidInputError, match=r"threads: .* is not allowed; allowed: an integer of at least 1"):
            kind(threads=threads)
