"""The CaloChallenge's binning files: ``<Bins><Bin pid name [etaMin etaMax]><Layer id r_edges n_bin_alpha/>``."""

from __future__ import annotations

import codecs
import re
from pathlib import Path
from xml.etree import ElementTree as ET

from qshower.model.geometry import GEOMETRIES, Geometry, Layer
from qshower.sampler.errors import DefectError, InvalidInputError
from qshower.sampler.files import why, write_file

ALLOWED = "a CaloChallenge binning file: <Bins><Bin pid name><Layer id r_edges n_bin_alpha/>"
MAX_BYTES = 4_000_000
MAX_VOXELS = 10_000_000

# Longer marks first: that of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    ("<?".encode("utf-32-le"), "utf-32-le"),
    ("<?".encode("utf-32-be"), "utf-32-be"),
    ("<?".encode("utf-16-le"), "utf-16-le"),
    ("<?".encode("utf-16-be"), "utf-16-be"),
)
_DECLARED = re.compile(rb"""\s*<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")


def read_binning_xml(
    path: Path,
    particle: str | None = None,
    *,
    eta_range: tuple[float, float] | None = None,
    name: str | None = None,
    threshold_mev: float | None = None,
) -> Geometry:
    """The geometry of one entry of a binning file, in whatever encoding the file declares.

    A layer with the single edge 0 is absent.

    Args:
        path: the file.
        particle: name of the entry; None where the file has only one.
        eta_range: etaMin and etaMax of the entry, where the particle has several.
        name: of the geometry; None for the challenge's name where the layers are those of a built-in geometry, else
            the file's name.
        threshold_mev: None for that built-in geometry's, else 0.

    Raises:
        InvalidInputError: the file is unreadable, is no binning file, or holds no such entry or more than one.
    """
    root = _parsed(path)
    element = _entry(path, list(root.iter("Bin")), particle, eta_range)
    try:
        layers = tuple(layer for layer in map(_layer, element.iter("Layer")) if layer is not None)
        if sum(layer.voxel_count for layer in layers) > MAX_VOXELS:
            raise DefectError("layers", "too many voxels", f"at most {MAX_VOXELS} in all")
        called = element.get("name", "")
        known = next((one for one in GEOMETRIES.values() if (one.particle, one.layers) == (called, layers)), None)
        return Geometry(
            name=name or (known.name if known else path.stem),
            particle=called,
            pid=int(element.attrib["pid"]),
            layers=layers,
            threshold_mev=threshold_mev if threshold_mev is not None else (known.threshold_mev if known else 0.0),
            eta_range=_eta(element),
        )
    except InvalidInputError as error:
        raise InvalidInputError(f"binning file {path}: {error.field}", error.value, error.allowed) from error
    except KeyError as error:
        raise DefectError(f"binning file {path}", f"an entry without {error.args[0]}", ALLOWED) from error
    except ValueError as error:
        raise DefectError(f"binning file {path}", str(error), ALLOWED) from error


def write_binning_xml(path: Path, geometry: Geometry) -> None:
    """Write ``geometry`` as a CaloChallenge binning file, atomically.

    Ids that the geometry skips are written as absent layers, since the challenge's scripts count lines, not ids.
    """
    root = ET.Element("Bins")
    attributes = {"pid": str(geometry.pid), "name": geometry.particle}
    if geometry.eta_range is not None:
        attributes |= {"etaMin": f"{geometry.eta_range[0]:g}", "etaMax": f"{geometry.eta_range[1]:g}"}
    particle = ET.SubElement(root, "Bin", attributes)
    by_id = {layer.id: layer for layer in geometry.layers}
    for number in range(max(by_id) + 1):
        layer = by_id.get(number)
        edges = ",".join(repr(edge).removesuffix(".0") for edge in layer.r_edges_mm) if layer else "0"
        angular = layer.angular_bins if layer else 1
        ET.SubElement(particle, "Layer", {"id": str(number), "r_edges": edges, "n_bin_alpha": str(angular)})
    ET.indent(root)
    write_file(path, ET.tostring(root, encoding="utf-8") + b"\n")


def _parsed(path: Path) -> ET.Element:
    where = f"binning file {path}"
    try:
        if not path.is_file():
            raise DefectError(where, "a folder" if path.is_dir() else "no such file", ALLOWED)
        if path.stat().st_size > MAX_BYTES:
            raise DefectError(where, f"{path.stat().st_size} bytes", f"at most {MAX_BYTES}")
        content = path.read_bytes()
    except OSError as error:
        raise DefectError(where, why(error), ALLOWED) from error
    encoding = next((encoding for mark, encoding in _MARKS if content.startswith(mark)), None)
    if encoding is None:
        declared = _DECLARED.match(content)
        encoding = declared[1].decode() if declared else "utf-8"
    try:
        text = content.decode(encoding)
    except LookupError as error:
        raise DefectError(where, f"encoding {encoding}", "an encoding that Python knows") from error
    except ValueError as error:
        raise DefectError(where, f"not in its encoding {encoding} ({error})", ALLOWED) from error
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise DefectError(where, "with a document type or entities", ALLOWED)
    try:
        # The text is decoded: what it declares no longer holds.
        return ET.fromstring(re.sub(r"^\s*<\?xml.*?\?>", "", text, flags=re.DOTALL))  # noqa: S314  no entities, see above
    except (ET.ParseError, ValueError) as error:
        raise DefectError(where, str(error), ALLOWED) from error


def _entry(
    path: Path, entries: list[ET.Element], particle: str | None, eta_range: tuple[float, float] | None
) -> ET.Element:
    """The one entry that is meant."""
    if not entries:
        raise DefectError(f"binning file {path}", "no entry", ALLOWED)
    names = [entry.get("name", "") for entry in entries]
    if particle is not None and particle not in names:
        raise InvalidInputError("particle", particle, f"one of {names} in {path}")
    try:
        found = [
            entry for entry in entries if particle in (None, entry.get("name", "")) and eta_range in (None, _eta(entry))
        ]
        ranges = [_eta(entry) for entry in entries if particle in (None, entry.get("name", ""))]
    except (KeyError, ValueError) as error:
        raise DefectError(f"binning file {path}", f"etaMin or etaMax: {error}", ALLOWED) from error
    if len(found) == 1:
        return found[0]
    if particle is None and len(set(names)) > 1:
        raise InvalidInputError("particle", particle, f"one of {names} in {path}")
    if eta_range is None or not found:
        raise InvalidInputError("eta_range", eta_range, f"the one of {len(ranges)} entries that is meant, of {ranges}")
    raise DefectError(
        f"binning file {path}", f"{len(found)} entries {found[0].get('name', '')} of one eta range", "one entry"
    )


def _eta(element: ET.Element) -> tuple[float, float] | None:
    if "etaMin" not in element.attrib:
        return None
    return float(element.attrib["etaMin"]), float(element.attrib["etaMax"])


def _layer(element: ET.Element) -> Layer | None:
    edges = tuple(float(edge) for edge in element.attrib["r_edges"].split(","))
    if len(edges) == 1:
        return None
    return Layer(int(element.attrib["id"]), edges, int(element.attrib["n_bin_alpha"]))
