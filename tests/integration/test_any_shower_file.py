"""Whatever a shower file holds, ``inspect``, ``train`` and ``evaluate`` end with a report or one line."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from qshower.evaluation import report
from qshower.evaluation.comparison import QUICK_SETTINGS
from qshower.evaluation.distances import FpdSettings, KpdSettings
from qshower.model.geometry import named_geometry
from qshower.model.showers_writer import write_showers
from qshower.model.training import run as training
from qshower.sampler.errors import InvalidInputError

ROWS = 24
VOXELS = named_geometry("1-photons").voxel_count
CONFIG = (
    "{name: toy, output: runs, data: {files: [{path: odd.hdf5}], geometry: 1-photons, domain_mev: [1000, 100000]},"
    " latent: {nodes_per_partition: 20, levels: 4}, network: {trunk: 8, layer_code: 4, layer_hidden: 8,"
    " encoder_hidden: 8, level_hidden: 8}, schedule: {batch: 4, autoencoder_steps: 1, prior_steps: 0, chains: 8,"
    " chain_sweeps: 1, prior_batch: 4}}"
)

Change = Callable[[h5py.File], None]


def stored(name: str, values: Any, **options: Any) -> Change:
    """Put other values into a dataset's place."""

    def change(file: h5py.File) -> None:
        del file[name]
        file.create_dataset(name, data=values, **options)

    return change


def entry(name: str, row: int, value: float) -> Change:
    def change(file: h5py.File) -> None:
        file[name][row] = value

    return change


def attribute(name: str, value: Any, **options: Any) -> Change:
    return lambda file: file.attrs.create(name, value, **options)


def raw_attribute(name: bytes, content: bytes) -> Change:
    """A text attribute of any bytes."""

    def change(file: h5py.File) -> None:
        kind = h5py.h5t.C_S1.copy()
        kind.set_size(len(content))
        space = h5py.h5s.create(h5py.h5s.SCALAR)
        h5py.h5a.create(file.id, name, kind, space).write(np.array(content, dtype=f"S{len(content)}"))

    return change


def group_in_place(file: h5py.File) -> None:
    del file["showers"]
    file.create_group("showers")


def type_in_place(file: h5py.File) -> None:
    del file["showers"]
    file["showers"] = np.dtype("f4")


def link_to_itself(file: h5py.File) -> None:
    del file["showers"]
    file["showers"] = h5py.SoftLink("/showers")


def opaque(file: h5py.File) -> None:
    del file["incident_energies"]
    kind = h5py.h5t.create(h5py.h5t.OPAQUE, 4)
    h5py.h5d.create(file.id, b"incident_energies", kind, h5py.h5s.create_simple((ROWS, 1)))


def odd_integers(file: h5py.File) -> None:
    """Integers of 24 bits, for which numpy has no type."""
    del file["incident_energies"]
    kind = h5py.h5t.STD_I32LE.copy()
    kind.set_precision(24)
    kind.set_size(3)
    h5py.h5d.create(file.id, b"incident_energies", kind, h5py.h5s.create_simple((ROWS, 1)))


def lists_of_hits(file: h5py.File) -> None:
    del file["showers"]
    dataset = file.create_dataset("showers", (ROWS,), h5py.vlen_dtype(np.float32))
    for row in range(ROWS):
        dataset[row] = np.ones(row + 1, np.float32)


GOOD = np.full((ROWS, 1), 2000.0)
HITS = np.full((ROWS, VOXELS), 5.0)
DEEP = "[" * 30_000 + "]" * 30_000
NESTED = "[" * 1000 + "]" * 1000


def described(threshold: str, bins: str) -> Change:
    layers = '[{"id": 0, "r_edges_mm": [0, 1], "angular_bins": ' + bins + "}]" if bins else "[]"
    text = '{"name": "x", "particle": "p", "pid": 1, "threshold_mev": ' + threshold + ', "layers": ' + layers + "}"
    return attribute("geometry", text)


