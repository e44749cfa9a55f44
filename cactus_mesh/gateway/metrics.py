"""What the gateway counts, in Prometheus' text format.  Labels have a fixed set of values, whatever clients send."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

if TYPE_CHECKING:
    from collections.abc import Callable

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Metrics:
    def __init__(
        self, tasks: Callable[[], int], connections: Callable[[], int], node: Callable[[], bytes] | None = None
    ) -> None:
        """*node* gives the numbers of the node around it, and of its process."""
        self._registry = CollectorRegistry()
        self._node = node
        if node is None:
            ProcessCollector(registry=self._registry)
        self.requests = Counter(
            "cactus_mesh_gateway_requests", "Requests answered.", ["route", "status"], registry=self._registry
        )
        self.seconds = Histogram(
            "cactus_mesh_gateway_request_seconds",
            "From a request's head to the end of its reply.",
            ["route"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.first_token = Histogram(
            "cactus_mesh_gateway_first_token_seconds",
            "From a request's head to the first token.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.tokens = Counter(
            "cactus_mesh_gateway_tokens", "Tokens of finished tasks.", ["kind"], registry=self._registry
        )
        self.octas = Counter(
            "cactus_mesh_gateway_price_octas", "What finished tasks cost at most, in octas.", registry=self._registry
        )
        self.errors = Counter(
            "cactus_mesh_gateway_errors", "Requests refused or failed.", ["code"], registry=self._registry
        )
        running = Gauge("cactus_mesh_gateway_tasks_running", "Tasks under way.", registry=self._registry)
        running.set_function(lambda: float(tasks()))
        opened = Gauge("cactus_mesh_gateway_connections", "Open connections.", registry=self._registry)
        opened.set_function(lambda: float(connections()))

    def text(self) -> bytes:
        return generate_latest(self._registry) + (self._node() if self._node is not None else b"")
