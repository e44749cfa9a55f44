"""What a user may say about a task, put together with the configuration into one `Ask`; knows nothing of routers."""

from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING, Final, TypedDict

from cactus_mesh.answer import Ask
from cactus_mesh.core.prompts import sampling_of
from cactus_mesh.errors import BadParameters, PriceOverBudget
from cactus_mesh.messages import MAX_TOKENS, MAX_VALIDITY_MS, Chat, Constraint, Generate, kind_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cactus_mesh.config import ClientConfig
    from cactus_mesh.messages import Sampling, Work


PIECES_PER_TEXT: Final = 24
"""For vectors of up to 1,300 numbers; whoever asks a larger model is told how many it takes."""


class Options(TypedDict, total=False):
    """Everything that may be left out.  The configuration's ``[client]`` says what holds then."""

    task_id: bytes
    """16 bytes, random unless given: a task is never paid twice, so neither is one that is asked again."""
    model_digest: bytes | None
    """Only this very model; without it the name means what most stake stands behind."""
    max_tokens: int | None
    temperature: float
    """0, which is also the default, always takes the likeliest token."""
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    frequency_penalty: float
    presence_penalty: float
    stop: Sequence[str]
    json_schema: Mapping[str, object] | str | None
    """The text will be JSON of this schema."""
    regex: str | None
    """The text will match this regular expression."""
    top_logprobs: int | None
    """Tell how likely each token was, and so many, 0 to 20, that were likeliest in its place."""
    max_price: int | None
    """The most that the task may cost, in octas."""
    deadline_seconds: float | None


def pieces_for(options: Options, texts: int) -> Options:
    """*options* with room for the answer about so many texts, which is JSON in pieces of 1,000 characters."""
    if options.get("max_tokens") is not None:
        return options
    return {**options, "max_tokens": min(MAX_TOKENS, PIECES_PER_TEXT * texts)}


def ask_of(model: str, work: Work, options: Options, config: ClientConfig, now_ms: int) -> Ask:
    """Raises `BadParameters` or `PriceOverBudget` for what no router would take; TypeError for an unknown option."""
    unknown = sorted(set(options) - Options.__optional_keys__)
    if unknown:
        raise TypeError(f"there is no option {unknown[0]!r}; there are {', '.join(sorted(Options.__optional_keys__))}")
    if not 1 <= len(model) <= 200:
        raise BadParameters("a model's name has 1 to 200 characters")
    if options.get("top_logprobs") is not None and not isinstance(work, Chat | Generate):
        raise BadParameters(f"top_logprobs is for texts that are continued; leave it out to {kind_of(work)}")
    task_id = options.get("task_id")
    if task_id is not None and len(task_id) != 16:
        raise BadParameters("a task id has 16 bytes")
    return Ask(
        task_id or secrets.token_bytes(16),
        model,
        options.get("model_digest"),
        work,
        _sampling(options, config),
        _price(options, config),
        now_ms + int(seconds_of(options, config) * 1_000),
    )


def seconds_of(options: Options, config: ClientConfig) -> float:
    given = options.get("deadline_seconds")
    seconds = config.deadline_seconds if given is None else given
    if not 0 < seconds * 1_000 < MAX_VALIDITY_MS:
        raise BadParameters(f"a deadline is more than 0 and at most {MAX_VALIDITY_MS // 1_000} s away")
    return seconds


def _price(options: Options, config: ClientConfig) -> int:
    given = options.get("max_price")
    price = config.max_price if given is None else given
    if not 0 <= price < 2**63:
        raise PriceOverBudget("a maximum price is a number of octas, 0 or more")
    return price


def _sampling(options: Options, config: ClientConfig) -> Sampling:
    most = options.get("max_tokens")
    return sampling_of(
        config.max_tokens if most is None else most,
        options.get("temperature", 0.0),
        options.get("top_p", 1.0),
        options.get("top_k", 0),
        options.get("stop", ()),
        min_p=options.get("min_p", 0.0),
        repetition_penalty=options.get("repetition_penalty", 1.0),
        frequency_penalty=options.get("frequency_penalty", 0.0),
        presence_penalty=options.get("presence_penalty", 0.0),
        constraint=_constraint(options),
        top_logprobs=options.get("top_logprobs"),
    )


def _constraint(options: Options) -> Constraint | None:
    schema, regex = options.get("json_schema"), options.get("regex")
    if schema is not None and regex is not None:
        raise BadParameters("give json_schema or regex, not both")
    if schema is not None:
        return Constraint("json_schema", schema if isinstance(schema, str) else json.dumps(schema))
    return Constraint("regex", regex) if regex is not None else None
