"""What the service answers with: showers as arrays, and what a dry run estimates."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qshower.client.client_errors import BadAnswerError, IncompleteAnswerError
from qshower.client.file_output import write_hdf5


@dataclass(frozen=True, slots=True, eq=False)
class Showers:
    """What the service generated.

    Attributes:
        incident_energies_mev: (N,) float64.
        showers_mev: (N, voxels) float32, in the order asked for.
        geometry: the voxel layout: layers with their r_edges_mm and angular_bins.
        provenance: model, sampler, seed and the rest of how they came to be.
    """

    incident_energies_mev: NDArray[np.float64]
    showers_mev: NDArray[np.float32]
    geometry: dict[str, Any]
    provenance: dict[str, Any]

    def to_hdf5(self, path: str | Path) -> None:
        """Write a file in the CaloChallenge's layout, which appears whole or not at all.

        ``incident_energies`` (N, 1) and ``showers`` (N, voxels), MeV, float32; the root attributes ``provenance`` and
        ``geometry`` hold JSON.

        Raises:
            MissingPackageError: h5py is not installed.
            OSError: the file cannot be written, or is a device or pipe; what stood there before still does.
        """
        attributes = {"provenance": json.dumps(self.provenance), "geometry": json.dumps(self.geometry)}
        write_hdf5(Path(path), self.incident_energies_mev, self.showers_mev, attributes)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a request would take on a QPU, had it not been a dry run.

    Attributes:
        model, solver, graph_id: what would be drawn, and where.
        access_time_us: QPU access time to be billed, that of a calibration on the way included.
        calibration_us: the calibration's part of it; 0 if there is one already.
        problems: problems to submit, without a calibration's.
        reads: reads of all of them.
        conditions: different conditions.
        copies: conditions side by side on the chip.
        missing_qubits: spins of the model without a working qubit.
        cached: showers that cached reads would answer, at no cost; the other figures are for the rest.
    """

    model: str
    solver: str
    graph_id: str
    access_time_us: float
    calibration_us: float
    problems: int
    reads: int
    conditions: int
    copies: int
    missing_qubits: int
    cached: int


def showers_of_npz(content: bytes, count: int) -> Showers:
    """The ``count`` showers of an npz answer.

    Raises:
        BadAnswerError: it is no such file.
        IncompleteAnswerError: it holds another number of showers.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            showers = Showers(
                arrays["incident_energies_mev"],
                arrays["showers_mev"],
                json.loads(str(arrays["geometry"])),
                json.loads(str(arrays["provenance"])),
            )
    except (ValueError, KeyError, zipfile.BadZipFile, EOFError) as error:
        raise BadAnswerError(f"the answer is no npz file of showers: {error}") from error
    if showers.incident_energies_mev.shape != (count,) or showers.showers_mev.shape[:1] != (count,):
        shape = showers.showers_mev.shape
        raise IncompleteAnswerError(f"{count} showers were asked for; the answer has shape {shape}")
    return showers


def document_of(content: bytes, what: str) -> dict[str, Any]:
    """A JSON object; BadAnswerError if ``content`` is none."""
    try:
        document = json.loads(content)
    except ValueError as error:
        raise BadAnswerError(f"{what} did not answer with JSON") from error
    if not isinstance(document, dict):
        raise BadAnswerError(f"{what} did not answer with an object")
    return document


def estimate_of(answered: Any) -> Estimate:
    """The estimate in the answer to a dry run; BadAnswerError if it is none."""
    try:
        return Estimate(**{one.name: _number_or_text(answered, one) for one in fields(Estimate)})
    except (KeyError, TypeError) as error:
        raise BadAnswerError(f"the dry run did not answer with an estimate: {answered!r}") from error


def _number_or_text(answered: Any, wanted: Field[Any]) -> Any:
    """The value of a field of an estimate; KeyError or TypeError if it is missing or of another type."""
    value: Any = answered[wanted.name]
    kinds: dict[str, type | tuple[type, ...]] = {"str": str, "int": int, "float": (int, float)}
    fits = isinstance(value, kinds[str(wanted.type)]) and not isinstance(value, bool)
    if not fits:
        raise TypeError(wanted.name)
    return float(value) if wanted.type == "float" else value
