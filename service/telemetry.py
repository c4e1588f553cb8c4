"""OpenTelemetry: FastAPI's own instrumentation, sent where the standard variables say."""

from __future__ import annotations

import importlib.util
import os

from fastapi.telemetry import TelemetryConfig
from starlette.types import Scope

from qshower.service.service_errors import SettingsError

SIGNALS = ("TRACES", "METRICS")
ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", *(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT" for signal in SIGNALS))
QUIET = frozenset({"/health/live", "/health/ready", "/metrics", "/v2/health/live", "/v2/health/ready"})
"""Asked for every few seconds: of no interest."""


def telemetry() -> TelemetryConfig:
    """Spans and metrics of requests over OTLP, if one of ``ENDPOINTS`` is set; nothing is measured otherwise.

    No logs: their exceptions would hold what callers sent. SettingsError without the packages of the extra ``otel``.
    """
    variable = next((name for name in ENDPOINTS if os.environ.get(name)), None)
    if variable is None:
        return TelemetryConfig(tracing=False, metrics=False, logs=False, auto_configure=False)
    if importlib.util.find_spec("opentelemetry.sdk") is None:
        value, allowed = os.environ[variable], "unset, or with OpenTelemetry: pip install 'qshower[otel]'"
        raise SettingsError(variable, value, allowed)
    os.environ.setdefault("OTEL_SERVICE_NAME", "qshower")
    return TelemetryConfig(logs=False, auto_configure=True, exclude=_is_quiet)


def _is_quiet(scope: Scope) -> bool:
    return scope["type"] != "http" or scope["path"] in QUIET
