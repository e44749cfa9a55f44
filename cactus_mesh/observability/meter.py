"""The counters and histograms of one node.  Labels have few values, whatever peers send: never an id, never a text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest

if TYPE_CHECKING:
    from collections.abc import Sequence

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
MODELS_NAMED: Final = 32
"""As many as a node may be configured with; what comes beyond is counted as one."""
OTHER_MODEL: Final = "other"
TASK_SECONDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
LEDGER_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
LATENESS_SECONDS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


class Meter:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.tasks = Counter(
            "cactus_mesh_tasks",
            "Tasks that have ended, by the role of this node in them and the error's code, or ok, or gone.",
            ["role", "outcome"],
            registry=self.registry,
        )
        self.task_seconds = Histogram(
            "cactus_mesh_task_seconds",
            "From a task's arrival at this role to its end, a slow reader's time included.",
            ["role"],
            buckets=TASK_SECONDS,
            registry=self.registry,
        )
        self.first_token_seconds = Histogram(
            "cactus_mesh_first_token_seconds",
            "From a task's arrival at this role to its first token.",
            ["role"],
            buckets=TASK_SECONDS,
            registry=self.registry,
        )
        self.tokens = Counter(
            "cactus_mesh_tokens",
            "Tokens of this node's own engine: prompt tokens read, output tokens made.",
            ["model", "kind"],
            registry=self.registry,
        )
        self.compute_seconds = Counter(
            "cactus_mesh_engine_compute_seconds",
            "What finished generations took of the engine's time, each its share.",
            ["model"],
            registry=self.registry,
        )
        self.replays = Counter(
            "cactus_mesh_engine_replays", "Answers of others that this engine has replayed.", registry=self.registry
        )
        self.ledger_seconds = Histogram(
            "cactus_mesh_ledger_request_seconds",
            "From a call or view of the contract to its answer; what a cache answered is not counted.",
            ["operation"],
            buckets=LEDGER_SECONDS,
            registry=self.registry,
        )
        self.ledger_failures = Counter(
            "cactus_mesh_ledger_failures",
            "Calls and views of the contract that ended in an error, by its code.",
            ["operation", "code"],
            registry=self.registry,
        )
        self.lateness_seconds = Histogram(
            "cactus_mesh_loop_lateness_seconds",
            "How much later than asked for the event loop woke a task that waits a second at a time.",
            buckets=LATENESS_SECONDS,
            registry=self.registry,
        )
        ProcessCollector(registry=self.registry)

    def text(self) -> bytes:
        return generate_latest(self.registry)

    def model(self, name: str, offered: Sequence[str]) -> str:
        return name if name in offered[:MODELS_NAMED] else OTHER_MODEL

    def ledger_answered(self, operation: str, seconds: float, code: str | None) -> None:
        self.ledger_seconds.labels(operation).observe(seconds)
        if code is not None:
            self.ledger_failures.labels(operation, code).inc()

    async def watch_loop(self) -> None:
        """Feel for ever how punctual the event loop is."""
        while True:
            due = trio.current_time() + 1.0
            await trio.sleep_until(due)
            self.lateness_seconds.observe(max(0.0, trio.current_time() - due))
