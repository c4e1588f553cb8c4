"""A trained model on disk: ``manifest.json`` and safetensors files whose SHA-256 the manifest holds.

Nothing is pickled. Loading needs no QPU and no encoder; it verifies every hash, so that a changed byte is an error and
never a different shower. ``Bundle.decode`` is reproducible to the bit, in any batch and on any kind of processor: it
draws from each shower's own stream, by sums in a fixed order. torch, which only training needs, is not loaded.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache, cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from qshower.model.decoder_shape import DecoderShape
from qshower.model.drawing.tensors import Shapes, first_difference, parameter_count, tensor_shapes
from qshower.model.energy_code import build_energy_code
from qshower.model.geometry import geometry_from_dict
from qshower.model.grid import Grid
from qshower.model.manifest import (
    MANIFEST,
    Manifest,
    lattice_of,
    manifest_bytes,
    read_manifest,
    shape_from_dict,
)
from qshower.model.masks import unmasked
from qshower.sampler.cores import usable_cores
from qshower.sampler.errors import BundleError, InvalidInputError
from qshower.sampler.files import replacing_folder, why, write_file
from qshower.sampler.machine import BoltzmannMachine

if TYPE_CHECKING:
    from qshower.model.drawing.build import Drawing
    from qshower.model.shower_code import ShowerCode

# numba, which takes half a second to load, is imported by what decodes; a machine and its conditions do without.

Array = NDArray[Any]

DECODER_FILE, PRIOR_FILE, ENCODER_FILE = "decoder.safetensors", "prior.safetensors", "encoder.safetensors"
CODE_FILE = "code.safetensors"
PRETRAINED = Path(__file__).parent / "pretrained"
TILE_ROWS = 32
"""Showers that one thread draws together; for speed alone."""


class Bundle:
    """A loaded model: condition of an energy, law of the latents, showers of latents. Safe to use from threads.

    Attributes:
        path: its folder.
        manifest: see ``Manifest``.
        sha256: of the manifest file, which holds the other files' hashes: it identifies the whole model.
        geometry: voxel layout.
        machine: law of the latents.
        energy_code: energy → condition.
    """

    def __init__(self, path: Path, manifest: Manifest, sha256: str, machine: BoltzmannMachine) -> None:
        """The decoder's file is read and verified when it is first used."""
        self.path = path
        self.manifest = manifest
        self.sha256 = sha256
        self.machine = machine
        self.geometry = geometry_from_dict(manifest.geometry)
        self.energy_code = build_energy_code(
            manifest.energy_code.kind,
            len(machine.condition_nodes),
            levels=manifest.energy_code.levels,
            domain_mev=manifest.domain_mev,
        )
        self._grid = Grid.of(self.geometry)
        self._drawing: Drawing | None = None
        self._building = Lock()

    @property
    def network_bytes(self) -> int:
        """Memory of the decoder's numbers; 0 while they are not loaded."""
        if self._drawing is None:
            return 0
        return sum(math.prod(shape) for shape in self.tensor_shapes.values()) * np.dtype(np.float32).itemsize

    def release(self) -> None:
        """Forget the decoder until it is used again. What is being decoded goes on with it."""
        with self._building:
            self._drawing = None

    @cached_property
    def decoder_shape(self) -> DecoderShape:
        """Sizes of the decoder; BundleError if the manifest's are none, or not those of its geometry."""
        shape = shape_from_dict(self.manifest.decoder)
        if shape.grid != self._grid:
            raise BundleError("decoder", f"grid {shape.grid.shape}", f"the geometry's grid {self._grid.shape}")
        return shape

    @property
    def tensor_shapes(self) -> Shapes:
        """Names and shapes of the decoder's tensors."""
        return tensor_shapes(self.manifest.likelihood, self.decoder_shape)

    @cached_property
    def _order(self) -> int:
        from qshower.model.symmetry import group_order

        return group_order(self.manifest.symmetry, self._grid)

    def decoder_tensors(self) -> dict[str, NDArray[np.float32]]:
        """The decoder's tensors, read; BundleError if they were altered, or are not those the manifest describes."""
        file = self.path / DECODER_FILE
        tensors = _read_tensors(self.path, self.manifest, DECODER_FILE)
        wrong = first_difference(tensors, self.tensor_shapes)
        if wrong is not None:
            raise BundleError(str(file), wrong, "the tensors of its decoder")
        return tensors

    @property
    def drawing(self) -> Drawing:
        """What draws showers; BundleError as of ``decoder_tensors``."""
        from qshower.model.drawing.build import build_drawing

        with self._building:
            if self._drawing is None:
                manifest, shape = self.manifest, self.decoder_shape
                self._drawing = build_drawing(manifest.likelihood, shape, manifest.scaling, self.decoder_tensors())
            return self._drawing

    @property
    def name(self) -> str:
        """Its name."""
        return self.manifest.name

    @property
    def domain_mev(self) -> tuple[float, float]:
        """Incident energies it was trained on, lowest and highest, MeV."""
        return self.manifest.domain_mev

    @property
    def default_sweeps(self) -> int:
        """Gibbs sweeps a draw needs."""
        return self.manifest.sweeps

    @property
    def sweeps_measured(self) -> bool:
        """Whether ``default_sweeps`` were measured, by the last calibration; otherwise they are assumed."""
        measurement = self.manifest.sweeps_measurement
        # Measurements of before ``converged`` were only written where they succeeded.
        return bool(measurement) and bool(measurement.get("converged", True))

    def conditions(self, incident_energies_mev: NDArray[np.float64]) -> NDArray[np.int8]:
        """Condition (rows, condition nodes) of each energy (rows,); InvalidInputError outside the domain."""
        energies = np.asarray(unmasked("incident_energies_mev", incident_energies_mev), dtype=np.float64)
        low, high = self.domain_mev
        outside = ~((energies >= low) & (energies <= high))
        if outside.any():
            row = int(np.flatnonzero(outside)[0])
            raise InvalidInputError(f"incident_energies_mev[{row}]", float(energies[row]), f"{low:g} to {high:g} MeV")
        return self.energy_code.conditions(energies)

    @property
    def codes(
        self,
    ) -> Callable[[NDArray[np.float64], NDArray[np.float32], NDArray[np.uint64]], NDArray[np.int8]] | None:
        """Latents of real showers, where the bundle has a fixed code of them: what the machine would have to draw.

        Of energies (rows,) and showers (rows, voxels) in MeV, with streams (rows, 2): spins (rows, nodes).
        """
        return self._codes if CODE_FILE in self.manifest.files else None

    def _codes(
        self,
        incident_energies_mev: NDArray[np.float64],
        showers_mev: NDArray[np.float32],
        streams: NDArray[np.uint64],
    ) -> NDArray[np.int8]:
        from qshower.model.drawing.depth_drawing import DepthDrawing
        from qshower.model.real_codes import latents_of_codes
        from qshower.model.symmetry import canonical_elements, turn

        drawing = self.drawing
        if not isinstance(drawing, DepthDrawing):
            raise BundleError("likelihood", self.manifest.likelihood, "depth: the decoder that reads a fixed code")
        nodes = self.machine.free_nodes[drawing.visible]
        showers = self._grid.from_voxels(
            np.where(showers_mev < self.geometry.threshold_mev, np.float32(0), showers_mev).astype(np.float32)
        )
        if self._order > 1:
            showers = turn(showers, canonical_elements(showers, self._grid), self._grid)
        energies = np.asarray(incident_energies_mev, dtype=np.float64)
        bits = load_shower_code(self.path).bits(self._grid, energies, showers).reshape(len(showers), -1)
        return latents_of_codes(self.machine, nodes, bits, self.conditions(incident_energies_mev), streams)

    def decode(
        self,
        spins: NDArray[np.int8],
        incident_energies_mev: NDArray[np.float64],
        streams: NDArray[np.uint64],
        threshold_mev: float,
    ) -> NDArray[np.float32]:
        """Showers (rows, voxels) float32 in MeV, voxels below ``threshold_mev`` 0.

        ``spins`` (rows, nodes) of −1 and +1, energies (rows,) in MeV, ``streams`` (rows, 2) uint64 (seed, index). A row
        depends on its own arguments alone, to the bit.
        """
        from qshower.model.drawing.philox import uniforms
        from qshower.model.symmetry import turn

        drawing, rows = self.drawing, len(spins)
        showers = np.empty((rows, self.geometry.voxel_count), dtype=np.float32)
        latents = np.ascontiguousarray(spins[:, self.machine.free_nodes])
        energies = np.asarray(incident_energies_mev, dtype=np.float64).astype(np.float32)

        def decode_tile(start: int) -> None:
            tile = slice(start, start + TILE_ROWS)
            numbers = uniforms(streams[tile], 1 + drawing.uniform_count)
            grid = drawing.draw(latents[tile], energies[tile], numbers)
            if self._order > 1:
                grid = turn(grid, (numbers[:, -1] * self._order).astype(np.int64), self._grid)
            voxels = self._grid.to_voxels(grid)
            np.multiply(voxels, voxels >= threshold_mev, out=showers[tile])

        tiles = range(0, rows, TILE_ROWS)
        if len(tiles) > 1:
            list(_decoding_threads().map(decode_tile, tiles))
        else:
            for start in tiles:
                decode_tile(start)
        return showers


