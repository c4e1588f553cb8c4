"""Prometheus metrics, prefix ``qshower_``, in a registry of each application's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sampler.request import Provenance
from service.batches import DrawKey

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """What is counted. An EngineObserver."""

    def __init__(self) -> None:
        own = CollectorRegistry()
        self.registry = own
        self.requests = Counter("qshower_requests", "Requests answered", ("route", "status"), registry=own)
        self.request_seconds = Histogram(
            "qshower_request_seconds", "Time to answer", ("route",), buckets=SECONDS, registry=own
        )
        self.showers = Counter("qshower_showers", "Showers delivered", ("sampler", "model"), registry=own)
        self.outcomes = Counter("qshower_generate", "Ends of POST /generate", ("outcome",), registry=own)
        self.fallbacks = Counter(
            "qshower_fallbacks", "Answers by another sampler than asked", ("sampler",), registry=own
        )
        self.batch_rows = Histogram(
            "qshower_batch_rows", "Showers in a batch", ("sampler",), buckets=ROWS, registry=own
        )
        self.sample_seconds = Histogram(
            "qshower_sample_seconds", "Time to draw a batch", ("sampler", "model"), buckets=SECONDS, registry=own
        )
        self.decode_seconds = Histogram(
            "qshower_decode_seconds", "Time to decode a batch", ("model",), buckets=SECONDS, registry=own
        )
        self.qpu_seconds = Counter("qshower_qpu_access_seconds", "QPU access time billed", registry=own)
        self.queue_rows = Gauge("qshower_queue_rows", "Showers waiting or in work", registry=own)
        self.queue_requests = Gauge("qshower_queue_requests", "Requests waiting or in work", registry=own)
        self.draining = Gauge("qshower_draining", "1 while shutting down", registry=own)

    def watch(self, rows: Callable[[], float], requests: Callable[[], float], draining: Callable[[], float]) -> None:
        """Read the engine's state when metrics are asked for."""
        self.queue_rows.set_function(rows)
        self.queue_requests.set_function(requests)
        self.draining.set_function(draining)

    def watch_reservoirs(self, status: Callable[[], Iterable[tuple[str, str, Mapping[str, Any]]]]) -> None:
        """Read the reservoirs' ``status`` when metrics are asked for."""
        self.registry.register(_ReservoirCollector(status))

    def batch_drawn(self, key: DrawKey, rows: int, seconds: float, provenance: Provenance) -> None:
        """A sampler answered a batch."""
        self.batch_rows.labels(key.sampler).observe(rows)
        self.sample_seconds.labels(key.sampler, key.bundle).observe(seconds)
        if provenance.qpu_access_time_us is not None:
            self.qpu_seconds.inc(provenance.qpu_access_time_us * 1e-6)

    def batch_decoded(self, key: DrawKey, rows: int, seconds: float) -> None:
        """A batch was decoded."""
        self.decode_seconds.labels(key.bundle).observe(seconds)
        self.showers.labels(key.sampler, key.bundle).inc(rows)

    def page(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)


class _ReservoirCollector(Collector):
    """Counts that the reservoirs keep themselves."""

    def __init__(self, status: Callable[[], Iterable[tuple[str, str, Mapping[str, Any]]]]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """Their metrics now."""
        labels = ("sampler", "model")
        states = list(self._status())
        for name, text, field in (
            ("ready", "Latents ready to be served", "ready"),
            ("wanted", "Latents to keep ready", "wanted"),
            ("bytes", "Memory of latents kept ready", "bytes"),
        ):
            gauge = GaugeMetricFamily(f"qshower_reservoir_{name}", text, labels=labels)
            for sampler, model, state in states:
                gauge.add_metric((sampler, model), state[field])
            yield gauge
        for name, text in (("served", "Latents served"), ("missed", "Latents asked for that were not there")):
            counter = CounterMetricFamily(f"qshower_reservoir_{name}", text, labels=labels)
            for sampler, model, state in states:
                counter.add_metric((sampler, model), state[name])
            yield counter

    def describe(self) -> Iterator[Metric]:
        """No names beforehand: the reservoirs are asked when metrics are."""
        yield from ()
