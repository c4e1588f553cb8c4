"""Metrics of the models: which there are, which are in memory, and what that takes."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from qshower.service.catalogue import Catalogue
from qshower.service.residency import Residency


class ModelCollector(Collector):
    """What a catalogue and the residency of its networks tell."""

    def __init__(self, catalogue: Catalogue, residency: Residency) -> None:
        self._catalogue, self._residency = catalogue, residency

    def collect(self) -> Iterator[Metric]:
        """Their metrics now."""
        states = dict.fromkeys(("loaded", "on_disk", "broken"), 0)
        for bundle in self._catalogue.all_versions():
            if self._residency.failure(bundle) is not None:
                states["broken"] += 1
            else:
                states["loaded" if self._residency.has(bundle) else "on_disk"] += 1
        states["broken"] += len(self._catalogue.broken())
        models = GaugeMetricFamily("qshower_models", "Models by what can be done with them", labels=("state",))
        for state, count in states.items():
            models.add_metric((state,), count)
        yield models
        yield GaugeMetricFamily("qshower_model_bytes", "Memory of the models' networks", value=self._residency.bytes)
        for name, text, counts in (
            ("loads", "Times a model's network was loaded", self._residency.loads),
            ("evictions", "Times a model's network made room for another", self._residency.evictions),
        ):
            counter = CounterMetricFamily(f"qshower_model_{name}", text, labels=("model",))
            for model, count in counts.items():
                counter.add_metric((model,), count)
            yield counter

    def describe(self) -> Iterator[Metric]:
        """No names beforehand: the catalogue is asked when metrics are."""
        yield from ()
