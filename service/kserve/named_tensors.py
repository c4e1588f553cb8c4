"""Tensors of the protocol: their types, and how their values come as bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.errors import DefectError, InvalidInputError

ENERGIES, SEED, SHOWERS = "incident_energies_mev", "seed", "showers_mev"
DTYPES: dict[str, np.dtype[Any]] = {
    "FP64": np.dtype("<f8"),
    "FP32": np.dtype("<f4"),
    "INT64": np.dtype("<i8"),
    "UINT64": np.dtype("<u8"),
}
ACCEPTED = {ENERGIES: ("FP64", "FP32"), SEED: ("INT64", "UINT64")}
"""The inputs, and the types that each may have, that of the metadata first."""


@dataclass(frozen=True, slots=True)
class TensorHead:
    """Name, type and shape of an input."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def dtype(self) -> np.dtype[Any]:
        """The values' type; InvalidInputError for an input or a type that is not known, or a negative size."""
        if self.name not in ACCEPTED:
            raise InvalidInputError("inputs", self.name, f"{ENERGIES}, and {SEED} if wanted")
        if self.datatype not in ACCEPTED[self.name]:
            raise InvalidInputError(f"inputs[{self.name}].datatype", self.datatype, " or ".join(ACCEPTED[self.name]))
        if (
            not self.shape
            or min(self.shape) < 0
            or len(self.shape) > 2
            or (len(self.shape) == 2 and self.shape[1] != 1)
        ):
            raise InvalidInputError(f"inputs[{self.name}].shape", list(self.shape), "[n, 1] or [n]")
        return DTYPES[self.datatype]

    def of_bytes(self, raw: bytes | memoryview) -> NDArray[Any]:
        """(n,) the values of ``raw``, little-endian as the protocol has them."""
        dtype, count = self.dtype(), self.shape[0]
        if len(raw) != count * dtype.itemsize:
            wanted = f"{count * dtype.itemsize} bytes for {self.datatype} of shape {list(self.shape)}"
            raise DefectError(f"inputs[{self.name}]", f"{len(raw)} bytes", wanted)
        return np.frombuffer(raw, dtype=dtype)

    def of_values(self, values: Sequence[Any]) -> NDArray[Any]:
        """(n,) the values of a list, flat or as nested as the shape is."""
        dtype, count, field = self.dtype(), self.shape[0], f"inputs[{self.name}].data"
        flat = [value[0] if isinstance(value, list) and len(value) == 1 else value for value in values]
        number = (int, float) if dtype.kind == "f" else (int,)
        for index, value in enumerate(flat):
            if not isinstance(value, number) or isinstance(value, bool):
                raise InvalidInputError(f"{field}[{index}]", value, f"a number of type {self.datatype}")
        if len(flat) != count:
            raise DefectError(field, f"{len(flat)} values", f"{count}, as the shape {list(self.shape)} says")
        try:
            return np.array(flat, dtype=dtype)
        except OverflowError:
            raise InvalidInputError(field, max(flat, key=abs), f"numbers of type {self.datatype}") from None
