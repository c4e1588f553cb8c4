"""Paths of the machine that the service runs on, which are nobody's business elsewhere."""

import re

_PATH = re.compile(r"(?<![\w:/.~])/(?:[^/\s'\":;,()]+/)*([^/\s'\":;,()]+)")


def without_paths(text: str) -> str:
    """``text`` with the names of files alone where it has absolute paths of this machine."""
    return _PATH.sub(lambda found: found[1], text)
