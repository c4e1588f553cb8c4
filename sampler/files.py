"""Files that appear whole or not at all, whenever Ctrl-C comes."""

from __future__ import annotations

import os
import secrets
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a new path beside ``path`` to write to, and move it into place when the block ends well.

    If the block raises, the new file is removed and whatever stood at ``path`` stays as it was. The file is on disk
    (fsync) before it takes the name.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(Path(folder) / "note.txt") as new:
    ...         _ = new.write_text("whole")
    ...     (Path(folder) / "note.txt").read_text()
    'whole'
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let SIGINT wait until the block has ended, for blocks that an exception at any place would leave broken.

    Only the main thread is interrupted, so that in others, and where a signal calls no Python, there is nothing to do.
    """
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    came = False

    def note(*_: object) -> None:
        nonlocal came
        came = True

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if came:
            handler(signal.SIGINT, None)


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
