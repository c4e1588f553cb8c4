"""The bundles that the service has loaded, by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from qshower.model.bundle import Bundle, find_bundles, load_bundle
from qshower.model.manifest import training_unfinished
from qshower.service.service_errors import SettingsError, UnknownModelError
from qshower.service.settings import Settings

FAMILIES = ("zephyr", "pegasus")


class Catalogue:
    """Bundles by name, and which of them is the default for each topology."""

    def __init__(self, bundles: Mapping[str, Bundle], default: str) -> None:
        self._bundles = dict(bundles)
        self.default_name = default

    def names(self) -> tuple[str, ...]:
        """Names, the default first."""
        return (self.default_name, *(name for name in self._bundles if name != self.default_name))

    def bundles(self) -> tuple[Bundle, ...]:
        """Bundles, the default first."""
        return tuple(self._bundles[name] for name in self.names())

    def get(self, name: str | None) -> Bundle:
        """The bundle of that name, None for the default; UnknownModelError if there is none."""
        if name is None:
            return self._bundles[self.default_name]
        if name not in self._bundles:
            raise UnknownModelError(name, self.names())
        return self._bundles[name]

    def defaults(self, families: Iterable[str] = FAMILIES) -> tuple[Bundle, ...]:
        """The bundle to take by default for each topology that has one, the default bundle first."""
        found = [fitting[0] for family in families if (fitting := self.fitting(family))]
        return tuple(sorted(found, key=lambda bundle: bundle.name != self.default_name))

    def fitting(self, topology_family: str) -> tuple[Bundle, ...]:
        """Bundles whose machine lies on ``zephyr`` or ``pegasus``, the one to take by default first."""
        return tuple(bundle for bundle in self.bundles() if bundle.machine.topology_family == topology_family)


def load_catalogue(settings: Settings, *, build_decoders: bool = True) -> Catalogue:
    """Load and verify the bundles of the package and of ``model_folder``; decoders as ``load_bundle`` does.

    A bundle of the folder takes the place of one of the package with the same name, and the default is one of the
    folder: its only one, or the one that is marked default. BundleError, naming the file, if
    one is altered or unreadable; SettingsError if there is none at all, or no default of that name.
    """
    pretrained = find_bundles()
    paths, own = dict(pretrained), {}
    if settings.model_folder is not None:
        if not settings.model_folder.is_dir():
            raise _no_bundles(settings.model_folder, _no_folder(settings.model_folder))
        own = find_bundles(settings.model_folder)
        if not own and training_unfinished(settings.model_folder):
            raise _no_bundles(settings.model_folder, "the training in it has not finished: `qshower train` goes on")
        paths |= own
    if not paths:
        raise _no_bundles(settings.model_folder, "no bundle in it, and none comes with the package")
    bundles = {name: load_bundle(path, build_decoder=build_decoders) for name, path in sorted(paths.items())}
    # What a user names goes before what comes with the package, a manifest's own wish next, Zephyr before Pegasus.
    ranked = sorted(
        bundles.values(),
        key=lambda bundle: (
            bundle.name not in own,
            not bundle.manifest.default,
            bundle.machine.topology_family != "zephyr",
        ),
    )
    default = settings.default_model
    if default is None:
        if len(own) > 1 and sum(bundles[name].manifest.default for name in own) != 1:
            names = ", ".join(sorted(own))
            why = f"set it to one of {names}: not one of them alone is marked default"
            raise SettingsError("QSHOWER_DEFAULT_MODEL", None, names, message=f"QSHOWER_DEFAULT_MODEL is unset; {why}")
        default = ranked[0].name
    if default not in bundles:
        raise SettingsError("QSHOWER_DEFAULT_MODEL", default, ", ".join(bundles))
    return Catalogue({bundle.name: bundle for bundle in ranked}, default)


def _no_folder(path: Path) -> str:
    return "a file, not a folder" if path.exists() else "no such folder"


def _no_bundles(folder: Path | None, fault: str) -> SettingsError:
    allowed = "a folder with a sub-folder for each bundle"
    message = f"QSHOWER_MODEL_FOLDER={'' if folder is None else folder}: {fault}; expected: {allowed}"
    return SettingsError("QSHOWER_MODEL_FOLDER", str(folder), allowed, message=message)
