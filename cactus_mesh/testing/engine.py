"""A deterministic engine without a model: the same words for every prompt, at a pace and with faults of your choice."""

from __future__ import annotations

import hashlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import trio
from msgspec import UNSET

from cactus_mesh.core.likelihoods import likelihood_of
from cactus_mesh.core.readings import read, reads
from cactus_mesh.engine.requests import (
    check_answer,
    check_before,
    check_length,
    check_parameters,
    check_places,
    find_model,
)
from cactus_mesh.engine.text import StopStrings
from cactus_mesh.errors import BadParameters, Busy, CannotContinue, EngineFailed
from cactus_mesh.messages import PIECE_CHARACTERS, ModelShape, texts_of
from cactus_mesh.ports import EngineFinish, EngineModel, EngineTokens, Replay, Rereading

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence

    from cactus_mesh.messages import Ending, FinishReason, Likelihood, Sampling, Work
    from cactus_mesh.ports import EngineEvent

FAKE_TEXT: Final = "A cactus keeps its water for the dry season and shares the shade it has."
"""Sixteen tokens: fifteen words and the end."""

FAKE_MODEL: Final = EngineModel(
    name="fake",
    digest=hashlib.sha256(b"fake").digest(),
    dtype="float32",
    context_tokens=4_096,
    kinds=("chat", "generate"),
    shape=ModelShape(matmul_parameters=1_000_000, layers=2, heads=4, head_dim=32),
)

_END_ID: Final = 0
_LOGPROB: Final = -0.5
_END: Final = b"<end>", True
_OTHERS: Final = 100_000
_SLIP: Final = 10_000
_NEAR, _FAR = 0.05, 5.0
"""Gaps, in logits: of a token that slipped in, and of one after the end."""


