"""What the server counts, as Prometheus reads it at `/v1/prometheus`.

`api` reports every call; that costs under a microsecond. What is known of rollouts is asked of the store when somebody
reads the metrics: the rollouts that ended since the last reading are counted then.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from agentlightning.types import TERMINAL_ROLLOUT, Rollout

from ..base import LightningStore
from .call import Answer, Call, Route

if TYPE_CHECKING:
    from prometheus_client.core import Metric

LATENCIES = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of latency buckets, in seconds."""
DURATIONS = (0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)
"""Upper bounds of the buckets of rollout durations, in seconds."""
PAGE = 500
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Histogram:
    """Counts by bucket, and the sum."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts by upper bound, as Prometheus wants them."""
        names, seen, found = [*map(str, self._bounds), "+Inf"], 0, list[tuple[str, float]]()
        for name, count in zip(names, self.counts, strict=True):
            seen += count
            found.append((name, float(seen)))
        return found


class Metrics:
    """The counts of one server."""

    def __init__(self) -> None:
        self._calls: dict[tuple[str, int], Histogram] = {}
        self._http: dict[tuple[str, str, int], Histogram] = {}
        self._ended: dict[str, Histogram] = {status: Histogram(DURATIONS) for status in sorted(TERMINAL_ROLLOUT)}
        self._since = time.time()
        self._at_since: set[str] = set()
        self._queued = 0.0

    def observe(self, route: Route, status: int, seconds: float) -> None:
        """Count one call of an operation."""
        key = (route.operation, status)
        histogram = self._calls.get(key)
        if histogram is None:
            histogram = self._calls[key] = Histogram(LATENCIES)
        histogram.add(seconds)

    def observe_http(self, method: str, path: str, status: int, seconds: float) -> None:
        """Count one HTTP request; a batch is one. `path` is that of the route, with names for what varies."""
        key = (method, path, status)
        histogram = self._http.get(key)
        if histogram is None:
            histogram = self._http[key] = Histogram(LATENCIES)
        histogram.add(seconds)

    async def serve(self, store: LightningStore, call: Call) -> Answer:
        """The handler of `/v1/prometheus`."""
        from prometheus_client import CollectorRegistry, generate_latest

        await self._look(store)
        registry = CollectorRegistry()
        registry.register(self)
        return Answer(200, generate_latest(registry), CONTENT_TYPE)

    async def _look(self, store: LightningStore) -> None:
        self._queued = float((await store.statistics()).get("queued_rollouts", 0))
        offset, since, seen = 0, self._since, self._at_since
        while True:
            page = await store.query_rollouts(
                status_in=["failed", "succeeded", "cancelled"],
                sort_by="end_time",
                sort_order="desc",
                limit=PAGE,
                offset=offset,
            )
            for rollout in page.items:
                if (rollout.end_time or 0.0) < since:
                    return
                if rollout.rollout_id not in seen:
                    self._count(rollout)
            offset += PAGE
            if offset >= page.total:
                return

    def _count(self, rollout: Rollout) -> None:
        end = rollout.end_time or rollout.start_time
        self._ended[rollout.status].add(end - rollout.start_time)
        if end > self._since:
            self._since, self._at_since = end, set()
        if end == self._since:
            self._at_since = {*self._at_since, rollout.rollout_id}

    def collect(self) -> Iterator[Metric]:
        """The metrics, for `prometheus_client`."""
        from prometheus_client.core import GaugeMetricFamily

        calls = [((operation, str(status)), counts) for (operation, status), counts in list(self._calls.items())]
        http = [((method, path, str(code)), counts) for (method, path, code), counts in list(self._http.items())]
        ended = [((status,), counts) for status, counts in self._ended.items()]
        yield from _families("agl_store", "agl_store_latency_seconds", ("operation", "status"), calls)
        yield from _families("agl_http", "agl_http_latency_seconds", ("method", "path", "status"), http)
        yield from _families("agl_rollouts", "agl_rollouts_duration_seconds", ("status",), ended)
        yield GaugeMetricFamily("agl_queue_length", "Rollouts in the queue.", value=self._queued)


def _families(
    counter: str, histogram: str, labels: tuple[str, ...], counts: list[tuple[tuple[str, ...], Histogram]]
) -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

    totals = CounterMetricFamily(counter, f"Total by {', '.join(labels)}.", labels=labels)
    seconds = HistogramMetricFamily(histogram, f"Seconds by {', '.join(labels)}.", labels=labels)
    for values, found in counts:
        totals.add_metric(values, float(sum(found.counts)))
        seconds.add_metric(values, found.buckets(), found.total)
    yield totals
    yield seconds
