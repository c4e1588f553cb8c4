"""Prometheus metrics, prefix ``qshower_``, in a registry of each application's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from qshower.sampler.errors import QShowerError
from qshower.sampler.qpu.ocean.circuit_breaker import State
from qshower.service.catalogue import Catalogue
from qshower.service.engine.queued_request import QueuedRequest
from qshower.service.engine.work import DrawKey
from qshower.service.key_metrics import KeyCollector
from qshower.service.model_metrics import ModelCollector
from qshower.service.residency import Residency

if TYPE_CHECKING:
    from qshower.sampler.qpu.qpu_status import QpuFigures
    from qshower.service.engine.engine import Engine

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Status = Callable[[], Mapping[str, Any]]


class Metrics:
    """What is counted. An EngineObserver."""

    def __init__(self) -> None:
        own = CollectorRegistry()
        self.registry = own
        # The standard ones of every Prometheus client: process_*, python_info, python_gc_*.
        for standard in (ProcessCollector, PlatformCollector, GCCollector):
            standard(registry=own)
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
        self.queue_seconds = Histogram(
            "qshower_queue_seconds",
            "Time until a request was begun",
            ("sampler",),
            buckets=SECONDS,
            registry=own,
        )
        self.encode_seconds = Histogram(
            "qshower_encode_seconds",
            "Time to encode an answer or a chunk",
            ("format",),
            buckets=SECONDS,
            registry=own,
        )
        self.sample_seconds = Histogram(
            "qshower_sample_seconds", "Time to draw a batch", ("sampler", "model"), buckets=SECONDS, registry=own
        )
        self.decode_seconds = Histogram(
            "qshower_decode_seconds", "Time to decode a batch", ("model",), buckets=SECONDS, registry=own
        )
        self.queue_rows = Gauge("qshower_queue_rows", "Showers waiting or in work", registry=own)
        self.queue_requests = Gauge("qshower_queue_requests", "Requests waiting or in work", registry=own)
        self.pending_bytes = Gauge("qshower_pending_bytes", "Most memory of answers until they are sent", registry=own)
        self.draining = Gauge("qshower_draining", "1 while shutting down", registry=own)

    def watch(self, engine: Engine) -> None:
        """Read the engine's state when metrics are asked for."""
        self.queue_rows.set_function(lambda: engine.queued_rows)
        self.queue_requests.set_function(lambda: engine.queued_requests)
        self.pending_bytes.set_function(lambda: engine.pending_bytes)
        self.draining.set_function(lambda: float(engine.draining))

    def watch_latent_caches(self, status: Callable[[], Iterable[tuple[str, str, Mapping[str, Any]]]]) -> None:
        """Read the caches' ``status`` when metrics are asked for."""
        self.registry.register(_LatentCacheCollector(status))

    def watch_qpu(
        self,
        figures: Callable[[], tuple[QpuFigures, Sequence[str]]],
        recalibration: Status | None = None,
        unused_reads: Status | None = None,
    ) -> None:
        """Read the QPU's ``figures``, with the names of the models, and how its background work stands when asked."""
        self.registry.register(_QpuCollector(figures, recalibration, unused_reads))

    def watch_keys(
        self, budgets: Callable[[], Mapping[str, Mapping[str, Any]]], left: Callable[[], Mapping[str, float]]
    ) -> None:
        """Read what the API keys have used and have left when metrics are asked for."""
        self.registry.register(KeyCollector(budgets, left))

    def watch_models(self, catalogue: Catalogue, residency: Residency) -> None:
        """Read which models there are, and which are in memory, when metrics are asked for."""
        self.registry.register(ModelCollector(catalogue, residency))

    def queued(self, request: QueuedRequest) -> None:
        """A request was taken in. It counts when it is answered."""
        request.ended.add_done_callback(lambda _: self._waited(request))

    def _waited(self, request: QueuedRequest) -> None:
        if request.started_at is not None:
            self.queue_seconds.labels(request.key.sampler).observe(request.started_at - request.submitted_at)

    def batch_drawn(self, key: DrawKey, rows: int, seconds: float) -> None:
        """A sampler answered a batch."""
        self.batch_rows.labels(key.sampler).observe(rows)
        self.sample_seconds.labels(key.sampler, key.bundle).observe(seconds)

    def batch_decoded(self, key: DrawKey, rows: int, seconds: float) -> None:
        """A batch was decoded."""
        self.decode_seconds.labels(key.bundle).observe(seconds)
        self.showers.labels(key.sampler, key.bundle).inc(rows)

    def page(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)


