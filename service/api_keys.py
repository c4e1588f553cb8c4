"""Who may call: keys, known by their SHA-256 digests alone, and the QPU time each may use."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from qshower.sampler.files import why
from qshower.service.service_errors import SettingsError
from qshower.service.settings import PREFIX, Settings


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """One key: the name of its owner, its digest, and what it may use.

    Attributes:
        budget_us: most QPU access time of one UTC day, in µs; None for no limit.
        showers_per_minute: None for no limit.
    """

    name: str
    digest: bytes
    budget_us: float | None = None
    showers_per_minute: float | None = None


class ApiKeys:
    """The keys that may call, known by their SHA-256 digests. None: everybody may."""

    def __init__(self, entries: Iterable[KeyEntry] = ()) -> None:
        entries = tuple(entries)
        self._digests = {entry.name: entry.digest for entry in entries}
        self.budgets_us = {entry.name: entry.budget_us for entry in entries if entry.budget_us is not None}
        self.rates = {e.name: e.showers_per_minute for e in entries if e.showers_per_minute is not None}

    def __bool__(self) -> bool:
        return bool(self._digests)

    def __repr__(self) -> str:
        return f"ApiKeys({', '.join(self._digests)})"

    def name_of(self, key: str) -> str | None:
        """The name of the key's owner, None if it is unknown. Takes the same time wherever keys differ."""
        digest = hashlib.sha256(key.encode()).digest()
        found = None
        for name, known in self._digests.items():
            if hmac.compare_digest(digest, known):
                found = name
        return found


def load_api_keys(settings: Settings) -> ApiKeys:
    """The keys of ``api_keys`` and ``api_keys_file`` together. SettingsError without showing what was given."""
    entries: dict[str, KeyEntry] = {}
    lines = [("api_keys", pair) for pair in settings.api_keys.get_secret_value().split(",")]
    if settings.api_keys_file is not None:
        try:
            text = settings.api_keys_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            name, file, allowed = f"{PREFIX}API_KEYS_FILE", str(settings.api_keys_file), "a file of keys, one a line"
            fault = why(error) if isinstance(error, OSError) else "it is no text"
            message = f"{name}={file}: {fault}; expected: {allowed}"
            raise SettingsError(name, file, allowed, message=message) from None
        lines += [("api_keys_file", line) for line in text.splitlines() if not line.lstrip().startswith("#")]
    for source, line in lines:
        if not line.strip():
            continue
        entry = _parsed_key(line.strip())
        if entry is None or entry.name in entries:
            allowed = "name:sha256, name:sha256:budget or name:sha256:budget:rate, names different, 64 hex digits, "
            allowed += "the budget in µs and the rate in showers a minute, >= 0 or left empty"
            raise SettingsError(f"{PREFIX}{source.upper()}", "***", allowed)
        entries[entry.name] = entry
    return ApiKeys(entries.values())


_ENTRY = re.compile(r"(?P<name>.+?):(?P<digest>[0-9a-fA-F]{64})(?::(?P<budget>[^:]*)(?::(?P<rate>[^:]+))?)?")


def _parsed_key(text: str) -> KeyEntry | None:
    """The key of ``name:sha256[:budget[:rate]]``; None if it is none."""
    found = _ENTRY.fullmatch(text)
    if found is None or (found["budget"] == "" and found["rate"] is None):
        return None
    try:
        limits = [None if not found[part] else float(found[part]) for part in ("budget", "rate")]
    except ValueError:
        return None
    if any(limit is not None and not (math.isfinite(limit) and limit >= 0) for limit in limits):
        return None
    return KeyEntry(found["name"], bytes.fromhex(found["digest"]), *limits)


def check_exposure(settings: Settings, keys: ApiKeys) -> None:
    """Refuse to listen beyond loopback without API keys, unless told to. SettingsError."""
    if keys or settings.allow_open or _is_loopback(settings.host):
        return
    allowed = "127.0.0.1 or ::1 without API keys; set QSHOWER_API_KEYS, or QSHOWER_ALLOW_OPEN=true"
    raise SettingsError(f"{PREFIX}HOST", settings.host, allowed)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
