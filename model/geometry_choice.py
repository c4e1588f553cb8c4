"""Which geometry is meant: a name, a binning file, a bundle, or what a shower file says of itself."""

from __future__ import annotations

import json
from pathlib import Path

from qshower.model.binning_xml import read_binning_xml
from qshower.model.geometry import GEOMETRIES, Geometry, geometry_from_dict
from qshower.model.manifest import MANIFEST, read_manifest
from qshower.sampler.errors import InvalidInputError

XML = ".xml"
CHOICES = f"{', '.join(GEOMETRIES)}, a binning file FILE.xml or FILE.xml:PARTICLE, or the folder of a bundle"


def chosen_geometry(text: str) -> Geometry:
    """The geometry of that name, of a binning file (``FILE.xml`` or ``FILE.xml:PARTICLE``), or of a bundle's folder.

    Raises:
        InvalidInputError: there is none, or the file is no good binning file or bundle.
    """
    if text in GEOMETRIES:
        return GEOMETRIES[text]
    path = Path(text)
    if (path / MANIFEST).is_file():
        return geometry_from_dict(read_manifest(path)[0].geometry)
    if path.is_file():
        return read_binning_xml(path)
    name, colon, particle = text.rpartition(":")
    if colon and name.lower().endswith(XML):
        return read_binning_xml(Path(name), particle)
    raise InvalidInputError("geometry", text, CHOICES)


def described_geometry(text: str | None) -> Geometry | None:
    """The geometry that a file's attribute ``geometry`` holds as JSON; None where it holds none."""
    try:
        values = json.loads(text or "")
        return geometry_from_dict(values) if isinstance(values, dict) else None
    except (ValueError, RecursionError):
        return None
