"""An answer as it comes: what a task's worker and its reader share, from the first token to the checked result."""

from __future__ import annotations

import contextlib
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec
import trio
from msgspec import UNSET

from cactus_mesh.concurrency import Stop
from cactus_mesh.core.likelihoods import chosen_of, fault_in, read_likelihood
from cactus_mesh.core.receipts import unpack_logprobs
from cactus_mesh.core.routing import MAX_CHARACTERS_PER_TOKEN
from cactus_mesh.errors import ProtocolViolation
from cactus_mesh.identity import peer_id
from cactus_mesh.messages import Accepted, Chunk, Done, Progress

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from types import TracebackType

    from cactus_mesh.core.likelihoods import TokenLogprob
    from cactus_mesh.errors import MeshError
    from cactus_mesh.identity import PeerId, PublicKey
    from cactus_mesh.messages import (
        FinishReason,
        Likelihood,
        Receipt,
        Sampling,
        Sealed,
        StreamItem,
        TaskRequest,
        Verdict,
        Work,
    )

T = TypeVar("T")
PIECES_UNDER_WAY: Final = 64
"""Text that a slow reader has not taken yet; beyond that the stream waits, back to the orchestrator."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What of an answer has come at once: its text, which may be empty, and with ``top_logprobs`` its tokens."""

    text: str
    tokens: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """A finished task, checked by this client itself: signatures, digests, counts, claim and the router's verdict."""

    task_id: bytes
    text: str
    token_ids: tuple[int, ...]
    prompt_tokens: int
    finish: FinishReason
    router: PeerId
    orchestrator: PeerId
    delegate: PeerId | None
    continued_at: int | None
    """The place of the token from which *orchestrator* went on, when another one was lost before it."""
    max_price: int
    """What the task was allowed to cost before it was sent, in octas."""
    price: int
    """The most that is paid for the task, in octas, by its receipt; `Client.paid` tells what was."""
    audited: bool
    """Whether the lot has fallen on this answer to be replayed, beside its delivery."""
    receipt: Sealed[Receipt]
    verdict: Sealed[Verdict]
    logprobs: tuple[TokenLogprob, ...] | None = None
    """Of each of *token_ids* where ``top_logprobs`` was asked for.  The tokens' own numbers are those of the receipt,
    which an audit recomputes; the alternatives' are the orchestrator's word."""

    def vectors(self) -> list[list[float]]:
        """Of `Client.embed`, one for each text.  Raises `ProtocolViolation` when the text is none."""
        return self._as(list[list[float]])

    def labels(self) -> list[dict[str, float]]:
        """Of `Client.classify`, the probabilities for each text.  Raises as `vectors`."""
        return self._as(list[dict[str, float]])

    def scores(self) -> list[float]:
        """Of `Client.rerank`, one for each document.  Raises as `vectors`."""
        return self._as(list[float])

    def _as(self, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(self.text, type=kind)
        except (msgspec.DecodeError, RecursionError):
            raise ProtocolViolation(
                f"orchestrator {self.orchestrator} gave an answer that is not of the kind that was asked for; ask again"
            ) from None

    def summary(self) -> dict[str, str | int | bool | None]:
        """The essence, as JSON can hold it.  There is no result whose receipt was not verified."""
        return {
            "task_id": self.task_id.hex(),
            "text": self.text,
            "tokens": len(self.token_ids),
            "finish": self.finish,
            "router": self.router,
            "orchestrator": self.orchestrator,
            "delegate": self.delegate,
            "continued_at": self.continued_at,
            "receipt_verified": True,
            "audited": self.audited,
            "max_price_octas": self.max_price,
            "price_octas": self.price,
        }


@dataclass(frozen=True, slots=True)
class Ask:
    """One task before it has a router."""

    task_id: bytes
    model: str
    model_digest: bytes | None
    work: Work
    sampling: Sampling
    max_price: int
    deadline_ms: int


class Job:
    """What the worker of a task and its `Answer` share."""

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.scope = trio.CancelScope()
        self.into, self.pieces = trio.open_memory_channel[Piece](PIECES_UNDER_WAY)
        self.result: Result | None = None
        self.error: MeshError | None = None
        self.orchestrator: PeerId | None = None
        self.accepted = trio.Event()
        """An orchestrator has taken the task, or it has ended."""
        self.over = trio.Event()
        self.router: PublicKey | None = None
        """Which is asked now."""
        self.stop = Stop()
        self.began = trio.current_time()
        self.first_at: float | None = None
        """When its first text came."""
        self.request: Sealed[TaskRequest] | None = None
        """The last that was sent."""
        self.done: Done | None = None
        """How its stream ended, checked or not."""

    def leave(self) -> None:
        """Nobody reads on: end the task, and wait for the receipt of what was made by now."""
        if not self.over.is_set():
            self.pieces.close()
            self.stop.ask()


class Answer:
    """A task's text as it is made: iterate over it, then read `result`.

    Leaving an ``async with`` block, or dropping the last reference, before the end cancels the task; it goes on in the
    background until its price is known.  What was made by then is paid.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        weakref.finalize(self, _abandon, job, trio.lowlevel.current_trio_token()).atexit = False

    @property
    def task_id(self) -> bytes:
        return self._job.ask.task_id

    @property
    def max_price(self) -> int:
        """In octas: known before anything is sent."""
        return self._job.ask.max_price

    async def accepted(self) -> PeerId:
        """Wait until an orchestrator has taken the task, and tell which.  Raises `MeshError` when none does."""
        await self._job.accepted.wait()
        if self._job.orchestrator is None:
            raise self._job.error or RuntimeError("the task was cancelled")
        return self._job.orchestrator

    @property
    def result(self) -> Result:
        """Raises `MeshError` when the task failed, and RuntimeError before its end."""
        if self._job.error is not None:
            raise self._job.error
        if self._job.result is None:
            raise RuntimeError("the answer has not ended yet; iterate over it first")
        return self._job.result

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        while not (text := (await self._next()).text):
            pass
        return text

    def pieces(self) -> Pieces:
        """The same with what is known of its tokens: iterate over this instead, for `Piece`s."""
        return Pieces(self)

    async def _next(self) -> Piece:
        try:
            return await self._job.pieces.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError):
            if self._job.error is not None:
                raise self._job.error from None
            raise StopAsyncIteration from None

    async def wait(self) -> Result:
        """Read to the end."""
        async for _ in self:
            pass
        return self.result

    async def cancel(self) -> Result:
        """End the task now, and wait for the receipt and price of what was made: ``result.finish == "cancelled"``.

        After its end it just gives the result.  Raises `Cancelled` when no token had been made, so nothing is paid, or
        when nobody signed for it in time; else as `result`.
        """
        self._job.leave()
        await self._job.over.wait()
        return self.result

    async def __aenter__(self) -> Answer:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._job.leave()


class Pieces:
    """Of an `Answer`, as they are made."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def __aiter__(self) -> AsyncIterator[Piece]:
        return self

    async def __anext__(self) -> Piece:
        return await self._answer._next()


def _abandon(job: Job, token: trio.lowlevel.TrioToken) -> None:
    if job.over.is_set():
        return  # as nearly always, and waking the loop is not free
    with contextlib.suppress(trio.RunFinishedError):
        token.run_sync_soon(job.leave)


class Stream:
    """Takes the items of one router's reply, in order, and hands the text on."""

    def __init__(self, ask: Ask, job: Job) -> None:
        self._ask = ask
        self._job = job
        self.token_ids: list[int] = []
        self.likelihoods: list[Likelihood] = []
        self.text: list[str] = []

    @property
    def unwanted(self) -> bool:
        return self._job.stop.asked

    def sent(self, request: Sealed[TaskRequest]) -> None:
        self._job.request = request

    async def take(self, item: StreamItem) -> Done | None:
        """Raises `ProtocolViolation` for what a router must not send."""
        match item:
            case Progress(orchestrator=orchestrator):
                self._job.orchestrator = peer_id(orchestrator)
                self._job.accepted.set()
            case Chunk():
                await self._take_chunk(item)
            case Done():
                self._job.done = item
                return item
            case Accepted():
                raise ProtocolViolation("the router sent an acceptance, which only an orchestrator does; ask again")
        return None

    async def _take_chunk(self, chunk: Chunk) -> None:
        wanted = self._ask.sampling.max_tokens
        in_place = chunk.start == len(self.token_ids) and chunk.task_id == self._ask.task_id
        fits = 0 < len(chunk.token_ids) <= wanted - len(self.token_ids)
        if not (in_place and fits and len(chunk.text) <= len(chunk.token_ids) * MAX_CHARACTERS_PER_TOKEN):
            raise ProtocolViolation("the router sent tokens that do not follow on those before; ask again")
        if fault := fault_in(chunk.likelihoods, chunk.token_ids, self._ask.sampling):
            raise ProtocolViolation(f"the router sent log-probabilities {fault}; ask again")
        self.token_ids += chunk.token_ids
        self.likelihoods += chunk.likelihoods
        self.text.append(chunk.text)
        if chunk.text:
            self._job.first_at = self._job.first_at or trio.current_time()
        if chunk.text or chunk.likelihoods:
            tokens = _read(chunk.likelihoods, chosen_of(chunk.likelihoods))
            with contextlib.suppress(trio.BrokenResourceError):  # nobody reads on; the receipt is for all of it
                await self._job.into.send(Piece(chunk.text, tokens))

    def logprobs(self, receipt: Receipt) -> tuple[TokenLogprob, ...] | None:
        """Of all tokens, by *receipt*, which has been checked; None where they were not asked for."""
        return None if self._ask.sampling.top_logprobs is UNSET else _read(self.likelihoods, receipt.logprobs)


def _read(likelihoods: Sequence[Likelihood], logprobs: bytes) -> tuple[TokenLogprob, ...]:
    numbers = unpack_logprobs(logprobs)
    return tuple(read_likelihood(each, number) for each, number in zip(likelihoods, numbers, strict=True))
