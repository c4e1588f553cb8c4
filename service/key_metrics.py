"""Metrics of the API keys that have limits: what each has used and has left."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

MICROSECONDS = 1e-6


class KeyCollector(Collector):
    """What the accounts of QPU time, ``budgets`` by name, and the rates of showers, ``left`` by name, tell."""

    def __init__(
        self, budgets: Callable[[], Mapping[str, Mapping[str, Any]]], left: Callable[[], Mapping[str, float]]
    ) -> None:
        self._budgets, self._left = budgets, left

    def collect(self) -> Iterator[Metric]:
        """Their metrics now; a figure that cannot be read is left out."""
        budgets = self._budgets()
        for name, text, field in (
            ("used_today", "QPU access time that a key has used this UTC day", "used_today_us"),
            ("left_today", "QPU access time that a key has left this UTC day", "left_today_us"),
        ):
            gauge = GaugeMetricFamily(f"qshower_key_qpu_{name}_seconds", text, labels=("key",))
            for key, state in budgets.items():
                if state[field] is not None:
                    gauge.add_metric((key,), state[field] * MICROSECONDS)
            yield gauge
        rates = GaugeMetricFamily("qshower_key_showers_left", "Showers that a key may draw now", labels=("key",))
        for key, showers in self._left().items():
            rates.add_metric((key,), showers)
        yield rates

    def describe(self) -> Iterator[Metric]:
        """No names beforehand: the accounts are asked when metrics are."""
        yield from ()