class FakeEngine:
    """Answers everything with *text*, one token a word and one for the end; a model that only reads, in pieces.

    *delay_seconds* passes before each token, and once in a replay, by trio's clock.  *fail_after* tokens a generation
    ends in `EngineFailed`.  Every *slip_every* tokens, over all generations, one is not the token that its model would
    have chosen.  A prompt counts as many tokens as it has words.  Each token counts as one millisecond of computing.
    """

    def __init__(
        self,
        text: str = FAKE_TEXT,
        *,
        model: EngineModel = FAKE_MODEL,
        slots: int = 64,
        delay_seconds: float = 0.0,
        fail_after: int | None = None,
        slip_every: int | None = None,
    ) -> None:
        continues = {"generate", "chat"} & set(model.kinds)
        self._text = text
        self._reads = not continues
        self._pieces = [*_words(text), ""] if continues else _cut(text)
        self._model = model
        self._slots = slots
        self._delay_seconds = delay_seconds
        self._fail_after = fail_after
        self._slip_every = slip_every
        self._made = 0
        self._running: set[object] = set()
        self.started = 0
        """Generations admitted so far."""
        self.replayed = 0
        """Answers of others replayed so far."""

    @property
    def name(self) -> str:
        return "fake/1"

    @property
    def models(self) -> tuple[EngineModel, ...]:
        return (self._model,)

    @property
    def slots(self) -> int:
        return self._slots

    @property
    def memory(self) -> None:
        return None

    @property
    def running(self) -> int:
        """Generations under way now."""
        return len(self._running)

    @asynccontextmanager
    async def generate(
        self, model_digest: bytes, work: Work, sampling: Sampling, seed: bytes, before: Sequence[int] = ()
    ) -> AsyncIterator[FakeGeneration]:
        check_parameters(work, sampling, seed)
        check_before(sampling, before)
        model = find_model(self.models, model_digest, work)
        prompt_tokens = _count(work)
        check_length(model, prompt_tokens, sampling.max_tokens)
        if len(self._running) >= self._slots:
            raise Busy(f"all {self._slots} slots are taken; try again or ask another orchestrator")
        await trio.lowlevel.checkpoint()
        ticket = object()
        self._running.add(ticket)
        self.started += 1
        stopped = trio.Event()
        events = self._events(ticket, prompt_tokens, sampling, list(before), stopped)
        try:
            yield FakeGeneration(events, stopped)
        finally:
            self._running.discard(ticket)
            await events.aclose()

    async def _events(
        self, ticket: object, prompt_tokens: int, sampling: Sampling, before: list[int], stopped: trio.Event
    ) -> AsyncGenerator[EngineEvent]:
        stops = StopStrings(sampling.stop)
        finish: FinishReason | None = None
        token_ids: list[int] = []
        held = ""
        while finish is None:
            if len(token_ids) >= len(before):
                await self._pause(stopped)
                if stopped.is_set():
                    finish = "cancelled"
                    break
            if len(token_ids) == self._fail_after:
                self._running.discard(ticket)
                raise EngineFailed(f"the fake engine was told to fail after {len(token_ids)} tokens")
            piece = self._pieces[len(token_ids)]
            token_ids.append(len(token_ids) + 1 if piece and not self._reads else _END_ID)
            finish, text = self._decide(len(token_ids), *stops.push(piece), sampling)
            if finish in ("length", "stop"):
                text += stops.flush()
            held += text
            forged = token_ids != before[: len(token_ids)] and len(token_ids) <= len(before)
            if forged or (finish is not None and len(token_ids) < len(before)):
                self._running.discard(ticket)
                raise CannotContinue("the fake engine makes other tokens than those before")
            if len(token_ids) == len(before):
                likely = tuple(likelihood for token in token_ids for likelihood in self._likelihoods(token, sampling))
                yield EngineTokens(tuple(token_ids), (_LOGPROB,) * len(token_ids), held, likely)
            elif len(token_ids) > len(before):
                logprob = 0.0 if self._reads else _LOGPROB
                given = self._slipped(token_ids[-1])
                yield EngineTokens((given,), (logprob,), text, self._likelihoods(given, sampling))
        self._running.discard(ticket)
        yield EngineFinish(finish, prompt_tokens, compute_ms=len(token_ids) - len(before))

    async def _pause(self, stopped: trio.Event) -> None:
        if not self._delay_seconds:
            await trio.lowlevel.checkpoint()  # what a benchmark measures is not this engine
            return
        with trio.move_on_after(self._delay_seconds):
            await stopped.wait()

    def _likelihoods(self, token: int, sampling: Sampling) -> tuple[Likelihood, ...]:
        """One, where it is asked for: *token* and, each less likely than the last, the end and words of no text."""
        if sampling.top_logprobs is UNSET:
            return ()
        piece = (self._pieces[token % _SLIP - 1].encode(), False) if token % _SLIP else _END
        others = [(_END_ID, _END)] if token != _END_ID else []
        others += [(_OTHERS + at, (f" other{at}".encode(), False)) for at in range(sampling.top_logprobs)]
        ranked = [(token, piece), *others][: sampling.top_logprobs]
        ids, pieces = zip((token, piece), *ranked, strict=True)
        return (likelihood_of(ids, [_LOGPROB, *[_LOGPROB - 2 * at for at in range(len(ranked))]], pieces),)

    def _slipped(self, token: int) -> int:
        self._made += 1
        slips = self._slip_every is not None and self._made % self._slip_every == 0
        return token + _SLIP if slips else token

    async def replay(
        self, model_digest: bytes, work: Work, sampling: Sampling, seed: bytes, token_ids: Sequence[int]
    ) -> Replay:
        check_parameters(work, sampling, seed)
        check_answer(sampling, token_ids)
        model = find_model(self.models, model_digest, work)
        prompt_tokens = _count(work)
        check_length(model, prompt_tokens, sampling.max_tokens)
        await self._take_a_turn()
        return self._read(token_ids, prompt_tokens, sampling)

    async def reread(self, model_digest: bytes, work: Work, places: Sequence[int]) -> Rereading:
        find_model(self.models, model_digest, work)
        check_places(work, places)
        assert reads(work), "only that has places"
        await self._take_a_turn()
        found = read(work, self._text)
        return Rereading(tuple(tuple(found.rows[place]) for place in places), found.labels, _count(work))

    async def _take_a_turn(self) -> None:
        if len(self._running) >= self._slots:
            raise Busy(f"all {self._slots} slots are taken; try again or ask another orchestrator")
        ticket = object()
        self._running.add(ticket)
        try:
            await trio.sleep(self._delay_seconds)
        finally:
            self._running.discard(ticket)
        self.replayed += 1

    def _read(self, token_ids: Sequence[int], prompt_tokens: int, sampling: Sampling) -> Replay:
        stops = StopStrings(sampling.stop)
        finish: Ending | None = None
        text, gaps, ended = "", [], False
        for count, token in enumerate(token_ids, start=1):
            ended = finish is not None
            piece = "" if ended else self._pieces[count - 1]
            gaps.append(_FAR if ended else 0.0 if token == (count if piece else _END_ID) else _NEAR)
            if not ended:
                finish, more = self._decide(count, *stops.push(piece), sampling)
                text += more + (stops.flush() if finish in ("length", "stop") else "")
        logprobs = (_LOGPROB,) * len(token_ids)
        return Replay(logprobs, tuple(gaps), text, None if ended else finish, prompt_tokens)

    def _decide(self, count: int, text: str, stopped: bool, sampling: Sampling) -> tuple[Ending | None, str]:
        if stopped:
            return "stop_string", text
        if count == len(self._pieces):
            return "stop", text
        return ("length" if count == sampling.max_tokens else None), text


class FakeGeneration:
    """A `ports.Generation` that stops before its next token."""

    def __init__(self, events: AsyncGenerator[EngineEvent], stopped: trio.Event) -> None:
        self._events = events
        self._stopped = stopped

    def __aiter__(self) -> AsyncIterator[EngineEvent]:
        return self._events

    async def __anext__(self) -> EngineEvent:
        return await anext(self._events)

    def stop(self) -> None:
        self._stopped.set()


def _cut(text: str) -> list[str]:
    return [text[at : at + PIECE_CHARACTERS] for at in range(0, len(text), PIECE_CHARACTERS)]


def _words(text: str) -> list[str]:
    words = text.split(" ")
    return [words[0], *(f" {word}" for word in words[1:])] if text else []


def _count(work: Work) -> int:
    tokens = sum(len(text.split()) for text in texts_of(work))
    if not tokens:
        raise BadParameters("the prompt is empty; say something")
    return tokens
