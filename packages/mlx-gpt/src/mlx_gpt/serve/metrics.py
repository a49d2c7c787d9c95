"""Numbers for Prometheus: of requests, and of what the scheduler does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector
from starlette.responses import Response

if TYPE_CHECKING:
    from mlx_gpt.serve.scheduler import Scheduler

_FIRST = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_BETWEEN = (0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5)
_WHOLE = (0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_GAUGES = {
    "active": "Requests that are answered now.",
    "queued": "Requests that wait.",
    "prefix_bytes": "Memory of kept beginnings of prompts.",
    "prefix_entries": "Kept beginnings of prompts.",
    "memory_bytes": "Keys and values that the active requests may need.",
}
_COUNTERS = {
    "prompt_tokens": "Tokens of prompts, those from the prefix cache included.",
    "cached_tokens": "Tokens of prompts from the prefix cache.",
    "generated_tokens": "Tokens of answers.",
    "prefix_hits": "Requests that found some of their prompt in the prefix cache.",
    "steps": "Steps of the engine.",
    "guessed_tokens": "Tokens guessed by speculative decoding.",
    "accepted_tokens": "Of these, the right ones.",
    "failures": "Steps of the engine that failed.",
}


class Metrics:
    """The numbers of one server."""

    def __init__(self, scheduler: Scheduler):
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "mlx_gpt_requests", "Requests by route and status.", ("route", "status"),
            registry=registry,
        )  # fmt: skip
        self.seconds = Histogram(
            "mlx_gpt_request_seconds", "Time to the end of an answer.", ("route",),
            buckets=_WHOLE, registry=registry,
        )  # fmt: skip
        self.first_token = Histogram(
            "mlx_gpt_first_token_seconds", "Time to the first token, waiting included.",
            buckets=_FIRST, registry=registry,
        )  # fmt: skip
        self.between_tokens = Histogram(
            "mlx_gpt_between_tokens_seconds", "Time between two tokens of an answer.",
            buckets=_BETWEEN, registry=registry,
        )  # fmt: skip
        registry.register(_OfScheduler(scheduler))
        ProcessCollector(registry=registry)

    def response(self) -> Response:
        """Return the numbers in Prometheus' form."""
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)


class _OfScheduler(Collector):
    """Reads the scheduler's numbers when they are asked for."""

    def __init__(self, scheduler: Scheduler):
        self._scheduler = scheduler

    def collect(self) -> Iterator[Metric]:
        stats = self._scheduler.stats()
        alive = float(self._scheduler.alive)
        yield GaugeMetricFamily("mlx_gpt_alive", "Whether the engine runs.", value=alive)
        for name, text in _GAUGES.items():
            yield GaugeMetricFamily(f"mlx_gpt_{name}", text, value=getattr(stats, name))
        for name, text in _COUNTERS.items():
            yield CounterMetricFamily(f"mlx_gpt_{name}", text, value=getattr(stats, name))
        finished = CounterMetricFamily(
            "mlx_gpt_finished", "Answers by the reason of their end.", labels=["reason"]
        )
        for reason, count in stats.finished.items():
            finished.add_metric([reason], count)
        yield finished
