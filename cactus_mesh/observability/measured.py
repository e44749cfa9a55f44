"""A node's meter at its tasks (`heard_network`) and its engine: they do what they did, and what passes is counted."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import trio

from cactus_mesh.messages import Chunk
from cactus_mesh.observability.gauges import EngineCollector
from cactus_mesh.ports import EngineFinish, EngineTokens

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from cactus_mesh.heard import Listener, Part
    from cactus_mesh.identity import PeerId
    from cactus_mesh.messages import Sampling, StreamItem, Work
    from cactus_mesh.observability.meter import Meter
    from cactus_mesh.ports import (
        Engine,
        EngineEvent,
        EngineMemory,
        EngineModel,
        Generation,
        Replay,
        Rereading,
    )


def measuring(meter: Meter) -> Listener:
    return partial(_Measured, meter)


class _Measured:
    """Counts one task, and sees when the first token leaves here."""

    def __init__(self, meter: Meter, role: Part, _payload: bytes, _peer: PeerId) -> None:
        self._meter = meter
        self._role = role
        self._began = trio.current_time()
        self._spoke = role in ("client", "verifier")

    def item(self, item: StreamItem) -> None:
        if not self._spoke and isinstance(item, Chunk):
            self._spoke = True
            self._meter.first_token_seconds.labels(self._role).observe(trio.current_time() - self._began)

    def ended(self, outcome: str) -> None:
        self._meter.tasks.labels(self._role, outcome).inc()
        self._meter.task_seconds.labels(self._role).observe(trio.current_time() - self._began)


class MeasuredEngine:
    def __init__(self, engine: Engine, meter: Meter) -> None:
        self._engine = engine
        self._meter = meter
        meter.registry.register(EngineCollector(engine))

    @property
    def name(self) -> str:
        return self._engine.name

    @property
    def models(self) -> tuple[EngineModel, ...]:
        return self._engine.models

    @property
    def slots(self) -> int:
        return self._engine.slots

    @property
    def memory(self) -> EngineMemory | None:
        return self._engine.memory

    @asynccontextmanager
    async def generate(
        self, model_digest: bytes, work: Work, sampling: Sampling, seed: bytes, before: Sequence[int] = ()
    ) -> AsyncIterator[Generation]:
        async with self._engine.generate(model_digest, work, sampling, seed, before) as events:
            yield _Events(events, self._meter, self._model(model_digest))

    async def replay(
        self, model_digest: bytes, work: Work, sampling: Sampling, seed: bytes, token_ids: Sequence[int]
    ) -> Replay:
        found = await self._engine.replay(model_digest, work, sampling, seed, token_ids)
        self._meter.replays.inc()
        return found

    async def reread(self, model_digest: bytes, work: Work, places: Sequence[int]) -> Rereading:
        found = await self._engine.reread(model_digest, work, places)
        self._meter.replays.inc()
        return found

    def _model(self, digest: bytes) -> str:
        names = [model.name for model in self.models]
        name = next((model.name for model in self.models if model.digest == digest), "")
        return self._meter.model(name, names)


class _Events:
    def __init__(self, events: Generation, meter: Meter, model: str) -> None:
        self._events = events
        self.stop = events.stop
        self._made = meter.tokens.labels(model, "output")
        self._read = meter.tokens.labels(model, "prompt")
        self._seconds = meter.compute_seconds.labels(model)

    def __aiter__(self) -> _Events:
        return self

    async def __anext__(self) -> EngineEvent:
        event = await anext(self._events)
        if isinstance(event, EngineTokens):
            self._made.inc(len(event.token_ids))
        elif isinstance(event, EngineFinish):
            self._read.inc(event.prompt_tokens)
            self._seconds.inc(event.compute_ms / 1_000)
        return event
