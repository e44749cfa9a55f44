"""What may be asked: bounds on prompts, conversations and sampling, checked before anything is signed or sent.

The orchestrator's engine decides in the end; this spares the user a round trip.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from msgspec import UNSET

from cactus_mesh.errors import BadParameters, PromptTooLong
from cactus_mesh.messages import (
    MAX_CONSTRAINT_CHARACTERS,
    MAX_INPUTS,
    MAX_PROMPT_CHARACTERS,
    MAX_TOKENS,
    MAX_TOP_LOGPROBS,
    Chat,
    ChatMessage,
    Sampling,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cactus_mesh.messages import Constraint

_ROLES: Final[dict[str, Literal["assistant", "system", "user"]]] = {
    "system": "system",
    "user": "user",
    "assistant": "assistant",
}


def sampling_of(
    max_tokens: int,
    temperature: float,
    top_p: float,
    top_k: int,
    stop: Sequence[str],
    *,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    frequency_penalty: float = 0.0,
    presence_penalty: float = 0.0,
    constraint: Constraint | None = None,
    top_logprobs: int | None = None,
) -> Sampling:
    """Raises `BadParameters` with the rule that is broken."""
    in_bounds = {
        f"max_tokens must be 1 to {MAX_TOKENS}": 1 <= max_tokens <= MAX_TOKENS,
        "temperature must be 0 to 5": 0 <= temperature <= 5,
        "top_p must be above 0, at most 1": 0 < top_p <= 1,
        "top_k must be 0 (off) or more": 0 <= top_k <= 1_000_000,
        "stop takes at most 8 strings of 1 to 200 characters": len(stop) <= 8
        and all(1 <= len(each) <= 200 for each in stop),
        "min_p must be 0 to 1": 0 <= min_p <= 1,
        "repetition_penalty must be 0.1 to 10": 0.1 <= repetition_penalty <= 10,
        "frequency_penalty must be -2 to 2": -2 <= frequency_penalty <= 2,
        "presence_penalty must be -2 to 2": -2 <= presence_penalty <= 2,
        f"a constraint has 1 to {MAX_CONSTRAINT_CHARACTERS:,} characters": constraint is None
        or 1 <= len(constraint.text) <= MAX_CONSTRAINT_CHARACTERS,
        f"top_logprobs must be a whole number, 0 to {MAX_TOP_LOGPROBS}": top_logprobs is None
        or (type(top_logprobs) is int and 0 <= top_logprobs <= MAX_TOP_LOGPROBS),
    }
    for rule, holds in in_bounds.items():
        if not holds:
            raise BadParameters(rule)
    return Sampling(
        max_tokens=max_tokens,
        temperature_milli=round(temperature * 1_000),
        top_p_milli=max(1, round(top_p * 1_000)),
        top_k=top_k,
        stop=list(stop),
        min_p_milli=round(min_p * 1_000),
        repetition_milli=round(repetition_penalty * 1_000),
        frequency_milli=round(frequency_penalty * 1_000),
        presence_milli=round(presence_penalty * 1_000),
        constraint=constraint,
        top_logprobs=UNSET if top_logprobs is None else top_logprobs,
    )


def short_enough(text: str) -> str:
    """Raises `PromptTooLong`, or `BadParameters` for what is no text."""
    if len(text) > MAX_PROMPT_CHARACTERS:
        raise PromptTooLong(
            f"a prompt has at most {MAX_PROMPT_CHARACTERS:,} characters, this one {len(text):,}; shorten it"
        )
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadParameters("the prompt is not valid text; give it as UTF-8") from None
    return text


def several(texts: Sequence[str]) -> list[str]:
    """Texts that are embedded, classified or ranked together.  Raises as `short_enough`, and `BadParameters`."""
    if isinstance(texts, str) or not 1 <= len(texts) <= MAX_INPUTS:
        raise BadParameters(f"give 1 to {MAX_INPUTS} texts at a time, as a list")
    return [short_enough(text) for text in texts]


def conversation(messages: Sequence[Mapping[str, str]]) -> Chat:
    """Raises as `short_enough`, and `BadParameters` for a role or a number of messages that there is not."""
    turns: list[ChatMessage] = []
    for message in messages:
        role = _ROLES.get(message.get("role", ""))
        if role is None:
            raise BadParameters(f"a message's role is one of {', '.join(_ROLES)}, not {message.get('role')!r}")
        turns.append(ChatMessage(role, short_enough(message.get("content", ""))))
    if not 1 <= len(turns) <= 256:
        raise BadParameters("a conversation has 1 to 256 messages")
    return Chat(turns)