@cache
def _decoding_threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(usable_cores(), thread_name_prefix="decode")


def load_bundle(path: Path | str, *, build_decoder: bool = True) -> Bundle:
    """The model in the folder ``path``; BundleError if anything is missing, altered or unreadable.

    Without ``build_decoder`` the decoder is read, verified, and numba loaded only when it is used.
    """
    folder = Path(path)
    manifest, sha256 = read_manifest(folder)
    lattice = manifest.lattice
    prior = _tensors(folder / PRIOR_FILE, _verified(folder, manifest, PRIOR_FILE))
    if set(prior) != {"h", "j"}:
        raise BundleError(str(folder / PRIOR_FILE), sorted(prior), "tensors h and j")
    machine = BoltzmannMachine(
        h=prior["h"],
        j=prior["j"],
        edges=np.array(lattice.edges, dtype=np.int32).reshape(-1, 2),
        partitions=np.array(lattice.partitions, dtype=np.int8),
        qubits=np.array(lattice.qubits, dtype=np.int64),
        topology=lattice.topology,
    )
    bundle = Bundle(folder, manifest, sha256, machine)
    if build_decoder:
        _ = bundle.drawing
    else:
        _verified(folder, manifest, DECODER_FILE)
    return bundle


def load_encoder_tensors(path: Path | str) -> dict[str, NDArray[np.float32]]:
    """The encoder's tensors of a bundle, verified; needed only to train on."""
    folder = Path(path)
    return _read_tensors(folder, read_manifest(folder)[0], ENCODER_FILE)


