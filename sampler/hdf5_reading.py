"""Opening HDF5 files that others wrote: what HDF5 would fill with zeros, or fail at in its own words, is refused.

HDF5 reads as its fill value whatever a dataset lacks: a virtual dataset's source that is gone or too small, the end of
an external file, chunks that were never written. ``refuse_missing_values`` finds these before a value is read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from qshower.sampler.errors import InvalidInputError

HDF5_ERRORS = (OSError, RuntimeError, ValueError, TypeError, KeyError, NotImplementedError, OverflowError, MemoryError)
"""What h5py raises for files that are damaged, or hold what numpy has no type for."""

VDS_PREFIX = "HDF5_VDS_PREFIX"
ENTIRE = "a file that holds all values itself, or has every source in its place"

Refusal = Callable[[str, str], InvalidInputError]
"""The error for what was found and what is allowed."""


def open_hdf5(path: Path, allowed: str, refusal: Refusal) -> h5py.File:
    """Open an HDF5 file for reading; the error of ``refusal`` where it cannot be read, and why."""
    if path.is_dir():
        raise refusal("a folder", allowed)
    if not path.exists():
        raise refusal("no such file", allowed)
    if not path.is_file():
        raise refusal("no regular file", allowed)
    try:
        return h5py.File(path, "r")
    except PermissionError as error:
        raise refusal("unreadable (permission denied)", "a file that you may read") from error
    except BlockingIOError as error:
        allowed = "a finished file; try again when the other process has closed it"
        raise refusal("is being written by another process", allowed) from error
    except HDF5_ERRORS as error:
        reason = one_line(error)
        if "already open for write" in reason:
            allowed = "a finished file; if no process writes it any more, `h5clear -s` takes the mark off"
            raise refusal("is being written by another process, or its writer was killed", allowed) from error
        if "unable to lock file" in reason:
            allowed = "a disk with file locks, or HDF5_USE_FILE_LOCKING=FALSE where nobody writes the file"
            raise refusal("cannot be locked for reading", allowed) from error
        raise refusal(f"unreadable ({reason})", "a complete HDF5 file; copy or download it again") from error


def find_dataset(file: h5py.File, name: str, allowed: str, refusal: Refusal) -> h5py.Dataset:
    """The dataset ``name`` of real numbers; the error of ``refusal`` where there is none, links followed."""
    try:
        found, link = file.get(name), file.get(name, getlink=True)
    except HDF5_ERRORS as error:
        raise refusal(f"unreadable ({one_line(error)})", allowed) from error
    if found is None and isinstance(link, h5py.ExternalLink):
        raise refusal(f"a link to {link.path} in {link.filename}, which is missing or does not hold it", ENTIRE)
    if found is None and isinstance(link, h5py.SoftLink):
        raise refusal(f"a link to {link.path}, which the file does not hold", ENTIRE)
    if not isinstance(found, h5py.Dataset):
        raise refusal(f"missing; the file holds {_names(file)}", allowed)
    try:
        kind = found.dtype
    except HDF5_ERRORS as error:
        raise refusal(f"of a type that cannot be read ({one_line(error)})", "real numbers") from error
    if kind.kind not in "fiu":
        raise refusal(str(kind), "real numbers")
    return found


def refuse_missing_values(dataset: h5py.Dataset, refusal: Refusal) -> None:
    """The error of ``refusal`` if part of a dataset would be read as zeros, or needs a filter that is not installed."""
    try:
        missing = next(_missing(dataset, depth=0), None)
    except HDF5_ERRORS as error:
        raise refusal(f"unreadable ({one_line(error)})", "a complete file; copy or download it again") from error
    if missing is not None:
        raise refusal(*missing)


def _names(file: h5py.File) -> str:
    try:
        return ", ".join(map(printable, file)) or "nothing"
    except HDF5_ERRORS:
        return "names that cannot be read"


def one_line(error: BaseException) -> str:
    """The message of an error, in one line and not too long."""
    return printable(" ".join((str(error) or type(error).__name__).split())[:200])


def printable(text: str) -> str:
    r"""Text of a file that others wrote, with escapes for what a terminal would obey or cannot show.

    >>> printable("red\x1b[31m")
    'red\\x1b[31m'
    """
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def _missing(dataset: h5py.Dataset, depth: int) -> Iterator[tuple[str, str]]:
    if not dataset.shape or 0 in dataset.shape:
        return
    if dataset.is_virtual:
        yield from _missing_of_virtual(dataset, depth)
    elif dataset.external:
        yield from _missing_of_external(dataset)
    else:
        yield from _missing_filters(dataset)
        if dataset.chunks is not None:
            wanted = int(np.prod([-(-size // part) for size, part in zip(dataset.shape, dataset.chunks, strict=True)]))
            lacking = wanted - dataset.id.get_num_chunks()
            if lacking > 0:
                yield f"{lacking} of its {wanted} chunks were never written", "a file whose writer has finished"
        elif dataset.id.get_storage_size() == 0:
            yield "its values were never written", "a file whose writer has finished"


def _missing_filters(dataset: h5py.Dataset) -> Iterator[tuple[str, str]]:
    properties = dataset.id.get_create_plist()
    for place in range(properties.get_nfilters()):
        code, _, _, name = properties.get_filter(place)
        if h5py.h5z.filter_avail(code):
            continue
        try:
            dataset[(slice(0, 1),) * dataset.ndim]
        except HDF5_ERRORS:
            called = name.decode(errors="replace").split(";")[0].strip() or "without a name"
            yield (
                f"compressed with HDF5 filter {code} ({called}), which is not installed",
                "gzip or no compression (`h5repack -f GZIP=4 FILE NEW`), or HDF5_PLUGIN_PATH with that filter",
            )


def _missing_of_external(dataset: h5py.Dataset) -> Iterator[tuple[str, str]]:
    for name, offset, size in dataset.external:
        found = _beside(dataset, name)
        if found is None:
            yield f"its values are in {name}, which is missing", ENTIRE
        elif size != h5py.h5f.UNLIMITED and found.stat().st_size < offset + size:
            yield f"its values are in {name}, which ends before them", ENTIRE


def _missing_of_virtual(dataset: h5py.Dataset, depth: int) -> Iterator[tuple[str, str]]:
    if depth > 8:
        yield "virtual datasets of virtual datasets without end", ENTIRE
        return
    points: NDArray[np.float64] = np.zeros(dataset.shape[0])
    for source in dataset.virtual_sources():
        if "%" in source.file_name or "%" in source.dset_name:
            yield f"a virtual dataset with a pattern of sources, {source.file_name}", ENTIRE
            return
        found = None if source.file_name == "." else _beside(dataset, source.file_name)
        if source.file_name != "." and found is None:
            yield f"its source {source.file_name} is missing", ENTIRE
            return
        yield from _missing_of_source(dataset, source, found, depth)
        first, last = source.vspace.get_select_bounds()
        points[first[0] : last[0] + 1] += source.vspace.get_select_npoints() / (last[0] + 1 - first[0])
    empty = np.flatnonzero(points < np.prod(dataset.shape[1:]) * (1 - 1e-9))
    if empty.size:
        yield f"row {empty[0]} has no source for all of its values", ENTIRE


def _missing_of_source(dataset: h5py.Dataset, source: Any, path: Path | None, depth: int) -> Iterator[tuple[str, str]]:
    """What a source of a virtual dataset lacks; ``path`` None where it is in the same file."""
    called = f"{source.dset_name} in its source {source.file_name}"
    try:
        file = dataset.file if path is None else h5py.File(path, "r")
    except HDF5_ERRORS as error:
        yield f"its source {source.file_name} is unreadable ({one_line(error)})", ENTIRE
        return
    try:
        inner = file.get(source.dset_name)
        if not isinstance(inner, h5py.Dataset):
            yield f"{called} is missing", ENTIRE
            return
        shape = inner.shape or ()
        # A source of which all is used is stored without its extent.
        last = source.src_space.get_select_bounds()[1] if source.src_space.get_simple_extent_ndims() else ()
        inside = len(last) == len(shape) and all(end < size for end, size in zip(last, shape, strict=True))
        if (last and not inside) or np.prod(shape) < source.vspace.get_select_npoints():
            yield f"{called} has shape {inner.shape}, too small", ENTIRE
            return
        yield from ((f"{called}: {found}", allowed) for found, allowed in _missing(inner, depth + 1))
    finally:
        if path is not None:
            file.close()


def _beside(dataset: h5py.Dataset, name: str) -> Path | None:
    """The file that HDF5 takes ``name`` for in a dataset: beside its own file, or as the path stands."""
    own = Path(os.fsdecode(dataset.file.filename))
    prefixes = [prefix for prefix in os.environ.get(VDS_PREFIX, "").split(":") if prefix]
    folders = [*map(Path, prefixes), own.parent, Path(), own.resolve().parent]
    candidates = [folder / name for folder in folders] + [folder / Path(name).name for folder in folders]
    return next((path for path in candidates if path.is_file()), None)
