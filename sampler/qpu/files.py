"""Small JSON files that survive a crash and are shared by several processes."""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sampler.errors import InvalidInputError, SamplerUnavailableError


def read_json(path: Path) -> dict[str, Any]:
    """The object in ``path``, empty if there is no such file; InvalidInputError if it holds something else."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        content = json.loads(text)
    except ValueError as error:
        raise InvalidInputError(str(path), text[:40], "a JSON object; remove the file to start anew") from error
    if not isinstance(content, dict):
        raise InvalidInputError(str(path), text[:40], "a JSON object; remove the file to start anew")
    return content


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
    """Hold the lock that belongs to ``path`` against other processes and threads."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_name(path.name + ".lock").open("w")
    except OSError as error:
        raise _unwritable(path, error) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _unwritable(path: Path, error: OSError) -> SamplerUnavailableError:
    return SamplerUnavailableError(
        f"cannot keep the QPU's state in {path.parent} ({error.strerror}): free or name another folder"
    )
