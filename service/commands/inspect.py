"""``qshower inspect``: what a bundle or a shower file holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orjson
from rich.text import Text

from qshower.model.bundle import Bundle, describe, find_bundles, load_bundle
from qshower.model.manifest import MANIFEST, training_unfinished
from qshower.model.shower_checks import ShowerTally, findings_of
from qshower.model.showers_file import ShowersFile, open_showers
from qshower.sampler.errors import DefectError
from qshower.sampler.files import missing
from qshower.sampler.hdf5_reading import printable
from qshower.service.commands.sampler_lines import flat
from qshower.service.commands.terminal import console, progress, say, two_columns
from qshower.service.settings import load_settings


def run(path: Path, output: Path | None, geometry: str | None = None) -> None:
    """Print a table; with ``output``, draw pictures into that folder as well. ``geometry`` is of a shower file."""
    if path.is_file():
        if output is not None:
            from qshower.service.commands.pictures import SHOWERS_PICTURE, check_folder

            check_folder(output, SHOWERS_PICTURE)
        with open_showers(path, geometry, allow_negative=True) as file:
            _show_file(file, output)
        return
    bundle = _bundle(path)
    if output is not None:
        from qshower.service.commands.pictures import MACHINE_PICTURE, SHOWERS_PICTURE, check_folder

        check_folder(output, MACHINE_PICTURE, SHOWERS_PICTURE)
    _print(bundle_rows(bundle))
    if output is not None:
        from qshower.service.commands.pictures import draw_bundle

        _tell(draw_bundle(bundle, output))


def _bundle(path: Path) -> Bundle:
    bundle = load_bundle(_folder(path), build_decoder=False)
    # What is drawn later is verified then; here is the place to say what is wrong.
    bundle.decoder_tensors()
    return bundle


def _folder(path: Path) -> Path:
    if path.is_dir():
        if not (path / MANIFEST).exists() and not training_unfinished(path):
            raise DefectError(str(path), f"a folder without {MANIFEST}", "the folder of a bundle, or a shower file")
        return path
    folder = load_settings().model_folder
    known = find_bundles() | (find_bundles(folder) if folder is not None else {})
    if str(path) not in known and training_unfinished(path.parent):
        return path
    if str(path) not in known:
        names = ", ".join(known) or "none is installed"
        expected = f"a shower file, the folder of a bundle, or the name of one: {names}"
        raise DefectError(str(path), missing(path), expected)
    return known[str(path)]


def bundle_rows(bundle: Bundle) -> list[tuple[str, str]]:
    """What there is to know about a bundle, by name."""
    known = describe(bundle)
    low, high = bundle.domain_mev
    rows = [
        ("bundle", bundle.name),
        ("description", known["description"]),
        ("SHA-256", bundle.sha256),
        ("geometry", f"{bundle.geometry.name}: {bundle.geometry.particle}, {bundle.geometry.voxel_count} voxels"),
        ("incident energies", f"{low:.10g} to {high:.10g} MeV"),
        ("threshold", f"{bundle.geometry.threshold_mev:g} MeV"),
        ("machine", f"{known['nodes']} spins, {known['couplers']} couplers on {known['topology']}"),
        ("energy code", flat(known["energy_code"])),
        ("sweeps", str(known["sweeps"])),
        ("parameters", str(known["parameters"])),
    ]
    rows += [(f"training: {name}", flat(value)) for name, value in known["training"].items()]
    rows += [(f"quality: {name}", flat(value)) for name, value in known["quality"].items()]
    return rows


def _show_file(file: ShowersFile, output: Path | None) -> None:
    geometry = file.geometry
    voxels, layers = geometry.voxel_count, geometry.layer_slices()
    energies = file.energies_mev()
    totals, occupied = np.empty(file.count), np.empty(file.count)
    per_layer, row, tally = np.zeros(len(layers)), 0, ShowerTally(geometry.threshold_mev)
    with progress("showers") as bar:
        task = bar.add_task("reading", total=file.count)
        for chunk_energies, showers in file.chunks():
            tally.add(chunk_energies, showers)
            rows = slice(row, row + showers.shape[0])
            totals[rows], occupied[rows] = showers.sum(axis=1, dtype=np.float64), (showers > 0).mean(axis=1)
            per_layer += [showers[:, part].sum(dtype=np.float64) for part in layers]
            row = rows.stop
            bar.update(task, completed=row)
    response = totals / energies
    table = [
        ("file", str(file.path)),
        ("showers", str(file.count)),
        ("geometry", f"{geometry.name}: {geometry.particle}, {voxels} voxels in {len(layers)} layers"),
        ("incident energies", f"{energies.min():.10g} to {energies.max():.10g} MeV"),
        ("E_tot / E_inc", f"{response.mean():.4f} ± {response.std():.4f} (mean, standard deviation)"),
        ("occupied voxels", f"{100 * occupied.mean():.2f} %"),
        ("empty showers", str(int((totals == 0).sum()))),
        ("mean layer", f"{(per_layer * np.arange(len(layers))).sum() / max(per_layer.sum(), 1e-30):.2f}"),
    ]
    if "provenance" in file.attributes:
        table += [(f"provenance: {name}", flat(value)) for name, value in _json(file.attributes["provenance"]).items()]
    _print(table)
    for finding in findings_of(tally.result()):
        say(f"warning: {finding.text}")
    if output is not None:
        from qshower.service.commands.pictures import draw_showers

        _tell(draw_showers(file, output))


def _json(text: str) -> dict[str, Any]:
    try:
        document = orjson.loads(text)
    except ValueError:
        document = None
    return {name: value for name, value in document.items() if value is not None} if isinstance(document, dict) else {}


def _print(rows: list[tuple[str, str]]) -> None:
    table = two_columns()
    for name, value in rows:
        table.add_row(Text(printable(name)), Text(printable(value)))
    console().print(table)


def _tell(pictures: list[Path]) -> None:
    for picture in pictures:
        say(f"wrote {picture}")
