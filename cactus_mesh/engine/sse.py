"""The stream of an OpenAI-compatible server, from bytes to pieces of text.  Bounded; knows no sockets."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec

MAX_LINE_BYTES: Final = 1 << 20
_DATA: Final = b"data:"
_DONE: Final = b"[DONE]"


@dataclass(frozen=True, slots=True)
class Piece:
    """What one event says.  *logprob* is 0 where the server gives none."""

    text: str = ""
    logprob: float = 0.0
    finish: str | None = None
    prompt_tokens: int = 0


class _Delta(msgspec.Struct):
    content: str | None = None


class _TokenLogprob(msgspec.Struct):
    logprob: float | None = None


class _Logprobs(msgspec.Struct):
    """A chat's are in *content*, those of a plain text in *token_logprobs*."""

    content: list[_TokenLogprob] | None = None
    token_logprobs: list[float | None] | None = None


class _Choice(msgspec.Struct):
    text: str | None = None
    delta: _Delta | None = None
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: Annotated[int, msgspec.Meta(ge=0, le=2**31)] = 0


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: msgspec.Raw | None = None


_events = msgspec.json.Decoder(_Event)


class Stream:
    """Takes bytes as they come and gives pieces."""

    def __init__(self) -> None:
        self._rest = b""
        self.over = False
        """Whether the server has had its last word, after which nothing counts."""
        self._finished = False

    def feed(self, data: bytes) -> list[Piece]:
        """Raises `ValueError` for nonsense and for an error that the server reports."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            raise ValueError(f"a line of more than {MAX_LINE_BYTES} bytes")
        pieces = []
        for line in lines:
            said = line[len(_DATA) :].strip() if line.startswith(_DATA) else b""
            self.over = self.over or said == _DONE
            if said and not self.over:
                pieces.append(_piece(said))
        self._finished |= any(piece.finish is not None for piece in pieces)
        return pieces

    def end(self) -> None:
        """Nothing comes any more.  Raises `ValueError` when the server broke off without a last word."""
        if not self.over and not self._finished:
            raise ValueError("the stream ended before the answer did")


def _piece(data: bytes) -> Piece:
    try:
        event = _events.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"not an event: {error}") from None
    if event.error is not None:
        raise ValueError(f"the server says {bytes(event.error)[:200].decode(errors='replace')}")
    prompt_tokens = event.usage.prompt_tokens if event.usage else 0
    if not event.choices:
        return Piece(prompt_tokens=prompt_tokens)
    choice = event.choices[0]
    text = (choice.delta.content if choice.delta else choice.text) or ""
    return Piece(text, _logprob(choice.logprobs), choice.finish_reason, prompt_tokens)


def _logprob(given: _Logprobs | None) -> float:
    """Of all tokens of a piece together; 0 when it is not known or makes no sense."""
    values: list[float | None] = []
    if given is not None:
        values += [each.logprob for each in given.content or ()]
        values += given.token_logprobs or ()
    total = sum(value for value in values if value is not None)
    return min(total, 0.0) if math.isfinite(total) else 0.0
