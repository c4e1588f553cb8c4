"""OpenTelemetry, as a collector sees it: spans of requests, none of probes, nothing that was sent."""

import gzip
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from qshower.service import telemetry as module
from qshower.service.service_errors import SettingsError
from qshower.service.telemetry import telemetry

PROGRAM = """
from fastapi.testclient import TestClient
from qshower.service.app import create_app
from qshower.service.settings import load_settings

with TestClient(create_app(load_settings())) as client:
    parent = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    body = {"incident_energies_mev": [65536], "sampler": "gibbs", "seed": 424242, "model": "hush-hush"}
    assert client.post("/generate", json=body, headers=parent).status_code == 404
    assert client.get("/health/live").status_code == 200
"""


@pytest.fixture
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """An OTLP collector: its address, and the spans that came."""
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.path == "/v1/traces":
                bodies.append(gzip.decompress(body) if self.headers["content-encoding"] == "gzip" else body)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", bodies
        server.shutdown()
        thread.join()


def test_a_collector_gets_the_spans_of_requests(collector: tuple[str, list[bytes]], untrained_bundles: Path) -> None:
    url, bodies = collector
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("QSHOWER_", "DWAVE_", "OTEL_"))}
    own = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "QSHOWER_QPU": "off", "QSHOWER_MODEL_FOLDER": str(untrained_bundles)}
    subprocess.run([sys.executable, "-c", PROGRAM], env={**kept, **own}, check=True, timeout=250)
    resources = [resource for body in bodies for resource in ExportTraceServiceRequest.FromString(body).resource_spans]
    spans = [span for resource in resources for scope in resource.scope_spans for span in scope.spans]
    names = {span.name for span in spans}
    assert "POST /generate" in names
    assert not any("health" in name for name in names)
    assert {span.trace_id.hex() for span in spans} == {"0af7651916cd43dd8448eb211c80319c"}
    service = [attribute for attribute in resources[0].resource.attributes if attribute.key == "service.name"]
    assert [attribute.value.string_value for attribute in service] == ["qshower"]
    assert not any(b"hush-hush" in body or b"424242" in body for body in bodies)


def test_nothing_is_measured_where_no_collector_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in module.ENDPOINTS:
        monkeypatch.delenv(name, raising=False)
    assert telemetry() == {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}


def test_without_its_packages_it_says_which_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"OTEL_EXPORTER_OTLP_ENDPOINT.*qshower\[otel\]"):
        telemetry()