REFUSED: dict[str, Change] = {
    "energies of text": stored("incident_energies", np.full((ROWS, 1), b"1000")),
    "showers of text of any length": stored("showers", np.full((ROWS, VOXELS), "x", object), dtype=h5py.string_dtype()),
    "compound energies": stored("incident_energies", np.zeros((ROWS, 1), [("e", "f4"), ("unit", "S3")])),
    "complex energies": stored("incident_energies", GOOD.astype(complex)),
    "true and false": stored("showers", np.ones((ROWS, VOXELS), bool)),
    "references": stored("incident_energies", np.full((ROWS, 1), h5py.Reference(), object), dtype=h5py.ref_dtype),
    "lists of hits": lists_of_hits,
    "opaque energies": opaque,
    "integers of three bytes": odd_integers,
    "no space": stored("incident_energies", h5py.Empty("f4")),
    "one number": stored("showers", 1.0),
    "flat energies": stored("incident_energies", np.full(ROWS, 2000.0)),
    "flat showers": stored("showers", HITS.reshape(-1)),
    "blocks": stored("showers", HITS.reshape(ROWS, 8, -1)),
    "one row too many": stored("incident_energies", np.full((ROWS + 1, 1), 2000.0)),
    "energies in a row": stored("incident_energies", GOOD.T),
    "no showers": stored("showers", HITS[:0]),
    "a group": group_in_place,
    "a type": type_in_place,
    "a link to itself": link_to_itself,
    "energy NaN": entry("incident_energies", 3, np.nan),
    "energy 0": entry("incident_energies", 3, 0.0),
    "energy negative": entry("incident_energies", 3, -5.0),
    "energy infinite": entry("incident_energies", 3, np.inf),
    "voxel NaN": entry("showers", 3, np.nan),
    "voxel infinite": entry("showers", 3, -np.inf),
    "voxel beyond float32": stored("showers", HITS * 1e300),
}
ACCEPTED: dict[str, Change] = {
    "big-endian": lambda file: stored("incident_energies", file["incident_energies"][:].astype(">f8"))(file),
    "half precision": lambda file: stored("showers", file["showers"][:].astype("f2"))(file),
    "long double": lambda file: stored("incident_energies", file["incident_energies"][:].astype(np.longdouble))(file),
    "whole numbers": lambda file: stored("showers", file["showers"][:].astype("i2"))(file),
    "bytes that are no text": raw_attribute(b"provenance", b"\xff\xfe\x00\x81"),
    "a name that is no text": raw_attribute(b"caf\xe9", b"x"),
    "provenance cut off": attribute("provenance", '{"sampler": '),
    "provenance of numbers": attribute("provenance", np.arange(9)),
    "provenance of another kind": attribute("provenance", '["gibbs", {"qpu_access_time_us": "long"}]'),
    "provenance with any values": attribute("provenance", '{"qpu_access_time_us": 1e400, "a": {"b": [[[[1]]]]}}'),
    "nested provenance": attribute("provenance", '{"a": ' + NESTED + "}"),
    "deep provenance": attribute("provenance", DEEP),
    "provenance with control characters": attribute("provenance", '{"sampler": "\\u001b[31m\\u0007"}'),
    "provenance with half a character": attribute("provenance", '{"sampler": "\\ud800"}'),
    "provenance with brackets": attribute("provenance", '{"sampler": "[/bold] [red]"}'),
    "geometry of numbers": attribute("geometry", 2.0),
    "geometry of text": attribute("geometry", "dataset 2"),
    "geometry without layers": described("1", ""),
    "geometry with NaN": described("NaN", "1"),
    "geometry without end": described("1", "1e400"),
    "geometry of other voxels": described("1", "7"),
    "deep geometry": attribute("geometry", DEEP),
    "compound attribute": attribute("note", np.zeros(2, [("a", "i4"), ("b", "S3")])),
    "empty attribute": attribute("note", h5py.Empty("S10")),
    "reference attribute": lambda file: file.attrs.create("note", file["showers"].ref, dtype=h5py.ref_dtype),
    "other datasets": lambda file: file.create_dataset("weights", data=["a"] * 3, dtype=h5py.string_dtype()),
}


