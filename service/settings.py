"""Settings of the service, from ``QSHOWER_*`` environment variables: a few that everybody needs, the rest in groups.

Each is stated here, those of the QPU path in ``sampler.qpu.qpu_settings``. ``python -m qshower.service.settings_page``
writes the tables of docs/settings.md from them.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, cast, get_type_hints

from pydantic import Field, SecretStr, ValidationError, create_model, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

from qshower.model.field_errors import field_errors
from qshower.sampler.qpu.qpu_settings import DESCRIPTION, LIMITS_OF, VARIABLE, QpuSettings
from qshower.service.service_errors import SettingsError

PREFIX = "QSHOWER_"
SHORTEST_RECALIBRATION_S = 600.0
OTHER_VARIABLES = ("QSHOWER_API_KEY", "QSHOWER_TEST_SEED")
"""Of the client, and of the tests."""

_OF_LINK = re.compile(rf"{PREFIX}(SERVICE_(HOST|PORT)|PORT_[0-9]+_(TCP|UDP|SCTP))")
_SERVICE_LINK = re.compile(r"(?:tcp|udp|sctp)://(?:\[[0-9a-fA-F:.]+\]|[0-9.]+):[0-9]+")


def _config(prefix: str) -> SettingsConfigDict:
    return SettingsConfigDict(
        env_prefix=PREFIX + prefix, extra="forbid", frozen=True, hide_input_in_errors=True, enable_decoding=False
    )


class Limits(BaseSettings):
    """Limits."""

    model_config = _config("MAX_")

    showers: int = Field(100_000, ge=1, description="Most showers of one request; more are refused with 422.")
    deadline_s: float = Field(
        3600.0,
        gt=0,
        allow_inf_nan=False,
        description="Longest deadline a request may set, and longest time its showers may be projected to take, in "
        "seconds; 422 beyond.",
    )
    body_bytes: int | None = Field(
        None,
        ge=1,
        description="Most bytes of a request's body, else 413; unset: what a request for the most showers can need.",
    )
    response_bytes: int = Field(
        1 << 35, ge=1, description="Most bytes an answer may be projected to need; more are refused with 413."
    )
    pending_bytes: int = Field(
        1 << 32,
        ge=1,
        description="Most memory of all answers until they are sent, in bytes; beyond it, 429.",
    )
    connections: int = Field(
        1000, ge=1, description="Most connections at once; beyond it new ones get 503 and are closed."
    )
    queue_requests: int = Field(1024, ge=1, description="Most requests that may wait or be in work, else 429.")
    queue_rows: int = Field(
        200_000, ge=1, description="Most showers that may wait or be in work; beyond it requests get 429."
    )
    model_bytes: int = Field(
        1 << 30,
        ge=0,
        description="Most bytes of the models' networks in memory. A network is loaded for the first request that "
        "needs it; those used longest ago make room.",
    )
    batch_rows: int = Field(
        512, ge=1, le=65536, description="Most showers drawn and decoded at once with a classical sampler on a CPU."
    )

    @property
    def most_body_bytes(self) -> int:
        """Most bytes of a body: those that are set, or an indented line for each energy and 64 KiB for the rest."""
        return (1 << 16) + 40 * self.showers if self.body_bytes is None else self.body_bytes


class Times(BaseSettings):
    """Deadlines and shutdown."""

    model_config = _config("")

    default_deadline_s: float = Field(
        120.0,
        gt=0,
        allow_inf_nan=False,
        description="Longest wait, in seconds, of a request that sets no deadline, beside twice the time that its own "
        "showers are projected to take; 504 past it.",
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


class ConnectionSettings(BaseSettings):
    """Connections and proxies."""

    model_config = _config("")

    unix_socket: Path | None = Field(
        None, description="Listen on this Unix socket, for its owner and group, instead of on host and port."
    )
    root_path: str = Field(
        "", description="Path under which a proxy publishes the service, such as `/showers`; with or without it works."
    )
    trusted_proxies: str = Field(
        "127.0.0.1",
        description="Addresses or networks, comma separated, whose X-Forwarded-For and X-Forwarded-Proto are believed.",
    )
    allowed_hosts: str = Field(
        "",
        description="Names, comma separated, that a request's Host may have, such as `*.example.org`; else 421. Unset: "
        "any.",
    )
    keep_alive_s: float = Field(
        75.0, gt=0, allow_inf_nan=False, description="Seconds that a connection may wait for its next request."
    )
    header_timeout_s: float = Field(
        10.0, gt=0, allow_inf_nan=False, description="Seconds in which the head of a request has to come, else 408."
    )
    body_timeout_s: float = Field(
        60.0, gt=0, allow_inf_nan=False, description="Seconds in which a whole request has to come, else 408."
    )
    write_timeout_s: float = Field(
        60.0, gt=0, allow_inf_nan=False, description="Seconds in which a client has to read something of its answer."
    )

    @field_validator("root_path")
    @classmethod
    def _begins_with_a_slash(cls, value: str) -> str:
        if value and (
            not value.startswith("/") or value.endswith("/") or not value.isascii() or not value.isprintable()
        ):
            raise ValueError("a path that begins with / and does not end with it")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _of_addresses(cls, value: str) -> str:
        try:
            for part in _parts(value):
                if part != "*":
                    ipaddress.ip_network(part, strict=False)
        except ValueError:
            raise ValueError("addresses or networks, comma separated, such as 10.0.0.0/8; or *") from None
        return value

    def hosts(self) -> tuple[str, ...]:
        """The names of ``allowed_hosts``."""
        return _parts(self.allowed_hosts.lower())


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


class BankSettings(BaseSettings):
    """Bank of latents."""

    model_config = _config("BANK_")

    order: Literal["file", "random"] = Field(
        "file", description="Whether `replay` serves the bank's latents as they stand in the file or shuffled."
    )
    seed: int | None = Field(None, ge=0, description="Seed of the shuffle; unset: another one at each start.")


class LatentCacheSettings(BaseSettings):
    """Latent cache."""

    model_config = _config("LATENT_CACHE_")

    bytes: int = Field(
        32 << 20,
        ge=0,
        description="Most bytes of cached latents, for requests without seed and options; 0: no latent cache.",
    )
    per_condition: int = Field(
        256, ge=1, le=1_000_000, description="Latents of each condition of a model that are cached in idle time."
    )


class JobSettings(BaseSettings):
    """Jobs."""

    model_config = _config("JOBS_")

    folder: Path | None = Field(None, description="Folder of jobs; unset: `jobs` in `QSHOWER_QPU_STATE_FOLDER`.")
    most: int = Field(100, ge=0, description="Most jobs that may be kept, those that have ended included, else 429.")
    showers: int = Field(1_000_000, ge=1, description="Most showers of one job; more are refused with 422.")
    running: int = Field(2, ge=1, le=64, description="Jobs that are drawn at the same time; the others wait.")
    expiry_s: float = Field(
        86400.0, gt=0, allow_inf_nan=False, description="Seconds for which a job that has ended is kept."
    )


class LogSettings(BaseSettings):
    """Logs."""

    model_config = _config("LOG_")

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")
    format: Literal["text", "json"] = Field("text", description="`json` writes one JSON object on each line.")


class MetricsSettings(BaseSettings):
    """Metrics."""

    model_config = _config("METRICS_")

    open: bool = Field(default=False, description="Answer `/metrics` without an API key where other pages need one.")


class OnQpu(BaseSettings):
    """QPU."""

    model_config = _config("QPU_")

    state_folder: Path | None = Field(
        None, description="Folder of QPU calibrations and budgets; unset: `$XDG_STATE_HOME/qshower`."
    )
    recalibrate_s: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="Age in seconds at which the service measures the QPU's temperature anew; 0: never by itself.",
    )
    cached_reads_max_age_s: float = Field(
        86400.0, gt=0, allow_inf_nan=False, description="Cached QPU reads older than this are forgotten, in seconds."
    )

    @field_validator("recalibrate_s")
    @classmethod
    def _not_all_the_time(cls, value: float) -> float:
        if 0 < value < SHORTEST_RECALIBRATION_S:
            raise ValueError(f"0, or at least {SHORTEST_RECALIBRATION_S:g}: every calibration is billed")
        return value

    def of_sampler(self) -> QpuSettings:
        """The settings of the QPU sampler."""
        own = {name: getattr(self, name) for name in _fields_of_sampler()}
        return QpuSettings(state_dir=self.state_folder, **own)


def _fields_of_sampler() -> dict[str, tuple[Any, Any]]:
    """Those fields of QpuSettings that have a variable, as pydantic wants them."""
    kinds = get_type_hints(QpuSettings)
    found = {}
    for known in fields(QpuSettings):
        if known.metadata.get(VARIABLE):
            low, high = known.metadata[LIMITS_OF] or (None, None)
            finite = False if low is not None and not isinstance(known.default, int) else None
            stated = Field(
                known.default, ge=low, le=high, allow_inf_nan=finite, description=known.metadata[DESCRIPTION]
            )
            found[known.name] = (kinds[known.name], stated)
    return found


_QpuVariables = create_model("_QpuVariables", __base__=OnQpu, __doc__=OnQpu.__doc__, **cast(Any, _fields_of_sampler()))


class Settings(BaseSettings):
    """What most installations set."""

    model_config = _config("")

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    grpc_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Port of KServe v2 over gRPC, Triton's being 8001; 0 takes a free one; unset: none.",
    )
    api_keys: SecretStr = Field(
        SecretStr(""),
        description="Who may call: `name:sha256[:budget[:rate]]`, comma separated; see below.",
    )
    api_keys_file: Path | None = Field(None, description="File with one such entry on each line.")
    allow_open: bool = Field(
        default=False, description="Allow listening beyond loopback without API keys (behind a gateway that checks)."
    )
    model_folder: Path | None = Field(
        None,
        description="Folder of further bundles, one sub-folder each, beside those that come with the package; read "
        "again on SIGHUP.",
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
    bank: Path | None = Field(None, description="Bank of ready-made latents that the `replay` sampler serves.")

    logs: LogSettings
    metrics: MetricsSettings
    limits: Limits
    times: Times
    connections: ConnectionSettings
    jobs: JobSettings
    latent_cache: LatentCacheSettings
    replay: BankSettings
    on_qpu: OnQpu


GROUPS: dict[str, type[BaseSettings]] = {
    "logs": LogSettings,
    "metrics": MetricsSettings,
    "limits": Limits,
    "times": Times,
    "connections": ConnectionSettings,
    "jobs": JobSettings,
    "latent_cache": LatentCacheSettings,
    "replay": BankSettings,
    "on_qpu": _QpuVariables,
}
"""The groups of Settings, in the order of the page."""


class Variable(NamedTuple):
    """One setting: its variable of the environment, its class, its name there, and what pydantic knows of it."""

    name: str
    group: type[BaseSettings]
    field: str
    info: FieldInfo


def variables() -> Iterator[Variable]:
    """All settings, those of no group first."""
    kinds: list[type[BaseSettings]] = [Settings, *GROUPS.values()]
    for group in kinds:
        prefix = group.model_config["env_prefix"]
        for name, info in group.model_fields.items():
            if group is not Settings or name not in GROUPS:
                yield Variable(f"{prefix}{name}".upper(), group, name, info)


def load_settings(**overrides: Any) -> Settings:
    """Settings from the environment; ``overrides`` (flags) come first, SettingsError names the variable.

    An override is called as its variable, in lower case and without the prefix: ``load_settings(max_showers=10)``.
    """
    given = {PREFIX + name.upper(): value for name, value in overrides.items() if value is not None}
    own: dict[type[BaseSettings], dict[str, Any]] = {}
    for variable in variables():
        if variable.name in given:
            own.setdefault(variable.group, {})[variable.field] = given.pop(variable.name)
    if given:
        raise TypeError(f"no settings of the names {', '.join(given)}")
    if service_link() is not None:
        own.setdefault(Settings, {}).setdefault("port", Settings.model_fields["port"].default)
    groups = {name: _read(kind, own.get(kind, {})) for name, kind in GROUPS.items()}
    return _read(Settings, {**own.get(Settings, {}), **groups})


def unknown_variables() -> dict[str, str]:
    """Variables that begin as settings do and are none, each with the one that it resembles, "" if it does none.

    Those that Kubernetes and Docker set for a service called ``qshower`` are left out.
    """
    known = [variable.name for variable in variables()]
    found = {}
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in known and name not in OTHER_VARIABLES and not _OF_LINK.match(name):
            found[name] = next(iter(difflib.get_close_matches(name, known, 1, 0.85)), "")
    return found


def service_link() -> str | None:
    """The address that Kubernetes or Docker puts into QSHOWER_PORT for a service called ``qshower``, if it has.

    It is no setting of this program, and is ignored.
    """
    value = os.environ.get(f"{PREFIX}PORT", "")
    return value if _SERVICE_LINK.fullmatch(value) else None


Group = TypeVar("Group", bound=BaseSettings)


def _read(kind: type[Group], given: dict[str, Any]) -> Group:
    try:
        return kind(**given)
    except ValidationError as error:
        first = field_errors(error.errors(include_url=False), kind)[0]
        shown = "***" if first.path == "api_keys" else given.get(first.path, first.value)
        raise SettingsError(f"{kind.model_config['env_prefix']}{first.path}".upper(), shown, first.allowed) from None
