"""The stream of an OpenAI-compatible server, from bytes to pieces of text.  Bounded; knows no sockets."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAX_LINE_BYTES: Final = 1 << 20
_DATA: Final = b"data:"
_DONE: Final = b"[DONE]"
_ESCAPED: Final = "bytes:"
_HEX: Final = re.compile(r"(\\x[0-9a-fA-F]{2})+")


@dataclass(frozen=True, slots=True)
class Told:
    """A token of which a server says how likely it was, and *top* others."""

    data: bytes
    logprob: float
    top: tuple[tuple[bytes, float], ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """What one event says.  *logprob* is 0 where the server gives none, and *told* empty."""

    text: str = ""
    logprob: float = 0.0
    finish: str | None = None
    prompt_tokens: int = 0
    told: tuple[Told, ...] = ()


class _Delta(msgspec.Struct):
    content: str | None = None


class _Alternative(msgspec.Struct):
    token: str | None = None
    logprob: float | None = None
    raw: list[Annotated[int, msgspec.Meta(ge=0, le=255)]] | None = msgspec.field(default=None, name="bytes")

    def data(self) -> bytes:
        return (self.token or "").encode() if self.raw is None else bytes(self.raw)


class _TokenLogprob(_Alternative):
    top_logprobs: list[_Alternative] | None = None


class _Logprobs(msgspec.Struct):
    """A chat's are in *content*, those of a plain text in the others."""

    content: list[_TokenLogprob] | None = None
    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float | None] | None] | None = None


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
    told = _told(choice.logprobs) if choice.logprobs is not None else ()
    return Piece(text, _logprob(choice.logprobs), choice.finish_reason, prompt_tokens, told)


def _logprob(given: _Logprobs | None) -> float:
    """Of all tokens of a piece together; 0 when it is not known or makes no sense."""
    values: list[float | None] = []
    if given is not None:
        values += [each.logprob for each in given.content or ()]
        values += given.token_logprobs or ()
    total = sum(value for value in values if value is not None)
    return min(total, 0.0) if math.isfinite(total) else 0.0


def _told(given: _Logprobs) -> tuple[Told, ...]:
    """Each token with its number; none at all where a number is missing or makes no sense."""
    found = [*_told_of_chat(given.content or ()), *_told_of_text(given)]
    return tuple(found) if all(math.isfinite(each.logprob) for each in found) else ()


def _told_of_chat(content: Sequence[_TokenLogprob]) -> Iterator[Told]:
    for each in content:
        top = {other.data(): other.logprob for other in each.top_logprobs or ()}
        yield Told(each.data(), _number(each.logprob), _top(top))


def _told_of_text(given: _Logprobs) -> Iterator[Told]:
    tokens, numbers = given.tokens or [], given.token_logprobs or []
    for at, (token, number) in enumerate(zip(tokens, numbers, strict=False)):
        others = given.top_logprobs[at] if given.top_logprobs and at < len(given.top_logprobs) else None
        top = {_bytes_of(other): likely for other, likely in (others or {}).items()}
        yield Told(_bytes_of(token), _number(number), _top(top))


def _top(numbers: dict[bytes, float | None]) -> tuple[tuple[bytes, float], ...]:
    found = ((data, _number(number)) for data, number in numbers.items())
    return tuple((data, number) for data, number in found if math.isfinite(number))


def _number(said: float | None) -> float:
    """NaN for none.  Some servers' are a little above 0."""
    return math.nan if said is None else min(said, 0.0)


def _bytes_of(token: str) -> bytes:
    """A plain text's tokens are written ``bytes:\\xe2\\x82`` where they are no whole characters."""
    escaped = token.removeprefix(_ESCAPED)
    if escaped == token or not _HEX.fullmatch(escaped):
        return token.encode()
    return bytes.fromhex(escaped.replace("\\x", ""))
