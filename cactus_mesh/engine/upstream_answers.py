"""From the pieces in which an upstream server streams to our tokens: as many as were asked for at most, and exactly so
many when they end the answer.  Pure.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from msgspec import UNSET

from cactus_mesh.core.likelihoods import likelihood_of
from cactus_mesh.engine.text import StopStrings
from cactus_mesh.errors import BadParameters, EngineFailed
from cactus_mesh.ports import EngineTokens

if TYPE_CHECKING:
    from cactus_mesh.engine.sse import Piece, Told
    from cactus_mesh.messages import Ending, Likelihood, Sampling


def answer_to(sampling: Sampling) -> Answer:
    return Answer(sampling) if sampling.top_logprobs is UNSET else ToldAnswer(sampling, sampling.top_logprobs)


class Answer:
    """Each piece counts as a token."""

    def __init__(self, sampling: Sampling) -> None:
        self._limit = sampling.max_tokens
        self._stops = StopStrings(sampling.stop)
        self._count = 0
        self.finish: Ending | None = None
        self.stopped = False
        """Somebody wants no more of it."""

    def take(self, piece: Piece) -> EngineTokens | None:
        """Raises `EngineFailed` for more than was asked for."""
        if self._count == self._limit:
            if piece.text:
                raise _too_much()
            return None
        if self.finish is not None or (not piece.text and piece.finish is None):
            return None
        text = self._text(piece, 1)
        return EngineTokens((_id(piece.text.encode()),), (piece.logprob,), text)

    def _text(self, piece: Piece, tokens: int) -> str:
        """What is certain with this piece, which may end the answer."""
        text, stopped = self._stops.push(piece.text)
        self._count += tokens
        last = "length" if self._count == self._limit else piece.finish
        self.finish = _finish(last, stopped)
        if self.finish is not None and not stopped:
            text += self._stops.flush()
        return text

    def rest(self) -> EngineTokens | None:
        """When the server counts more tokens than it has sent pieces: one with several counts as that many."""
        missing = self._limit - self._count if self.finish == "length" else int(self._count == 0)
        return EngineTokens((_id(b""),) * missing, (0.0,) * missing, "") if missing else None


class ToldAnswer(Answer):
    """The tokens are those of which the server says how likely they were.  Nothing is made up where it does not."""

    def __init__(self, sampling: Sampling, top: int) -> None:
        super().__init__(sampling)
        self._top = top
        self._may_end = bool(sampling.stop)
        self._held: EngineTokens | None = None
        """The last, where text is held back that might begin a stop string: the rest of it needs a token."""

    def take(self, piece: Piece) -> EngineTokens | None:
        """Raises `BadParameters` where the server tells nothing, `EngineFailed` for less or more than was asked for."""
        if self.finish is not None:
            if piece.text:
                raise _too_much()
            return None
        if piece.text and not piece.told:
            if self._count:
                raise EngineFailed("the server behind this orchestrator does not say how likely each token was")
            raise BadParameters(
                "the server behind this orchestrator gives no log-probabilities; leave out top_logprobs"
            )
        if self._count + len(piece.told) > self._limit:
            raise _too_much()
        if not piece.told and piece.finish is None:
            return None
        text = self._text(piece, len(piece.told))
        ends = piece.finish == "stop" and not piece.text
        likelihoods = tuple(self._likelihood(told, special=ends) for told in piece.told)
        made = EngineTokens(
            tuple(each.token_ids[0] for each in likelihoods),
            tuple(told.logprob for told in piece.told),
            text,
            likelihoods,
        )
        return self._give(made)

    def rest(self) -> EngineTokens | None:
        if self._count == 0 or (self.finish == "length" and self._count < self._limit):
            raise EngineFailed("the server behind this orchestrator does not say how likely each token was")
        text = "" if self.finish is not None else self._stops.flush()
        held, self._held = self._held, None
        return None if held is None else _joined(held, EngineTokens((), (), text))

    def _give(self, made: EngineTokens) -> EngineTokens | None:
        """What can go out now; *made* itself later, where it may be the last that its text can be given with."""
        held, self._held = self._held, None
        if held is not None and (self.finish is not None or not made.token_ids):
            return _joined(held, made)
        if self._may_end and self.finish is None:
            self._held = made
            return held
        return made if made.token_ids else None

    def _likelihood(self, told: Told, *, special: bool) -> Likelihood:
        """The likeliest first; the chosen one among them where its number puts it, and none twice."""
        numbers = dict(told.top) | ({told.data: told.logprob} if self._belongs(told) else {})
        ranked = sorted(numbers.items(), key=lambda each: (-each[1], each[0] != told.data))[: self._top]
        pieces = [told.data, *[data for data, _ in ranked]]
        logprobs = [told.logprob, *[number for _, number in ranked]]
        return likelihood_of(
            list(map(_id, pieces)), logprobs, [(data, special and data == told.data) for data in pieces]
        )

    def _belongs(self, told: Told) -> bool:
        return len(told.top) < self._top or any(data == told.data or number < told.logprob for data, number in told.top)


def _joined(one: EngineTokens, other: EngineTokens) -> EngineTokens:
    return EngineTokens(
        one.token_ids + other.token_ids,
        one.logprobs + other.logprobs,
        one.text + other.text,
        one.likelihoods + other.likelihoods,
    )


def _finish(said: str | None, stopped: bool) -> Ending | None:
    if stopped:
        return "stop_string"
    return None if said is None else "length" if said == "length" else "stop"


def _too_much() -> EngineFailed:
    return EngineFailed("the server behind this orchestrator made more than it was asked for")


def _id(piece: bytes) -> int:
    return int.from_bytes(hashlib.sha256(piece).digest()[:4], "little")
