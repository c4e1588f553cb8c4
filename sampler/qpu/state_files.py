"""Small JSON files that survive a crash and are shared by several processes."""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from qshower.sampler.errors import SamplerUnavailableError

LOCK_S = 10.0
"""A lock that is not free by then is held by a process that is stuck: writing such a file takes milliseconds."""
_LOCK_PAUSE_S = 0.01


def read_json(path: Path) -> dict[str, Any]:
    """The object in ``path``, empty if there is no such file; SamplerUnavailableError if it holds something else."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        content = json.loads(text)
    except ValueError:
        raise altered(path, "it is not JSON") from None
    if not isinstance(content, dict):
        raise altered(path, "it is not a JSON object")
    return content


def altered(path: Path, what: str) -> SamplerUnavailableError:
    """The error that says that ``path`` is not as it was written; without what it holds."""
    return SamplerUnavailableError(
        f"{path} is not as this program wrote it ({what}): put it right, or remove it to start anew"
    )


def known_fields(kind: type[Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    """What ``entry`` has of the fields of the dataclass ``kind``: those that a later version added are left out."""
    return {field.name: entry[field.name] for field in fields(kind) if field.name in entry}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Replace ``path`` by ``content``, whole or not at all; SamplerUnavailableError if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(content, file, indent=1, sort_keys=True)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise _unwritable(path, error) from error


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock that belongs to ``path`` against other processes and threads.

    Raises:
        SamplerUnavailableError: it cannot be written, or somebody else has not let go of it for ``LOCK_S``.
    """
    until = time.monotonic() + LOCK_S
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_name(path.name + ".lock").open("w")
    except OSError as error:
        raise _unwritable(path, error) from error
    with lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise SamplerUnavailableError(
                        f"another process holds {lock.name} and does not let go", retry_after_s=LOCK_S
                    ) from None
                time.sleep(_LOCK_PAUSE_S)
        yield


def _unwritable(path: Path, error: OSError) -> SamplerUnavailableError:
    return SamplerUnavailableError(
        f"cannot keep the QPU's state in {path.parent} ({error.strerror}): free or name another folder"
    )
