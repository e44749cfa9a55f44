"""The client for programs on asyncio (or uvloop): the same words, awaited there.

>>> async with cactus_mesh.aio.open_client(bootstrap=["/ip4/…/tcp/4101/p2p/…"]) as mesh:
...     async with await mesh.chat([{"role": "user", "content": "Hello"}], model="cactus-selftest") as answer:
...         async for piece in answer:
...             print(piece, end="")
...     print(answer.result.price, (await mesh.paid(answer.result)).paid)

The network runs on trio in a thread of its own.  Cancelling what is awaited cancels it there.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from cactus_mesh import clients
from cactus_mesh.portal import Portal
from cactus_mesh.sync import later, next_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType
    from typing import Literal, Self, Unpack

    from cactus_mesh import answer as trio_answer
    from cactus_mesh.answer import Piece, Result
    from cactus_mesh.asking import Options
    from cactus_mesh.client import Client as TrioClient
    from cactus_mesh.core.pricing import Split
    from cactus_mesh.messages import Listed
    from cactus_mesh.sync import Settings

T = TypeVar("T")


@asynccontextmanager
async def open_client(**settings: Unpack[Settings]) -> AsyncIterator[Client]:
    """As `cactus_mesh.open_client`, with its arguments and errors.  Leaving the block cancels what is under way."""
    async with open_from(partial(clients.open_client, **settings)) as client:
        yield client


@asynccontextmanager
async def open_from(opened: Callable[[], AbstractAsyncContextManager[TrioClient]]) -> AsyncIterator[Client]:
    """A client around whatever *opened* opens, in a thread of its own."""
    portal = Portal(opened)
    try:
        yield Client(portal, await asyncio.wrap_future(portal.ready))
    finally:
        portal.close()
        await asyncio.shield(asyncio.wrap_future(portal.ended))


class Client:
    """See `cactus_mesh.client.Client`; the same methods, all of them awaited."""

    def __init__(self, portal: Portal[TrioClient], client: TrioClient) -> None:
        self._portal = portal
        self._client = client

    async def generate(self, prompt: str, *, model: str, **options: Unpack[Options]) -> Answer:
        return await self._begin(partial(self._client.generate, prompt, model=model, **options))

    async def chat(self, messages: Sequence[Mapping[str, str]], *, model: str, **options: Unpack[Options]) -> Answer:
        return await self._begin(partial(self._client.chat, messages, model=model, **options))

    async def embed(
        self, texts: Sequence[str], *, model: str, pooling: Literal["cls", "mean"] = "mean", **options: Unpack[Options]
    ) -> Answer:
        return await self._begin(partial(self._client.embed, texts, model=model, pooling=pooling, **options))

    async def classify(self, texts: Sequence[str], *, model: str, **options: Unpack[Options]) -> Answer:
        return await self._begin(partial(self._client.classify, texts, model=model, **options))

    async def rerank(self, query: str, documents: Sequence[str], *, model: str, **options: Unpack[Options]) -> Answer:
        return await self._begin(partial(self._client.rerank, query, documents, model=model, **options))

    async def models(self) -> list[Listed]:
        return await asyncio.wrap_future(self._portal.submit(self._client.models))

    async def paid(self, result: Result) -> Split:
        return await asyncio.wrap_future(self._portal.submit(self._client.paid, result))

    async def spent_today(self) -> int:
        return await asyncio.wrap_future(self._portal.submit(later(self._client.spent_today)))

    async def _begin(self, ask: Callable[[], trio_answer.Answer]) -> Answer:
        return Answer(self._portal, await asyncio.wrap_future(self._portal.submit(later(ask))))


class Answer:
    """A task's text as it is made: iterate over it, then read `result`.  Leaving its block early cancels the task."""

    def __init__(self, portal: Portal[TrioClient], answer: trio_answer.Answer) -> None:
        self._portal = portal
        self._answer = answer

    @property
    def task_id(self) -> bytes:
        return self._answer.task_id

    @property
    def max_price(self) -> int:
        return self._answer.max_price

    @property
    def result(self) -> Result:
        return self._answer.result

    async def wait(self) -> Result:
        """Read to the end.  Raises the task's `MeshError`."""
        return await asyncio.wrap_future(self._portal.submit(self._answer.wait))

    async def cancel(self) -> Result:
        """End the task and wait for the price of what was made; see `cactus_mesh.answer.Answer.cancel`."""
        return await asyncio.wrap_future(self._portal.submit(self._answer.cancel))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        piece: str | None = await asyncio.wrap_future(self._portal.submit(next_of, self._answer))
        if piece is None:
            raise StopAsyncIteration
        return piece

    async def pieces(self) -> AsyncIterator[Piece]:
        """See `cactus_mesh.answer.Answer.pieces`."""
        pieces = self._answer.pieces()
        while (piece := await asyncio.wrap_future(self._portal.submit(next_of, pieces))) is not None:
            yield piece

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.wrap_future(self._portal.submit(self._answer.__aexit__, None, None, None))
