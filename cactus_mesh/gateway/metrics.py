"""What the gateway counts, in Prometheus' text format.  Labels have a fixed set of values, whatever clients send."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from collections.abc import Callable

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Metrics:
    def __init__(self, tasks: Callable[[], int], connections: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "cactus_gateway_requests", "Requests answered.", ["route", "status"], registry=self._registry
        )
        self.seconds = Histogram(
            "cactus_gateway_request_seconds",
            "From a request's head to the end of its reply.",
            ["route"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.first_token = Histogram(
            "cactus_gateway_first_token_seconds",
            "From a request's head to the first token.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.tokens = Counter("cactus_gateway_tokens", "Tokens of finished tasks.", ["kind"], registry=self._registry)
        self.octas = Counter(
            "cactus_gateway_price_octas", "What finished tasks cost at most, in octas.", registry=self._registry
        )
        self.errors = Counter("cactus_gateway_errors", "Requests refused or failed.", ["code"], registry=self._registry)
        running = Gauge("cactus_gateway_tasks_running", "Tasks under way.", registry=self._registry)
        running.set_function(lambda: float(tasks()))
        opened = Gauge("cactus_gateway_connections", "Open connections.", registry=self._registry)
        opened.set_function(lambda: float(connections()))

    def text(self) -> bytes:
        return generate_latest(self._registry)
