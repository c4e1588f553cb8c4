"""Masked arrays are taken where their masks hide nothing."""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from qshower.sampler.errors import DefectError

Values = TypeVar("Values")


def unmasked(field: str, values: Values) -> Values:
    """``values`` as they are; DefectError if they are masked, as numpy would read what the mask hides.

    >>> unmasked("incident_energies_mev", [1000.0])
    [1000.0]
    """
    if np.ma.is_masked(values):
        hidden = int(np.sum(np.ma.getmaskarray(np.ma.asanyarray(values))))
        raise DefectError(field, f"a mask hides {hidden} values", "compressed() or filled(...) of the array")
    return values