def load_shower_code(path: Path | str) -> ShowerCode:
    """The fixed code of showers that a bundle's latents carry, verified; BundleError where it has none."""
    from qshower.model.share_cells import ShareCells
    from qshower.model.shower_code import ShowerCode

    folder = Path(path)
    manifest = read_manifest(folder)[0]
    tensors = {name: array.astype(np.float64) for name, array in _read_tensors(folder, manifest, CODE_FILE).items()}
    names = tuple(manifest.code.get("observables", ()))
    share = ShareCells(tensors["share_terms"], tensors["share_span"]) if "share_terms" in tensors else None
    return ShowerCode(names, tensors["terms"], int(manifest.code.get("reach", 0)), share)


def find_bundles(folder: Path | None = None) -> dict[str, Path]:
    """Folders of the bundles in ``folder`` (the pretrained ones by default), by name; hidden ones are left out."""
    root = PRETRAINED if folder is None else Path(folder)
    return {read_manifest(file.parent)[0].name: file.parent for file in sorted(root.glob(f"[!.]*/{MANIFEST}"))}


def save_bundle(
    path: Path | str,
    manifest: Manifest,
    machine: BoltzmannMachine,
    decoder_state: Mapping[str, Array],
    *,
    encoder_state: Mapping[str, Array] | None = None,
    code: ShowerCode | None = None,
) -> Manifest:
    """Write a bundle folder, whole or not at all, and return its manifest with the files' hashes.

    ``manifest.lattice`` and ``manifest.files`` are set here from the machine and the tensors. An existing
    folder is replaced.
    """
    prior = {"h": machine.h, "j": machine.j}
    contents = {DECODER_FILE: _tensor_bytes(decoder_state), PRIOR_FILE: _tensor_bytes(prior)}
    if encoder_state is not None:
        contents[ENCODER_FILE] = _tensor_bytes(encoder_state)
    if code is not None:
        terms = {"terms": code.terms}
        if code.share is not None:
            terms |= {"share_terms": code.share.terms, "share_span": code.share.span}
        contents[CODE_FILE] = _tensor_bytes({name: array.astype(np.float32) for name, array in terms.items()})
        manifest = manifest.model_copy(update={"code": {"observables": list(code.observables), "reach": code.reach}})
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    complete = manifest.model_copy(update={"lattice": lattice_of(machine), "files": hashes})
    contents[MANIFEST] = manifest_bytes(complete)
    with replacing_folder(Path(path), MANIFEST) as folder:
        for name, content in contents.items():
            write_file(folder / name, content)
    return complete


