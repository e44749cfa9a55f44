"""One task of the mesh for one HTTP request: whole or as a stream; gone with its client."""

from __future__ import annotations

import hashlib
import logging
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import trio

from cactus_mesh.concurrency import open_batches, open_service_nursery
from cactus_mesh.errors import MeshError, TooManyRequests
from cactus_mesh.gateway.asked import AskedVectors
from cactus_mesh.gateway.faults import Fault, fault_of
from cactus_mesh.gateway.http import header, reply, start, while_listening
from cactus_mesh.gateway.replies import KEEP_ALIVE, encode, sse, task_headers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from starlette.types import Receive, Scope, Send

    from cactus_mesh.answer import Answer, Piece, Result
    from cactus_mesh.client import Client
    from cactus_mesh.config import GatewayConfig
    from cactus_mesh.core.likelihoods import TokenLogprob
    from cactus_mesh.gateway.asked import Asked
    from cactus_mesh.gateway.metrics import Metrics

QUIET_SECONDS: Final = 10.0
"""Without a token a stream shows that it is alive, so that nobody in between gives it up."""
BUSY_RETRY_SECONDS: Final = 1

log = logging.getLogger(__name__)


class Whole(Protocol):
    """How a reply looks that comes at once: see `replies`."""

    def whole(self, result: Result) -> dict[str, object]: ...


class Shape(Whole, Protocol):
    """How a reply looks that may come in pieces: see `replies.Completion`."""

    @property
    def error_event(self) -> str:
        """The name of the event that tells of an error in a stream; "" for none."""
        ...

    def whole(self, result: Result) -> dict[str, object]: ...
    def first(self) -> list[bytes]: ...
    def piece(self, text: str, tokens: Sequence[TokenLogprob]) -> bytes:
        """Empty where nothing is to be said yet."""
        ...

    def last(self, result: Result) -> list[bytes]: ...


@dataclass(slots=True)
class Tasks:
    """Asks the mesh on behalf of HTTP clients, so many at once."""

    client: Client
    config: GatewayConfig
    metrics: Metrics | None = None
    running: int = 0

    def begin(self, scope: Scope, asked: Asked | AskedVectors) -> Answer:
        """Raises what a cap or bound refuses, before anything is sent."""
        options = asked.options
        name = header(scope, b"idempotency-key")
        if name:
            options["task_id"] = hashlib.sha256(f"{scope['cactus.caller']}\0{name}".encode()).digest()[:16]
        if isinstance(asked, AskedVectors):
            return self.client.embed(asked.texts, model=asked.model, pooling=asked.pooling, **options)
        if isinstance(asked.work, str):
            return self.client.generate(asked.work, model=asked.model, **options)
        return self.client.chat(asked.work, model=asked.model, **options)

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Raises a `Fault` when all are taken."""
        if self.running >= self.config.tasks_at_once:
            raise Fault(
                TooManyRequests(f"{self.running} tasks are under way, which is the most; try again in a second"),
                retry_after=BUSY_RETRY_SECONDS,
            )
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1

    async def whole(self, scope: Scope, receive: Receive, send: Send, answer: Answer, shape: Whole) -> None:
        """All at once.  A client that goes away takes its task with it."""
        async with while_listening(receive), self._accounted(scope, answer):
            await self._whole(scope, send, answer, shape)

    async def stream(self, scope: Scope, receive: Receive, send: Send, answer: Answer, shape: Shape) -> None:
        """As it comes.  A client that goes away takes its task with it."""
        async with while_listening(receive), self._accounted(scope, answer):
            await self._stream(scope, send, answer, shape)

    async def _whole(self, scope: Scope, send: Send, answer: Answer, shape: Whole) -> None:
        asked_at = trio.current_time()
        result = await answer.wait()
        done_at = trio.current_time()
        self._count(scope, result)
        body = encode(shape.whole(result))
        overhead = trio.current_time() - done_at + asked_at - scope["cactus.began"]
        await reply(send, 200, body, task_headers(answer, result.orchestrator, overhead * 1_000, result))

    async def _stream(self, scope: Scope, send: Send, answer: Answer, shape: Shape) -> None:
        overhead = trio.current_time() - scope["cactus.began"]
        orchestrator = await answer.accepted()
        headers = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-store"}
        await start(send, 200, headers | task_headers(answer, orchestrator, overhead * 1_000, None))
        voice = _Voice(send, trio.current_time())
        await voice.say(shape.first())
        try:
            async with open_service_nursery() as nursery, open_batches(answer.pieces(), 0) as batches:
                nursery.start_soon(voice.stay_alive)
                await self._speak(scope, voice, batches, shape)
            result = answer.result
            self._count(scope, result)
            await voice.say(shape.last(result), more=False)
        except Exception as error:  # the status is out already, so it is told in the stream
            fault = fault_of(error)
            if fault.status == 500:
                log.exception("a stream failed", extra={"task": answer.task_id.hex()})
            scope["cactus.code"] = fault.error.code
            await voice.say([sse(fault.body(), event=shape.error_event)], more=False)

    async def _speak(self, scope: Scope, voice: _Voice, batches: AsyncIterator[list[Piece]], shape: Shape) -> None:
        first = True
        async for pieces in batches:
            if first and self.metrics is not None:
                self.metrics.first_token.observe(trio.current_time() - scope["cactus.began"])
            first = False
            tokens = [token for piece in pieces for token in piece.tokens]
            if said := shape.piece("".join(piece.text for piece in pieces), tokens):
                await voice.say([said])

    @asynccontextmanager
    async def _accounted(self, scope: Scope, answer: Answer) -> AsyncIterator[None]:
        """Leaving the block ends the task.  What a client that went away has had is paid, so it counts too."""
        try:
            yield
        finally:
            with trio.CancelScope(shield=True), suppress(MeshError, RuntimeError):
                self._count(scope, await answer.cancel())

    def _count(self, scope: Scope, result: Result) -> None:
        if self.metrics is not None and not scope.get("cactus.counted"):
            scope["cactus.counted"] = True
            self.metrics.tokens.labels("prompt").inc(result.prompt_tokens)
            self.metrics.tokens.labels("completion").inc(len(result.token_ids))
            self.metrics.octas.inc(result.price)


@dataclass(slots=True)
class _Voice:
    """The body of a stream, on its way."""

    send: Send
    spoke_at: float

    async def say(self, pieces: Sequence[bytes], *, more: bool = True) -> None:
        self.spoke_at = trio.current_time()
        await self.send({"type": "http.response.body", "body": b"".join(pieces), "more_body": more})

    async def stay_alive(self) -> None:
        while True:
            await trio.sleep_until(self.spoke_at + QUIET_SECONDS)
            if trio.current_time() - self.spoke_at >= QUIET_SECONDS:
                await self.say([KEEP_ALIVE])
