"""A node's network and engine with a meter at them: they do what they did, and what passes is counted."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, cast

import trio

from cactus_mesh.dispatch import RUN_METHOD
from cactus_mesh.messages import Chunk, decode_item
from cactus_mesh.observability.gauges import EngineCollector
from cactus_mesh.ports import EngineFinish, EngineTokens
from cactus_mesh.router import SUBMIT_METHOD
from cactus_mesh.verifying import AUDIT_METHOD

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from typing import TypeVar

    from cactus_mesh.messages import Sampling, Work
    from cactus_mesh.observability.meter import Meter
    from cactus_mesh.ports import (
        Call,
        Engine,
        EngineEvent,
        EngineMemory,
        EngineModel,
        Generation,
        Handler,
        Network,
        Replay,
        Reply,
        Rereading,
    )

    N = TypeVar("N", bound=Network)

ROLES: Final = {SUBMIT_METHOD: "router", RUN_METHOD: "orchestrator", AUDIT_METHOD: "verifier"}
"""Who is asked, by the call."""


def measured_network(network: N, meter: Meter) -> N:
    return cast("N", _Network(network, meter))


class _Network:
    def __init__(self, network: Network, meter: Meter) -> None:
        self._network = network
        self._meter = meter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)

    def serve(self, method: str, handler: Handler, *, at_once: int) -> None:
        role = ROLES.get(method)
        if role is None:
            self._network.serve(method, handler, at_once=at_once)
            return
        meter = self._meter

        async def measured(call: Call) -> None:
            with meter.task(role):
                await handler(_Call(call, meter, role))

        self._network.serve(method, measured, at_once=at_once)

    @asynccontextmanager
    async def call(self, peer: Any, method: str, payload: bytes) -> AsyncIterator[Reply]:
        if method != SUBMIT_METHOD:
            async with self._network.call(peer, method, payload) as reply:
                yield reply
            return
        with self._meter.task("client"):
            async with self._network.call(peer, method, payload) as reply:
                yield reply


class _Call:
    """Sees when the first token leaves."""

    def __init__(self, call: Call, meter: Meter, role: str) -> None:
        self.peer = call.peer
        self.public_key = call.public_key
        self.payload = call.payload
        self._call = call
        self._meter = meter
        self._role = role
        self._began = trio.current_time()
        self._spoke = role == "verifier"

    async def send(self, item: bytes) -> None:
        if not self._spoke and isinstance(decode_item(item), Chunk):
            self._spoke = True
            self._meter.first_token_seconds.labels(self._role).observe(trio.current_time() - self._began)
        await self._call.send(item)


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