def _tensor_bytes(tensors: Mapping[str, Array]) -> bytes:
    return save_tensors({name: np.ascontiguousarray(array) for name, array in tensors.items()})


def _read_tensors(folder: Path, manifest: Manifest, name: str) -> dict[str, NDArray[np.float32]]:
    """Tensors of one file of a bundle, after its hash was checked."""
    return _tensors(folder / name, _verified(folder, manifest, name))


def _verified(folder: Path, manifest: Manifest, name: str) -> bytes:
    """One file of a bundle, after its hash was checked."""
    file = folder / name
    if name not in manifest.files:
        raise BundleError(str(file), "not in the manifest", f"one of {sorted(manifest.files)}")
    try:
        content = file.read_bytes()
    except OSError as error:
        raise BundleError(str(file), why(error), "a tensor file of the bundle") from error
    found = hashlib.sha256(content).hexdigest()
    if found != manifest.files[name]:
        raise BundleError(
            str(file), f"SHA-256 {found[:12]}…", f"{manifest.files[name][:12]}…, as in {MANIFEST}: the file was altered"
        )
    return content


def _tensors(file: Path, content: bytes) -> dict[str, NDArray[np.float32]]:
    """Tensors of a file as float32, whatever they are stored as."""
    try:
        return {key: array.astype(np.float32) for key, array in load_tensors(content).items()}
    except SafetensorError as error:
        raise BundleError(str(file), str(error), "a safetensors file") from error


def describe(bundle: Bundle) -> dict[str, Any]:
    """What a user wants to know of a model, JSON-ready."""
    manifest, machine = bundle.manifest, bundle.machine
    return {
        "name": manifest.name,
        "default": manifest.default,
        "description": manifest.description,
        "sha256": bundle.sha256,
        "geometry": manifest.geometry,
        "domain_mev": list(manifest.domain_mev),
        "energy_code": manifest.energy_code.model_dump(),
        "topology": machine.topology,
        "nodes": machine.node_count,
        "couplers": int(machine.j.size),
        "parameters": parameter_count(bundle.tensor_shapes) + machine.h.size + machine.j.size,
        "sweeps": manifest.sweeps,
        "training": manifest.training,
        "quality": manifest.quality,
    }
