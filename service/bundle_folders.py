"""The bundles of a folder, each read by itself: one that is broken does not keep the others from loading."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qshower.model.bundle import PRETRAINED, load_bundle
from qshower.model.manifest import MANIFEST, read_manifest
from qshower.sampler.errors import BundleError

if TYPE_CHECKING:
    from qshower.model.bundle import Bundle


@dataclass(frozen=True, slots=True)
class BrokenModel:
    """A bundle that cannot be used. ``name`` is its folder's where the manifest does not say; ``error`` tells why."""

    name: str
    version: int | None
    error: str


@dataclass(frozen=True, slots=True)
class FoundBundles:
    """What a folder holds: bundles whose files are whole, without their networks, and what is broken."""

    whole: tuple[Bundle, ...]
    broken: tuple[BrokenModel, ...]

    @property
    def names(self) -> frozenset[str]:
        """Names of all of them."""
        return frozenset(bundle.name for bundle in self.whole) | {model.name for model in self.broken}


def read_bundles(folder: Path | None, known: Callable[[Path, str], Bundle | None] = lambda *_: None) -> FoundBundles:
    """Read and verify the bundles in ``folder``, None for those of the package; hidden ones are left out.

    ``known`` gives the bundle that was read earlier from a path with a SHA-256, None if there is none. Of two with one
    name and version the second is broken.
    """
    root = PRETRAINED if folder is None else folder
    whole: list[Bundle] = []
    broken: list[BrokenModel] = []
    places: dict[tuple[str, int], str] = {}
    for path in sorted(file.parent for file in root.glob(f"[!.]*/{MANIFEST}")):
        name, version = path.name, None
        try:
            manifest, sha256 = read_manifest(path)
            name, version = manifest.name, manifest.version
            if (name, version) in places:
                there = f"{path.name}: version {version} of {name} is in the folder {places[name, version]} already"
                broken.append(BrokenModel(name, version, there))
                continue
            # Read in any case: the files of a bundle that is known may have been altered since.
            read = load_bundle(path, build_decoder=False)
        except BundleError as error:
            # Relative to the folder: where that is, is none of a caller's business.
            broken.append(BrokenModel(name, version, str(error).replace(f"{root}/", "")))
            continue
        places[name, version] = path.name
        whole.append(known(path, sha256) or read)
    return FoundBundles(tuple(whole), tuple(broken))
