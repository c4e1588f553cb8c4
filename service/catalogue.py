"""The bundles that the service knows, by name and version."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qshower.model.manifest import training_unfinished
from qshower.service.bundle_folders import BrokenModel, FoundBundles, read_bundles
from qshower.service.service_errors import ModelBrokenError, SettingsError, UnknownModelError

if TYPE_CHECKING:
    from qshower.model.bundle import Bundle
    from qshower.service.settings import Settings

FAMILIES = ("zephyr", "pegasus")


@dataclass(frozen=True, slots=True)
class _Content:
    """One state of a catalogue; replaced as a whole, so that who looks twice in one breath sees one state."""

    latest: Mapping[str, Bundle]
    older: Mapping[tuple[str, int], Bundle]
    broken: tuple[BrokenModel, ...]
    default: str


class Catalogue:
    """Bundles by name, and which of them is the default for each topology. Safe to use from threads.

    Of several versions of a name the highest is meant, unless ``NAME@VERSION`` says which one is.

    Args:
        bundles: the highest version of each name, the order being that in which they are preferred.
        default: name of the one that a request gets that names none. It may be a broken one.
        older: further versions.
        broken: what cannot be used, and why.
    """

    def __init__(
        self,
        bundles: Mapping[str, Bundle],
        default: str,
        *,
        older: Sequence[Bundle] = (),
        broken: Sequence[BrokenModel] = (),
    ) -> None:
        by_version = {(bundle.name, bundle.manifest.version): bundle for bundle in older}
        self._content = _Content(dict(bundles), by_version, tuple(broken), default)

    @property
    def default_name(self) -> str:
        """Name of the model of a request that names none."""
        return self._content.default

    def names(self) -> tuple[str, ...]:
        """Names of those that can be used, the default first."""
        content = self._content
        return tuple(sorted(content.latest, key=lambda name: name != content.default))

    def bundles(self) -> tuple[Bundle, ...]:
        """The latest version of each, the default first."""
        content = self._content
        return tuple(content.latest[name] for name in sorted(content.latest, key=lambda name: name != content.default))

    def all_versions(self) -> tuple[Bundle, ...]:
        """Every bundle, the latest versions first."""
        return (*self.bundles(), *self._content.older.values())

    def versions(self, name: str) -> tuple[int, ...]:
        """The versions of a name that can be used, the highest first."""
        content = self._content
        latest = [content.latest[name].manifest.version] if name in content.latest else []
        older = [version for known, version in content.older if known == name]
        return tuple(sorted((*latest, *older), reverse=True))

    def broken(self) -> tuple[BrokenModel, ...]:
        """Those that cannot be used, and why."""
        return self._content.broken

    def get(self, name: str | None) -> Bundle:
        """The bundle of that ``NAME`` or ``NAME@VERSION``, None for the default.

        Raises:
            UnknownModelError: there is none.
            ModelBrokenError: there is one, and it cannot be used.
        """
        content = self._content
        wanted = content.default if name is None else name
        base, _, version = wanted.partition("@")
        bundle = content.latest.get(base)
        if version:
            known = {} if bundle is None else {str(bundle.manifest.version): bundle}
            known |= {str(number): older for (of, number), older in content.older.items() if of == base}
            bundle = known.get(version)
        if bundle is not None:
            return bundle
        for model in content.broken:
            if model.name == base and version in ("", str(model.version)):
                raise ModelBrokenError(wanted, model.error)
        raise UnknownModelError(wanted, self.names())

    def defaults(self, families: Iterable[str] = FAMILIES) -> tuple[Bundle, ...]:
        """The bundle to take by default for each topology that has one, the default bundle first."""
        found = [fitting[0] for family in families if (fitting := self.fitting(family))]
        return tuple(sorted(found, key=lambda bundle: bundle.name != self.default_name))

    def fitting(self, topology_family: str) -> tuple[Bundle, ...]:
        """Bundles whose machine lies on ``zephyr`` or ``pegasus``, the one to take by default first."""
        return tuple(bundle for bundle in self.bundles() if bundle.machine.topology_family == topology_family)

    def adopt(self, other: Catalogue) -> None:
        """Hold from now on what ``other`` holds."""
        self._content = other._content


def load_catalogue(settings: Settings, known: Catalogue | None = None) -> Catalogue:
    """Read and verify the bundles of the package and of ``model_folder``; networks are loaded when they are used.

    A bundle of the folder takes the place of those of the package with the same name, and the default is one of the
    folder: its only one, or the one that is marked default. A bundle that is altered or unreadable is ``broken`` in the
    catalogue. Where ``known``, an earlier catalogue, has the same bundle, its place is kept; where it has a whole one
    of the name and version of one that is broken now, that stays in use.

    Raises:
        SettingsError: no bundle can be used, or there is no default of that name.
    """
    earlier = () if known is None else known.all_versions()

    def same(path: Path, sha256: str) -> Bundle | None:
        return next((bundle for bundle in earlier if (bundle.path, bundle.sha256) == (path, sha256)), None)

    folder = settings.model_folder
    own = FoundBundles((), ()) if folder is None else _of_the_folder(folder, read_bundles(folder, same))
    package = read_bundles(None, same)
    broken = [*own.broken, *(model for model in package.broken if model.name not in own.names)]
    whole = [*own.whole, *(bundle for bundle in package.whole if bundle.name not in own.names)]
    there = {(bundle.name, bundle.manifest.version) for bundle in whole}
    faulty = {(model.name, model.version) for model in broken}
    whole += [
        bundle for bundle in earlier if (key := (bundle.name, bundle.manifest.version)) in faulty and key not in there
    ]
    if not whole:
        fault = broken[0].error if broken else "no bundle in it, and none comes with the package"
        raise _no_bundles(folder, fault)
    # What a user names goes before what comes with the package, a manifest's own wish next, Zephyr before Pegasus.
    ranked = sorted(
        whole,
        key=lambda bundle: (
            bundle.name not in own.names,
            not bundle.manifest.default,
            bundle.machine.topology_family != "zephyr",
            bundle.name,
            -bundle.manifest.version,
        ),
    )
    latest: dict[str, Bundle] = {}
    for bundle in ranked:
        if bundle.name not in latest or bundle.manifest.version > latest[bundle.name].manifest.version:
            latest[bundle.name] = bundle
    default = settings.default_model or _default_of(own, ranked)
    if default not in latest and not any(default == model.name for model in broken):
        raise SettingsError("QSHOWER_DEFAULT_MODEL", default, ", ".join(latest))
    older = [bundle for bundle in whole if bundle is not latest[bundle.name]]
    return Catalogue(latest, default, older=older, broken=broken)


def _of_the_folder(folder: Path, found: FoundBundles) -> FoundBundles:
    if not folder.is_dir():
        raise _no_bundles(folder, "a file, not a folder" if folder.exists() else "no such folder")
    if not found.names and training_unfinished(folder):
        raise _no_bundles(folder, "the training in it has not finished: `qshower train` goes on")
    return found


def _default_of(own: FoundBundles, ranked: Sequence[Bundle]) -> str:
    """The default where the settings name none: of the folder ``own``, else the first of ``ranked``."""
    marked = {bundle.name for bundle in own.whole if bundle.manifest.default}
    if len(own.names) == 1:
        # Broken or not: that the package's model answers instead is nobody's wish.
        return next(iter(own.names))
    if own.names and len(marked) != 1:
        names = ", ".join(sorted(own.names))
        why = f"set it to one of {names}: not one of them alone is marked default"
        raise SettingsError("QSHOWER_DEFAULT_MODEL", None, names, message=f"QSHOWER_DEFAULT_MODEL is unset; {why}")
    return next(iter(marked), ranked[0].name)


def _no_bundles(folder: Path | None, fault: str) -> SettingsError:
    allowed = "a folder with a sub-folder for each bundle"
    message = f"QSHOWER_MODEL_FOLDER={'' if folder is None else folder}: {fault}; expected: {allowed}"
    return SettingsError("QSHOWER_MODEL_FOLDER", str(folder), allowed, message=message)
