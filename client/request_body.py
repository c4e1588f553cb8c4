"""The body of ``POST /generate``, from numpy, pandas and torch values as from Python's own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qshower.client.client_errors import InvalidArgumentError

ENERGIES = "incident_energies_mev"
_NUMBERS = "iuf"


def request_body(incident_energies_mev: Any, choices: Mapping[str, Any]) -> dict[str, Any]:
    """The body as plain Python values; a choice that is None is left out.

    Raises:
        InvalidArgumentError: something that JSON cannot hold, or that a mask hides.
    """
    energies = _energies(incident_energies_mev)
    fallback = choices.get("fallback")
    given = {**choices, "fallback": [fallback] if isinstance(fallback, str) else fallback}
    plain = {name: _plain(name, value) for name, value in given.items() if value is not None}
    return {ENERGIES: energies.tolist(), **plain}


def _energies(values: Any) -> NDArray[np.float64]:
    """(N,) from one number, a list, an array of shape (N,) or (N, 1), or a column of pandas or torch."""
    if np.ma.is_masked(values):
        hidden = int(np.sum(np.ma.getmaskarray(np.ma.asanyarray(values))))
        raise InvalidArgumentError(f"{ENERGIES}: a mask hides {hidden} values; send compressed() or filled(...) of it")
    try:
        # Tensors that need gradients, lie on a GPU or are of torch's own types have no array of their own.
        array = np.asarray(values.detach().to("cpu").double() if hasattr(values, "detach") else values)
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(f"{ENERGIES}: not a list of numbers ({error})") from None
    if array.dtype.kind not in _NUMBERS:
        array = _numbers(array)
    if array.ndim > 2 or (array.ndim == 2 and array.shape[1] != 1):
        raise InvalidArgumentError(f"{ENERGIES}: shape {array.shape}; allowed: (N,) or (N, 1)")
    energies = array.astype(np.float64).reshape(-1)
    if not np.isfinite(energies).all():
        # JSON has no NaN; sent as it is, the service would say no in less clear words.
        row = int(np.flatnonzero(~np.isfinite(energies))[0])
        raise InvalidArgumentError(f"{ENERGIES}[{row}]: {energies[row]} is not allowed; allowed: finite numbers > 0")
    return energies


def _numbers(array: NDArray[Any]) -> NDArray[np.float64]:
    """The numbers of an array of objects, such as Decimals or nullable columns."""
    for row, value in enumerate(array.reshape(-1).tolist()):
        try:
            usable = not isinstance(value, str | bytes | bool | complex) and math.isfinite(float(value))
        except (TypeError, ValueError, OverflowError):
            usable = False
        if not usable:
            raise InvalidArgumentError(f"{ENERGIES}[{row}]: {value!r} is not allowed; allowed: finite numbers > 0")
    return array.astype(np.float64)


def _plain(field: str, value: Any) -> Any:
    """``value`` as JSON has it; scalars of numpy and torch, and arrays of one number, are the number that they hold."""
    if np.ma.is_masked(value):
        raise InvalidArgumentError(f"{field}: a mask hides the value")
    if isinstance(value, Mapping):
        return {str(name): _plain(f"{field}.{name}", inner) for name, inner in value.items()}
    if isinstance(value, list | tuple) or getattr(value, "ndim", 0) == 1:
        return [_plain(f"{field}[{row}]", inner) for row, inner in enumerate(value)]
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    if isinstance(value, str):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidArgumentError(f"{field}: {value} is not allowed; allowed: finite numbers")
    if value is None or isinstance(value, bool | int | float):
        return value
    raise InvalidArgumentError(f"{field}: {value!r} is not allowed; allowed: a number, a text, a list or a dictionary")