@pytest.fixture
def commands(
    qshower: Any, environment: pytest.MonkeyPatch, toy_showers: Callable[..., Any], tmp_path: Path
) -> Callable[[Path], dict[str, tuple[int, str, str]]]:
    """Runs the three commands on a file."""
    fpd, kpd = FpdSettings(repeats=2, points=4), KpdSettings(batches=2)
    tiny = replace(QUICK_SETTINGS, fpd=fpd, kpd=kpd, research_fpd=fpd, research_kpd=kpd)
    environment.setattr(report, "QUICK_SETTINGS", tiny)

    def not_measured(*_: Any, **__: Any) -> None:
        raise InvalidInputError("tolerance", 0, "a measurement, which is not what is tested here")

    environment.setattr(training, "measure_sweeps", not_measured)
    (tmp_path / "toy.yaml").write_text(CONFIG)
    write_showers(tmp_path / "reference.hdf5", *toy_showers(named_geometry("1-photons"), ROWS, 8))
    write_showers(tmp_path / "odd.hdf5", *toy_showers(named_geometry("1-photons"), ROWS, 9))

    def run(path: Path) -> dict[str, tuple[int, str, str]]:
        quick = ("--quick", "--no-classifiers", "-o", tmp_path / "report")
        return {
            "inspect": qshower("inspect", path),
            "train": qshower("train", tmp_path / "toy.yaml"),
            "evaluate": qshower("evaluate", tmp_path / "reference.hdf5", path, *quick),
        }

    return run


def check_refused(found: dict[str, tuple[int, str, str]]) -> None:
    for command, (code, _, err) in found.items():
        assert code == 2, (command, err)
        lines = [line for line in err.splitlines() if not line.startswith("reference: warning: ")]
        assert len(lines) == 1, (command, err)
        assert lines[0].startswith("qshower: "), (command, err)
        assert "odd.hdf5" in lines[0], (command, err)


@pytest.mark.parametrize("fault", REFUSED)
def test_a_file_that_holds_no_showers(commands: Any, tmp_path: Path, fault: str) -> None:
    with h5py.File(tmp_path / "odd.hdf5", "r+") as file:
        REFUSED[fault](file)
    check_refused(commands(tmp_path / "odd.hdf5"))


@pytest.mark.parametrize("oddity", ACCEPTED)
def test_a_file_with_what_nobody_needs(commands: Any, tmp_path: Path, oddity: str) -> None:
    with h5py.File(tmp_path / "odd.hdf5", "r+") as file:
        ACCEPTED[oddity](file)
    for command, (code, out, err) in commands(tmp_path / "odd.hdf5").items():
        assert code == 0, (command, err)
        assert "\x1b" not in out + err, command


@pytest.mark.parametrize("size", [0, 3, 100, 0.3, 0.7, -1])
def test_a_file_that_was_cut_off(commands: Any, tmp_path: Path, size: float) -> None:
    path = tmp_path / "odd.hdf5"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(size * len(whole)) if isinstance(size, float) else size])
    check_refused(commands(path))


@pytest.mark.parametrize("content", [b"incident_energies,showers\n1,2\n", b"\x89HDF\r\n\x1a\n" + bytes(2000)])
def test_a_file_that_is_no_hdf5(commands: Any, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "odd.hdf5").write_bytes(content)
    check_refused(commands(tmp_path / "odd.hdf5"))


@pytest.mark.parametrize("seed", range(12))
def test_a_file_with_damaged_bytes(commands: Any, tmp_path: Path, seed: int) -> None:
    path = tmp_path / "odd.hdf5"
    content = bytearray(path.read_bytes())
    rng = np.random.default_rng(seed)
    for place in rng.integers(0, min(len(content), 4000), 30):
        content[place] = rng.integers(256)
    path.write_bytes(content)
    for command, (code, _, err) in commands(path).items():
        assert code in (0, 2), (command, err)
        assert "Traceback" not in err