class _LatentCacheCollector(Collector):
    """Counts that the latent caches keep themselves."""

    def __init__(self, status: Callable[[], Iterable[tuple[str, str, Mapping[str, Any]]]]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """Their metrics now."""
        labels = ("sampler", "model")
        states: list[tuple[str, str, Mapping[str, Any]]] = []
        # What cannot be read must not take the whole page along, nor what was read before it.
        with suppress(QShowerError):
            states.extend(self._status())
        for name, text, field in (
            ("ready", "Latents ready to be served", "ready"),
            ("wanted", "Latents to have ready", "wanted"),
            ("bytes", "Memory of cached latents", "bytes"),
        ):
            gauge = GaugeMetricFamily(f"qshower_latent_cache_{name}", text, labels=labels)
            for sampler, model, state in states:
                gauge.add_metric((sampler, model), state.get(field, 0))
            yield gauge
        for name, text in (("consumed", "Latents served"), ("missed", "Latents asked for that were not there")):
            counter = CounterMetricFamily(f"qshower_latent_cache_{name}", text, labels=labels)
            for sampler, model, state in states:
                counter.add_metric((sampler, model), state[name])
            yield counter

    def describe(self) -> Iterator[Metric]:
        """No names beforehand: the caches are asked when metrics are."""
        yield from ()


class _QpuCollector(Collector):
    """The QPU's circuit, costs and calibrations."""

    def __init__(
        self,
        figures: Callable[[], tuple[QpuFigures, Sequence[str]]],
        recalibration: Status | None,
        unused_reads: Status | None,
    ) -> None:
        self._figures = figures
        self._recalibration, self._unused_reads = recalibration, unused_reads

    def collect(self) -> Iterator[Metric]:
        """Its metrics now."""
        try:
            known, models = self._figures()
        except QShowerError:
            # A state folder that cannot be read must not take the whole page along; /samplers says what is wrong.
            pass
        else:
            yield from self._told(known, models)
        ends = ("done", "failed")
        if self._recalibration is not None:
            text = "Calibrations made in the background"
            yield _by_outcome("qshower_qpu_recalibrations", text, self._recalibration(), ends)
        if self._unused_reads is not None:
            status = self._unused_reads()
            text = "Reads that draws did not use, by what became of them"
            yield _by_outcome("qshower_qpu_unused_reads", text, status, ("cached", "dropped"))
            text = "Reads that draws did not use and that wait to be refined"
            yield GaugeMetricFamily("qshower_qpu_unused_reads_waiting", text, value=status["waiting"])

    def _told(self, known: QpuFigures, models: Sequence[str]) -> Iterator[Metric]:
        circuit = GaugeMetricFamily("qshower_qpu_circuit", "1 for the circuit breaker's state", labels=("state",))
        for state in get_args(State):
            circuit.add_metric((state,), float(state == known.circuit))
        yield circuit
        text = "QPU access time used by this process, calibrations and failed draws included"
        yield CounterMetricFamily("qshower_qpu_access_seconds", text, value=known.billed_us * 1e-6)
        text = "QPU access time used this UTC day by all processes"
        yield GaugeMetricFamily("qshower_qpu_used_today_seconds", text, value=known.used_today_us * 1e-6)
        if known.left_today_us is not None:
            text = "QPU access time left of the day's budget"
            yield GaugeMetricFamily("qshower_qpu_left_today_seconds", text, value=known.left_today_us * 1e-6)
        for name, text, field in (
            ("calibration_age_seconds", "Age of the calibration", "age_s"),
            ("calibration_stale", "1 if the calibration is marked stale", "stale"),
            ("calibration_drift_ratio", "Relative change of beta_eff seen since the calibration", "drift"),
            ("calibration_beta", "Effective inverse temperature in use", "beta"),
        ):
            gauge = GaugeMetricFamily(f"qshower_qpu_{name}", text, labels=("model", "solver"))
            for model, calibration in zip(models, known.calibrations, strict=True):
                if calibration is not None:
                    gauge.add_metric((model, calibration.solver), float(getattr(calibration, field) or 0.0))
            yield gauge

    def describe(self) -> Iterator[Metric]:
        """No names beforehand: the QPU is asked when metrics are."""
        yield from ()


def _by_outcome(name: str, text: str, counts: Mapping[str, Any], outcomes: Sequence[str]) -> Metric:
    counter = CounterMetricFamily(name, text, labels=("outcome",))
    for outcome in outcomes:
        counter.add_metric((outcome,), counts[outcome])
    return counter
