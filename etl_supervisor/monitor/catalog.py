"""Every metric with its kind, labels and meaning, from the metrics themselves: the documentation, the dashboards and the rules are checked by it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prometheus_client.metrics import MetricWrapperBase

from etl_supervisor.monitor import metrics
from etl_supervisor.monitor.collectors import SupervisedCollector, WalCollector


@dataclass(frozen=True, slots=True)
class MetricDoc:
    """A metric as people see it; of a histogram `_bucket`, `_sum` and `_count` are appended to the name."""

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str

    @property
    def series(self) -> tuple[str, ...]:
        """The names under which Prometheus keeps it."""
        suffixes = ("_bucket", "_sum", "_count") if self.kind == "histogram" else ("",)
        return tuple(self.name + suffix for suffix in suffixes)


def catalog() -> list[MetricDoc]:
    """All of them: what processes count, then what the monitor knows."""
    counted = [item for item in vars(metrics).values() if isinstance(item, MetricWrapperBase)]
    return [_counted(item) for item in counted] + _known()


def _counted(item: MetricWrapperBase) -> MetricDoc:
    name = item._name + ("_total" if item._type == "counter" else "")
    return MetricDoc(name, str(item._type), tuple(item._labelnames), item._documentation)


def _known() -> list[MetricDoc]:
    collectors = (SupervisedCollector(), WalCollector(dict))
    families: list[Any] = [family for collector in collectors for family in collector.collect()]
    return [MetricDoc(item.name, item.type, tuple(item._labelnames), item.documentation) for item in families]
