"""Settings of the service, from ``QSHOWER_*`` environment variables. docs/settings.md lists them all."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from qshower.sampler.qpu.qpu_settings import LIMITS, QpuSettings
from qshower.service.service_errors import SettingsError

PREFIX = "QSHOWER_"
DIGEST_BYTES = 32
SHORTEST_RECALIBRATION_S = 600.0
_QPU = QpuSettings()


def _of_qpu(name: str, description: str) -> Any:
    """The field of a number of QpuSettings: its default and its limits are those there."""
    low, high = LIMITS[name]
    default = getattr(_QPU, name)
    finite: dict[str, Any] = {} if isinstance(default, int) else {"allow_inf_nan": False}
    return Field(default, ge=low, le=high, description=description, **finite)


class Settings(BaseSettings):
    """Every setting of the service. Units are in the names."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True, hide_input_in_errors=True)

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    model_folder: Path | None = Field(
        None, description="Folder of further bundles, one sub-folder each, beside those that come with the package."
    )
    default_model: str | None = Field(
        None,
        description="Bundle used when a request names none; unset: that of the model folder, else the first one on "
        "Zephyr.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where Gibbs sampling runs; `auto` takes a GPU if there is one."
    )
    threads: int | None = Field(
        None, ge=1, le=1024, description="Threads for sampling and decoding; unset: one for each core."
    )
    qpu: Literal["auto", "on", "off"] = Field(
        "auto", description="Whether to offer the QPU; `auto`: if Ocean's configuration or DWAVE_API_TOKEN names one."
    )
    qpu_state_folder: Path | None = Field(
        None, description="Folder of QPU calibrations and budgets; unset: `$XDG_STATE_HOME/qshower`."
    )
    qpu_annealing_time_us: float | None = _of_qpu(
        "annealing_time_us", "Annealing time of a QPU draw, in µs; unset: the solver's own default."
    )
    qpu_refine_sweeps: int = _of_qpu("refine_sweeps", "Gibbs sweeps after a QPU draw.")
    qpu_gauges: int = _of_qpu("gauges", "Spin-reversal gauges of a QPU draw.")
    qpu_condition_mode: Literal["fold", "flux_bias"] = Field("fold", description="How a QPU holds the condition.")
    qpu_flux_bias_phi0: float = _of_qpu(
        "flux_bias_phi0", "Magnitude of the flux biases that hold it in `flux_bias` mode, in Φ0."
    )
    qpu_range_policy: Literal["rescale", "refuse"] = Field(
        "rescale", description="If (h, J)/beta leaves the solver's ranges: draw hotter and say so, or refuse."
    )
    qpu_min_rescale: float = _of_qpu("min_rescale", "Least factor that `rescale` multiplies by; below it is refused.")
    qpu_max_copies: int = _of_qpu("max_copies", "Most conditions that are programmed side by side.")
    qpu_max_hole_fraction: float = _of_qpu(
        "max_hole_fraction",
        "Largest share of a model's spins without a qubit, and of its couplings' strength without a coupler; more is "
        "refused.",
    )
    qpu_request_cap_us: float = _of_qpu(
        "request_cap_us", "Most QPU access time of one request that sets no cap, in µs."
    )
    qpu_daily_budget_us: float | None = _of_qpu(
        "daily_budget_us", "Most QPU access time of one UTC day, in µs; unset: no limit."
    )
    qpu_deadline_s: float = _of_qpu(
        "deadline_s", "Limit of what sets no deadline itself, such as a calibration or a bank's draw, in seconds."
    )
    qpu_request_timeout_s: float = _of_qpu(
        "request_timeout_s", "Limit of one HTTP exchange with the solver API, in seconds."
    )
    qpu_calibration_reads: int = _of_qpu(
        "calibration_reads", "Reads of each copy that a calibration measures the temperature with, all gauges together."
    )
    qpu_calibration_gauges: int = _of_qpu(
        "calibration_gauges", "Most spin-reversal gauges of a calibration, each a programming of its own."
    )
    qpu_calibration_access_us: float = _of_qpu(
        "calibration_access_us", "QPU access time that a calibration may take, in µs; at least four gauges it has."
    )
    qpu_calibration_spread_kt: float = _of_qpu(
        "calibration_spread_kt", "Spread of energies that weak machines are amplified to in it, in kT; 0: never."
    )
    qpu_calibration_max_age_s: float = _of_qpu(
        "calibration_max_age_s", "Age at which a calibration is marked stale, in seconds."
    )
    qpu_drift_tolerance: float = _of_qpu(
        "drift_tolerance", "Relative change of the apparent beta that marks draws as drifting."
    )
    qpu_recalibrate_on_drift: bool = Field(
        default=False, description="Measure the QPU's temperature again once its answers drift."
    )
    qpu_cached_reads_max_age_s: float = Field(
        86400.0, gt=0, allow_inf_nan=False, description="Cached QPU reads older than this are forgotten, in seconds."
    )
    qpu_recalibrate_s: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="Age in seconds at which the service measures the QPU's temperature anew; 0: never by itself.",
    )
    bank: Path | None = Field(None, description="Bank of ready-made latents that the `replay` sampler serves.")
    bank_order: Literal["file", "random"] = Field(
        "file", description="Whether `replay` serves the bank's latents as they stand in the file or shuffled."
    )
    bank_seed: int | None = Field(None, ge=0, description="Seed of the shuffle; unset: another one at each start.")
    latent_cache_bytes: int = Field(
        32 << 20,
        ge=0,
        description="Most bytes of cached latents, for requests without seed and options; 0: no latent cache.",
    )
    latent_cache_per_condition: int = Field(
        256, ge=1, le=1_000_000, description="Latents of each condition of a model that are cached in idle time."
    )
    max_batch_rows: int = Field(
        512, ge=1, le=65536, description="Most showers drawn and decoded at once with a classical sampler on a CPU."
    )
    max_queue_rows: int = Field(
        200_000, ge=1, description="Most showers that may wait or be in work; beyond it requests get 429."
    )
    max_queue_requests: int = Field(1024, ge=1, description="Most requests that may wait or be in work, else 429.")
    max_showers: int = Field(100_000, ge=1, description="Most showers of one request; more are refused with 422.")
    max_response_bytes: int = Field(
        1 << 30, ge=1, description="Most bytes an answer may be projected to need; more are refused with 413."
    )
    max_pending_bytes: int = Field(
        1 << 32, ge=1, description="Most bytes of all answers in work together; beyond it requests get 429."
    )
    max_body_bytes: int = Field(16 << 20, ge=1, description="Most bytes of a request's body, else 413.")
    default_deadline_s: float = Field(
        120.0, gt=0, allow_inf_nan=False, description="Deadline of a request that sets none, in seconds; 504 past it."
    )
    max_deadline_s: float = Field(
        3600.0, gt=0, allow_inf_nan=False, description="Longest deadline a request may set, in seconds."
    )
    retry_after_s: float = Field(
        30.0, gt=0, allow_inf_nan=False, description="Retry-After where nothing better can be computed, in seconds."
    )
    drain_grace_s: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="On SIGTERM, seconds of answering 503 before connections close."
    )
    drain_timeout_s: float = Field(
        30.0, ge=0, allow_inf_nan=False, description="On SIGTERM, longest wait for requests in work, in seconds."
    )
    api_keys: SecretStr = Field(
        SecretStr(""),
        description="Who may call: `name:sha256` or `name:sha256:budget`, comma separated; see below.",
    )
    api_keys_file: Path | None = Field(None, description="File with one such entry on each line.")
    allow_open: bool = Field(
        default=False, description="Allow listening beyond loopback without API keys (behind a gateway that checks)."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")
    log_format: Literal["text", "json"] = Field("text", description="`json` writes one JSON object on each line.")

    @field_validator("qpu_recalibrate_s")
    @classmethod
    def _not_all_the_time(cls, value: float) -> float:
        if 0 < value < SHORTEST_RECALIBRATION_S:
            raise ValueError(f"0, or at least {SHORTEST_RECALIBRATION_S:g}: every calibration is billed")
        return value


def load_settings(**overrides: Any) -> Settings:
    """Settings from the environment; ``overrides`` (flags) come first. SettingsError names the variable."""
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0]) if first["loc"] else "settings"
        given = "***" if name == "api_keys" else overrides.get(name, first.get("input"))
        raise SettingsError(f"{PREFIX}{name.upper()}", given, first["msg"]) from None


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
        except OSError as error:
            raise SettingsError(
                f"{PREFIX}API_KEYS_FILE", str(settings.api_keys_file), f"a readable file ({error.strerror})"
            ) from None
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
