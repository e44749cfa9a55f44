"""The client for programs without an event loop: the same words, each call waits.

>>> with cactus_mesh.sync.open_client(bootstrap=["/ip4/…/tcp/4101/p2p/…"]) as mesh:
...     with mesh.chat([{"role": "user", "content": "What is a router?"}], model="cactus-selftest") as answer:
...         for piece in answer:
...             print(piece, end="")
...     print(answer.result.price, mesh.paid(answer.result).paid)

Any thread may use a client, several at once too.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, TypedDict, TypeVar

from cactus_mesh import clients
from cactus_mesh.portal import Portal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
    from concurrent.futures import Future
    from contextlib import AbstractAsyncContextManager
    from os import PathLike
    from types import TracebackType
    from typing import Literal, Self, Unpack

    from cactus_mesh import answer as trio_answer
    from cactus_mesh.answer import Piece, Result
    from cactus_mesh.asking import Options
    from cactus_mesh.client import Client as TrioClient
    from cactus_mesh.config import Config, Home
    from cactus_mesh.core.pricing import Split
    from cactus_mesh.messages import Listed

T = TypeVar("T")
_WAKE_SECONDS = 0.5
"""How soon Ctrl-C is noticed where waiting for another thread cannot be interrupted, which is on Windows."""


class Settings(TypedDict, total=False):
    """The arguments of `cactus_mesh.open_client`."""

    bootstrap: Sequence[str] | None
    network: str | None
    ledger: str | None
    home: str | PathLike[str] | Home | None
    config: Config | None


@contextmanager
def open_client(**settings: Unpack[Settings]) -> Iterator[Client]:
    """As `cactus_mesh.open_client`, with its arguments and errors.  Leaving the block cancels what is under way."""
    with open_from(partial(clients.open_client, **settings)) as client:
        yield client


@contextmanager
def open_from(opened: Callable[[], AbstractAsyncContextManager[TrioClient]]) -> Iterator[Client]:
    """A client around whatever *opened* opens, in a thread of its own."""
    portal = Portal(opened)
    try:
        yield Client(portal, wait(portal.ready))
    finally:
        portal.close()
        wait(portal.ended)


def wait(future: Future[T]) -> T:
    """The outcome of *future*, which is cancelled when this is interrupted."""
    try:
        while True:
            try:
                return future.result(_WAKE_SECONDS)
            except TimeoutError:
                if future.done():
                    return future.result()
    except BaseException:
        future.cancel()
        raise


class Client:
    """See `cactus_mesh.client.Client`; the same methods, which wait."""

    def __init__(self, portal: Portal[TrioClient], client: TrioClient) -> None:
        self._portal = portal
        self._client = client

    def generate(self, prompt: str, *, model: str, **options: Unpack[Options]) -> Answer:
        return self._begin(partial(self._client.generate, prompt, model=model, **options))

    def chat(self, messages: Sequence[Mapping[str, str]], *, model: str, **options: Unpack[Options]) -> Answer:
        return self._begin(partial(self._client.chat, messages, model=model, **options))

    def embed(
        self, texts: Sequence[str], *, model: str, pooling: Literal["cls", "mean"] = "mean", **options: Unpack[Options]
    ) -> Answer:
        return self._begin(partial(self._client.embed, texts, model=model, pooling=pooling, **options))

    def classify(self, texts: Sequence[str], *, model: str, **options: Unpack[Options]) -> Answer:
        return self._begin(partial(self._client.classify, texts, model=model, **options))

    def rerank(self, query: str, documents: Sequence[str], *, model: str, **options: Unpack[Options]) -> Answer:
        return self._begin(partial(self._client.rerank, query, documents, model=model, **options))

    def models(self) -> list[Listed]:
        return wait(self._portal.submit(self._client.models))

    def paid(self, result: Result, *, seconds: float = 60.0) -> Split:
        """Raises TimeoutError when the ledger has not settled it within *seconds*."""
        future = self._portal.submit(self._client.paid, result)
        try:
            return future.result(seconds)
        finally:
            future.cancel()

    def spent_today(self) -> int:
        return wait(self._portal.submit(later(self._client.spent_today)))

    def _begin(self, ask: Callable[[], trio_answer.Answer]) -> Answer:
        return Answer(self._portal, wait(self._portal.submit(later(ask))))


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

    def wait(self) -> Result:
        """Read to the end.  Raises the task's `MeshError`."""
        return wait(self._portal.submit(self._answer.wait))

    def cancel(self) -> Result:
        """End the task and wait for the price of what was made; see `cactus_mesh.answer.Answer.cancel`."""
        return wait(self._portal.submit(self._answer.cancel))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        piece: str | None = wait(self._portal.submit(next_of, self._answer))
        if piece is None:
            raise StopIteration
        return piece

    def pieces(self) -> Iterator[Piece]:
        """See `cactus_mesh.answer.Answer.pieces`."""
        pieces = self._answer.pieces()
        while (piece := wait(self._portal.submit(next_of, pieces))) is not None:
            yield piece

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        wait(self._portal.submit(self._answer.__aexit__, None, None, None))


async def next_of(items: AsyncIterator[T]) -> T | None:
    return await anext(items, None)


def later(function: Callable[[], T]) -> Callable[[], Awaitable[T]]:
    async def call() -> T:
        return function()

    return call
