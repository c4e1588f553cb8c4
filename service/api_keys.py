"""Who may call: keys, known by their SHA-256 digests alone, and the QPU time each may use."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import math
from collections.abc import Mapping

from qshower.sampler.files import why
from qshower.service.service_errors import SettingsError
from qshower.service.settings import PREFIX, Settings

DIGEST_BYTES = 32


class ApiKeys:
    """The SHA-256 digests of the keys that may call. Empty: everybody may.

    ``budgets_us``: most QPU access time of one UTC day, in µs, for the names that have a limit.
    """

    def __init__(self, digests: dict[str, bytes], budgets_us: Mapping[str, float] | None = None) -> None:
        self._digests = digests
        self.budgets_us = dict(budgets_us or {})

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
    digests: dict[str, bytes] = {}
    budgets_us: dict[str, float] = {}
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
        try:
            name, digest, budget_us = _parsed_key(line.strip())
        except ValueError:
            name, digest, budget_us = "", b"", None
        if not name or len(digest) != DIGEST_BYTES or name in digests:
            allowed = "name:sha256 or name:sha256:budget, names different, 64 hex digits, the budget >= 0 in µs"
            raise SettingsError(f"{PREFIX}{source.upper()}", "***", allowed)
        digests[name] = digest
        if budget_us is not None:
            budgets_us[name] = budget_us
    return ApiKeys(digests, budgets_us)


def _parsed_key(entry: str) -> tuple[str, bytes, float | None]:
    """Name, digest and budget of ``name:sha256`` or ``name:sha256:budget``; ValueError if it is neither."""
    name, _, last = entry.rpartition(":")
    if len(last) == 2 * DIGEST_BYTES:
        return name, bytes.fromhex(last), None
    name, _, digest = name.rpartition(":")
    budget_us = float(last)
    if not (math.isfinite(budget_us) and budget_us >= 0):
        raise ValueError(last)
    return name, bytes.fromhex(digest), budget_us


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
