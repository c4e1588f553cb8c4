"""Files and folders that appear whole or not at all, whenever a signal comes; only what is one's own is replaced."""

from __future__ import annotations

import os
import secrets
import signal
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from types import FrameType
from typing import Any

from qshower.sampler.errors import DefectError

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFIFO: "a pipe"}


def why(error: OSError) -> str:
    """Why a file cannot be reached, in words.

    >>> why(FileNotFoundError(2, "No such file or directory"))
    'no such file'
    """
    if isinstance(error, FileNotFoundError):
        return "no such file"
    reason = error.strerror or str(error)
    return reason[:1].lower() + reason[1:]


def missing(path: Path) -> str | None:
    """Why ``path`` is no file that can be read, in words; None if it is one."""
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except OSError as error:
        return why(error)
    if kind != stat.S_IFREG:
        return f"{_KINDS.get(kind, 'no regular file')}, not a file"
    return None if os.access(path, os.R_OK) else "permission denied"


def replaceable(path: Path) -> Path:
    """The file that ``path`` names, links followed.

    Raises:
        DefectError: it is neither a regular file nor new, or cannot be reached.
    """
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except FileNotFoundError:
        kind = stat.S_IFREG
    except OSError as error:
        raise DefectError(str(path), why(error), "a path in a folder that can be reached") from None
    if kind != stat.S_IFREG:
        found = _KINDS.get(kind, "no regular file")
        raise DefectError(str(path), found, "a regular file or a new name; nothing else is replaced")
    return path.resolve()


def replaceable_folder(path: Path, mark: str) -> Path:
    """The folder that ``path`` names, links followed; DefectError unless it is new, empty or holds ``mark``."""
    if path.exists() and not (path.is_dir() and ((path / mark).is_file() or not any(path.iterdir()))):
        found = f"a folder without {mark}" if path.is_dir() else "no folder"
        raise DefectError(str(path), found, f"a new name, or a folder with {mark}; nothing else is replaced")
    return path.resolve()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a new path beside ``path`` to write to, and move it into place when the block ends well.

    If the block raises, the new file is removed and whatever stood at ``path`` stays as it was. The file is on disk
    (fsync) before it takes the name. A link stays, and the file behind it is replaced.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(Path(folder) / "note.txt") as new:
    ...         _ = new.write_text("whole")
    ...     (Path(folder) / "note.txt").read_text()
    'whole'
    """
    target = replaceable(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file, whole or not at all, as ``replacing`` does; text as UTF-8."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing_folder(path: Path, mark: str) -> Iterator[Path]:
    """As ``replacing``, for a folder: give an empty one to fill, which takes the place of ``replaceable_folder``."""
    target = replaceable_folder(path, mark)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", suffix=".part", dir=target.parent) as holder:
        new = Path(holder, "new")
        new.mkdir()
        yield new
        with uninterrupted():
            if target.exists():
                target.replace(Path(holder, "old"))
            new.replace(target)


@contextmanager
def stopping() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block by SystemExit, as Ctrl-C does by KeyboardInterrupt.

    A signal that is ignored stays ignored, as with nohup.
    """

    def stop(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.getsignal(number) for number in STOP_SIGNALS[1:]}
    own = [number for number, handler in before.items() if handler is signal.SIG_DFL]
    for number in own:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in own:
            signal.signal(number, before[number])


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let the signals that stop a program wait until the block has ended, which an exception inside would leave broken.

    Only the main thread is interrupted, so that in others, and where a signal calls no Python, there is nothing to do.
    """
    handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}
    if threading.current_thread() is threading.main_thread():
        found = ((number, signal.getsignal(number)) for number in STOP_SIGNALS)
        handlers = {number: handler for number, handler in found if callable(handler)}
    came: list[int] = []
    for number in handlers:
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if came:
            handlers[came[0]](came[0], None)


@contextmanager
def replacing_hdf5(path: Path) -> Iterator[WriteGuard]:
    """As ``replacing``, but give a file object for HDF5 to write to; OSError with the name ``path`` if a write fails.

    HDF5 calls its methods, and crashes the process later if an exception leaves one of them: do not let Ctrl-C raise
    one (``uninterrupted``).
    """
    with replacing(path) as temporary, temporary.open("xb+", buffering=0) as stream:
        guard = WriteGuard(stream, path)
        try:
            yield guard
        finally:
            # HDF5 may have noted a failure by an error of its own, or not at all.
            guard.check()


class WriteGuard:
    """A file that remembers its first failed write, and from then on only pretends to write.

    HDF5 keeps data back until a file is closed; a write that fails then leaves the library with a file it can neither
    flush nor close. So it is let finish in peace, and the failure is raised by ``check``.
    """

    def __init__(self, stream: FileIO, path: Path) -> None:
        """``path`` is what the file is called in the failure."""
        self._stream, self._path = stream, path
        self._error: OSError | None = None
        self.read, self.seek, self.tell = stream.read, stream.seek, stream.tell

    def check(self) -> None:
        """Raise the first failure, if there was one."""
        if self._error is not None:
            raise OSError(self._error.errno, self._error.strerror, str(self._path)) from self._error

    def write(self, data: bytes | memoryview) -> int:
        """Write, or seem to."""
        if self._error is None:
            try:
                rest = memoryview(data).cast("B")
                while rest:
                    rest = rest[self._stream.write(rest) :]
            except OSError as error:
                self._error = error
        return memoryview(data).nbytes

    def truncate(self, size: int) -> int:
        """Set the file's size, or seem to."""
        if self._error is None:
            try:
                self._stream.truncate(size)
            except OSError as error:
                self._error = error
        return size

    def flush(self) -> None:
        """Nothing to do: every write goes out at once."""
