"""Log-probabilities as they are streamed: how they are put on the wire, what cannot be true, and how they are read.

The chosen tokens' numbers are held against the signed receipt (`core.verification`).  The others are their
orchestrator's word; what is refused here is what no distribution of probabilities could be.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from msgspec import UNSET

from cactus_mesh.core.receipts import pack_logprobs, unpack_logprobs
from cactus_mesh.messages import MAX_LIKELIHOODS, MAX_PIECE_BYTES, Chunk, Likelihood

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cactus_mesh.messages import Sampling
    from cactus_mesh.ports import EngineTokens

UPSTREAM: Final = "upstream"
"""The dtype of answers whose tokens another program has chosen, by rules that are not known here."""
_ROUNDING: Final = 1e-3
"""By which probabilities may sum to more than 1: they are singles, of a model that may compute in bfloat16."""
_MOST: Final = 1e-4
"""As for a receipt's log-probabilities."""


@dataclass(frozen=True, slots=True)
class Alternative:
    """A token and its log-probability, by the model's own distribution: before temperature, penalties, constraint."""

    token_id: int
    token: str
    """What it reads as.  Bytes that are no whole character are written ``\\xe2\\x82``, special tokens as their name."""
    data: bytes | None
    """None for a special token, which gives no text."""
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenLogprob(Alternative):
    """A token of the answer, with the likeliest in its place: as many as were asked for, the likeliest first."""

    top: tuple[Alternative, ...]


# --- sending -----------------------------------------------------------------------------------------------------


def likelihood_of(ids: Sequence[int], logprobs: Sequence[float], pieces: Sequence[tuple[bytes, bool]]) -> Likelihood:
    """The chosen token comes first.  A piece is a token's bytes and whether it is special."""
    return Likelihood(
        list(ids),
        pack_logprobs(logprobs),
        [piece[:MAX_PIECE_BYTES] for piece, _ in pieces],
        sum(special << at for at, (_, special) in enumerate(pieces)),
    )


def chunks_of(task_id: bytes, start: int, events: Sequence[EngineTokens]) -> Iterator[Chunk]:
    """All of *events* in one chunk; in several where tokens have likelihoods, which are long."""
    token_ids = [token for event in events for token in event.token_ids]
    likelihoods = [each for event in events for each in event.likelihoods]
    if not likelihoods:
        if token_ids:
            yield Chunk(task_id, start, token_ids, "".join(event.text for event in events))
        return
    assert len(likelihoods) == len(token_ids), "an engine gives one for each token, or none"
    texts = [text for event in events for text in (*[""] * (len(event.token_ids) - 1), event.text)]
    for at in range(0, len(token_ids), MAX_LIKELIHOODS):
        part = slice(at, at + MAX_LIKELIHOODS)
        yield Chunk(task_id, start + at, token_ids[part], "".join(texts[part]), likelihoods[part])


# --- what cannot be true -----------------------------------------------------------------------------------------


def fault_in(
    likelihoods: Sequence[Likelihood], token_ids: Sequence[int], sampling: Sampling, dtype: str = UPSTREAM
) -> str | None:
    """What is wrong with those of *token_ids*, in words that follow "log-probabilities"; None when nothing is.

    *dtype* is that of the model that is said to have made them, where it is known.
    """
    top = sampling.top_logprobs
    if top is UNSET:
        return "that nobody has asked for" if likelihoods else None
    if len(likelihoods) != len(token_ids):
        return f"of {len(likelihoods)} tokens with {len(token_ids)} tokens"
    greedy = dtype != UPSTREAM and _is_greedy(sampling)
    for token, each in zip(token_ids, likelihoods, strict=True):
        if fault := _fault(each, token, top, greedy=greedy):
            return fault
    return None


def _is_greedy(sampling: Sampling) -> bool:
    """Whether the likeliest token is always the chosen one."""
    unpenalised = sampling.repetition_milli == 1_000 and not sampling.frequency_milli and not sampling.presence_milli
    return sampling.temperature_milli == 0 and unpenalised and sampling.constraint is None


def _fault(given: Likelihood, token: int, top: int, *, greedy: bool) -> str | None:
    ids, others = given.token_ids, given.token_ids[1:]
    if len(given.logprobs) != 4 * len(ids) or len(given.pieces) != len(ids):
        return "of which some parts are missing"
    if ids[0] != token:
        return "of another token"
    if len(others) > top:
        return f"of {len(others)} alternatives, where {top} were asked for"
    if len(set(others)) != len(others):
        return "with an alternative given twice"
    chosen, *numbers = unpack_logprobs(given.logprobs)
    if not all(math.isfinite(number) and number <= _MOST for number in (chosen, *numbers)):
        return "that are no logarithms of probabilities"
    if any(one < other for one, other in pairwise(numbers)):
        return "out of order"
    if token in others:
        if numbers[others.index(token)] != chosen:
            return "with two numbers for one token"
    elif numbers and chosen > numbers[-1]:
        return "that leave out the chosen token, which is likelier than others"
    if greedy and numbers and chosen != numbers[0]:
        return "by which the likeliest token was not chosen"
    apart = numbers if token in others else (chosen, *numbers)
    return "that sum to more than 1" if sum(map(math.exp, apart)) > 1 + _ROUNDING else None


# --- receiving ---------------------------------------------------------------------------------------------------


def chosen_of(likelihoods: Sequence[Likelihood]) -> bytes:
    """The chosen tokens' numbers, as a receipt has them."""
    return b"".join(each.logprobs[:4] for each in likelihoods)


def read_likelihood(given: Likelihood, logprob: float) -> TokenLogprob:
    """*logprob* is the chosen token's by the receipt, or as it was streamed."""
    numbers = unpack_logprobs(given.logprobs)
    found = [
        Alternative(id_, _text(piece, special), None if special else piece, min(number, 0.0))
        for at, (id_, piece, number) in enumerate(zip(given.token_ids, given.pieces, numbers, strict=True))
        for special in (bool(given.special >> at & 1),)
    ]
    chosen, *others = found
    return TokenLogprob(chosen.token_id, chosen.token, chosen.data, min(logprob, 0.0), tuple(others))


def _text(piece: bytes, special: bool) -> str:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return piece.decode(errors="replace") if special else "".join(f"\\x{byte:02x}" for byte in piece)


def shown(found: TokenLogprob) -> dict[str, object]:
    """As OpenAI's API has it."""
    return _shown(found) | {"top_logprobs": [_shown(each) for each in found.top]}


def _shown(found: Alternative) -> dict[str, object]:
    data = None if found.data is None else list(found.data)
    return {"token": found.token, "logprob": found.logprob, "bytes": data}
