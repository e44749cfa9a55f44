"""What an OpenAI-compatible server is asked: our work and sampling in its words.  Pure.

Fields that are not OpenAI's own are sent only when they matter: servers that do not know them refuse.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from msgspec import UNSET

from cactus_mesh.errors import BadParameters
from cactus_mesh.messages import Chat, Generate

if TYPE_CHECKING:
    from cactus_mesh.messages import Constraint, Sampling, Work


def path_of(work: Work) -> str:
    return "chat/completions" if isinstance(work, Chat) else "completions"


def body_of(model: str, work: Work, sampling: Sampling, seed: bytes) -> dict[str, Any]:
    """Stop strings are not passed on: they are looked for here, so that the end says whether there was one.

    Raises `BadParameters`.
    """
    body: dict[str, Any] = {
        "model": model,
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature_milli / 1000,
        "seed": int.from_bytes(seed[:4], "little") >> 1,  # some servers take 31 bits
        **_asked(work),
    }
    defaults = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
    defaults |= {"frequency_penalty": 0.0, "presence_penalty": 0.0}
    wanted = {
        "top_p": sampling.top_p_milli / 1000,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p_milli / 1000,
        "repetition_penalty": sampling.repetition_milli / 1000,
        "frequency_penalty": sampling.frequency_milli / 1000,
        "presence_penalty": sampling.presence_milli / 1000,
    }
    body |= {name: value for name, value in wanted.items() if value != defaults[name]}
    body |= _told(work, sampling)
    if sampling.constraint is not None:
        body["response_format"] = _format(sampling.constraint)
    return body


def _asked(work: Work) -> dict[str, Any]:
    if isinstance(work, Chat):
        return {"messages": [{"role": message.role, "content": message.content} for message in work.messages]}
    assert isinstance(work, Generate)
    return {"prompt": work.prompt}


def _told(work: Work, sampling: Sampling) -> dict[str, Any]:
    """A chat's log-probabilities are asked for in other words than a plain text's."""
    top = sampling.top_logprobs
    if top is UNSET:
        return {}
    if not isinstance(work, Chat):
        return {"logprobs": top}
    return {"logprobs": True, "top_logprobs": top} if top else {"logprobs": True}


def _format(constraint: Constraint) -> dict[str, Any]:
    if constraint.kind == "regex":
        raise BadParameters("the server behind this orchestrator takes JSON schemas and no regular expressions")
    try:
        schema = json.loads(constraint.text)
    except ValueError as error:
        raise BadParameters(f"this json_schema cannot be used: {error}") from None
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
