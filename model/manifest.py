"""``manifest.json`` of a bundle: what a model is apart from its tensors, and the SHA-256 of each tensor file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from qshower.model.decoder_shape import DecoderShape, Likelihood, ScalingKind
from qshower.model.energy_code import EnergyCodeKind
from qshower.model.field_errors import field_errors
from qshower.sampler.errors import BundleError
from qshower.sampler.files import why, write_file
from qshower.sampler.machine import BoltzmannMachine

MANIFEST = "manifest.json"
CHECKPOINT = "checkpoint.pt"
"""What a training leaves beside its bundle, to go on from."""

Symmetry = Literal["dihedral", "none"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EnergyCodeSpec(_Section):
    """Which energy code, and its number of levels if it has any."""

    kind: EnergyCodeKind
    levels: int | None = None


class Lattice(_Section):
    """The machine's graph: colour class and qubit of each node, and the couplers between nodes."""

    topology: str
    partitions: list[int]
    qubits: list[int]
    edges: list[tuple[int, int]]


class Manifest(_Section):
    """Everything about a model that is no tensor. Energies in MeV.

    ``version`` tells models of one name apart: the service answers with the highest unless a request names another.
    ``sweeps`` are the Gibbs sweeps a draw needs, measured as ``sweeps_measurement`` says (by
    ``qshower.model.sweep_calibration``), or assumed where that is empty or not ``converged``; ``training`` tells data
    and their hashes, configuration, seed and time; ``quality`` the figures on showers kept out of the training.
    """

    format_version: Literal[1] = 1
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    version: int = Field(default=1, ge=1)
    description: str
    default: bool = False
    geometry: dict[str, Any]
    domain_mev: tuple[float, float]
    energy_code: EnergyCodeSpec
    scaling: ScalingKind
    symmetry: Symmetry
    likelihood: Likelihood
    decoder: dict[str, Any]
    lattice: Lattice
    sweeps: int = Field(ge=1)
    sweeps_measurement: dict[str, Any] = {}
    training: dict[str, Any] = {}
    quality: dict[str, Any] = {}
    code: dict[str, Any] = {}
    files: dict[str, str] = {}


def shape_from_dict(values: Mapping[str, Any]) -> DecoderShape:
    """The DecoderShape a manifest holds; BundleError where a field is missing or unknown."""
    try:
        bins = {name: tuple(int(n) for n in values[name]) for name in ("angular_bins", "radial_bins")}
        return DecoderShape(**{**values, **bins})
    except (TypeError, KeyError, ValueError) as error:
        raise BundleError("decoder", str(error), "the fields of DecoderShape") from error


def lattice_of(machine: BoltzmannMachine) -> Lattice:
    """The manifest's view of a machine's graph."""
    return Lattice(
        topology=machine.topology,
        partitions=machine.partitions.tolist(),
        qubits=machine.qubits.tolist(),
        edges=[(int(a), int(b)) for a, b in machine.edges],
    )


def read_manifest(folder: Path) -> tuple[Manifest, str]:
    """Manifest of a bundle and its SHA-256."""
    file = folder / MANIFEST
    try:
        content = file.read_bytes()
    except OSError as error:
        if training_unfinished(folder) or training_unfinished(folder.parent):
            allowed = "a bundle; `qshower train` with the same configuration goes on, and writes it at its end"
            raise BundleError(str(folder), "its training has not finished", allowed) from error
        raise BundleError(str(file), why(error), "the manifest of a bundle") from error
    try:
        return Manifest.model_validate_json(content), hashlib.sha256(content).hexdigest()
    except ValidationError as error:
        first = field_errors(error.errors(), Manifest)[0]
        found = f"no {first.path}" if first.kind == "missing" else f"{first.path or 'the file'} is not {first.allowed}"
        raise BundleError(str(file), found, "a manifest of format 1") from error


def training_unfinished(folder: Path) -> bool:
    """Whether a folder holds a training's checkpoint, and no bundle yet."""
    return (folder / CHECKPOINT).is_file() and not any(folder.glob(f"*/{MANIFEST}"))


def update_manifest(path: Path | str, **changes: Any) -> Manifest:
    """Change fields of a bundle's manifest in place, whole or not at all: a measured figure, another description."""
    folder = Path(path)
    manifest = Manifest.model_validate({**read_manifest(folder)[0].model_dump(), **changes})
    write_file(folder / MANIFEST, manifest_bytes(manifest))
    return manifest


def manifest_bytes(manifest: Manifest) -> bytes:
    """A manifest as the file that holds it."""
    return (json.dumps(manifest.model_dump(mode="json"), separators=(",", ":")) + "\n").encode()
