"""``/v1/responses``: OpenAI's newer shape around the same tasks.  Nothing is stored, so nothing is continued by id."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from cactus_mesh.gateway.asked import (
    Asked,
    Parameters,
    malformed,
    message_of,
    model_of,
    options_of,
    shown,
    take_format,
    take_logprobs,
    unsupported,
)
from cactus_mesh.gateway.replies import cactus, sse

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cactus_mesh.answer import Result
    from cactus_mesh.core.likelihoods import TokenLogprob
    from cactus_mesh.gateway.logprobs import Tokens

LOGPROBS: Final = "message.output_text.logprobs"
"""What to include for log-probabilities."""


def response_of(body: Mapping[str, Any]) -> Asked:
    """Raises a `Fault` that names the parameter."""
    given = Parameters(body)
    asked = given.any("input")
    items = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
    if not isinstance(items, list) or not items:
        raise malformed("input", "must be a text or a list of messages")
    work = [message_of(_message(item), f"input[{at}]") for at, item in enumerate(items)]
    instructions = given.take("instructions", str)
    if instructions is not None:
        work.insert(0, {"role": "system", "content": instructions})
    options = options_of(given, "max_output_tokens")
    included = given.any("include") or []
    if included not in ([], [LOGPROBS]):
        raise unsupported("include", f" {shown(included)}")
    take_logprobs(given, options, wanted=bool(included), by=f"include {LOGPROBS}")
    text = Parameters(given.take("text", dict, {}))
    wanted = text.any("format")
    if isinstance(wanted, dict) and wanted.get("type") == "json_schema":  # flat here, nested in chats
        wanted = {"type": "json_schema", "json_schema": wanted}
    take_format(wanted, options)
    text.finish()
    model, stream = model_of(given), given.take("stream", bool, False)
    given.finish()
    return Asked(model, work, options, stream, False)


def _message(item: object) -> object:
    """Without what marks it as a message and as one that was answered before."""
    if isinstance(item, dict) and item.get("type", "message") == "message":
        return {name: value for name, value in item.items() if name not in ("type", "id", "status")}
    return item


@dataclass(slots=True)
class Response:
    """The shape of one reply, whole or as events."""

    model: str
    task_id: bytes
    tokens: Tokens | None = None
    created: int = field(default_factory=lambda: int(time.time()))
    error_event: str = "error"
    _number: int = 0
    _told: list[dict[str, Any]] = field(default_factory=list)

    def whole(self, result: Result) -> dict[str, object]:
        if self.tokens is not None:
            self._tell(self.tokens.whole(result.text, result.logprobs or (), result.finish))
        return self._object(result)

    def first(self) -> list[bytes]:
        begun = self._object(None)
        return [
            self._event("response.created", response=begun),
            self._event("response.in_progress", response=begun),
            self._event("response.output_item.added", output_index=0, item=self._item(None, "in_progress")),
            self._event("response.content_part.added", **self._place(), part=self._part("")),
        ]

    def piece(self, text: str, tokens: Sequence[TokenLogprob]) -> bytes:
        told = self._tell(self.tokens.take(text, tokens)) if self.tokens is not None else []
        return self._said(text, told) if text or told else b""

    def _said(self, text: str, told: list[dict[str, Any]]) -> bytes:
        return self._event("response.output_text.delta", **self._place(), delta=text, logprobs=told)

    def _tell(self, told: dict[str, Any] | None) -> list[dict[str, Any]]:
        """As chats have them; here what has no bytes has an empty list of them."""
        found: list[dict[str, Any]] = [] if told is None else told["content"]
        for token in found:
            for each in (token, *token["top_logprobs"]):
                each["bytes"] = each["bytes"] or []
        self._told += found
        return found

    def last(self, result: Result) -> list[bytes]:
        text, status = result.text, _status(result)
        rest = self._tell(self.tokens.end(result.finish)) if self.tokens is not None else []
        return [
            *([self._said("", rest)] if rest else []),
            self._event("response.output_text.done", **self._place(), text=text, logprobs=self._told),
            self._event("response.content_part.done", **self._place(), part=self._part(text)),
            self._event("response.output_item.done", output_index=0, item=self._item(text, status)),
            self._event(f"response.{status}", response=self._object(result)),
        ]

    def _event(self, kind: str, **data: object) -> bytes:
        self._number += 1
        return sse({"type": kind, "sequence_number": self._number - 1, **data}, event=kind)

    def _place(self) -> dict[str, object]:
        return {"item_id": f"msg_{self.task_id.hex()}", "output_index": 0, "content_index": 0}

    def _item(self, text: str | None, status: str) -> dict[str, object]:
        content = [] if text is None else [self._part(text)]
        return {
            "id": f"msg_{self.task_id.hex()}",
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": content,
        }

    def _part(self, text: str) -> dict[str, object]:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": self._told}

    def _object(self, result: Result | None) -> dict[str, object]:
        done = {} if result is None else {"usage": _usage(result), "cactus": cactus(result)}
        cut = result is not None and result.finish == "length"
        return {
            "id": f"resp_{self.task_id.hex()}",
            "object": "response",
            "created_at": self.created,
            "model": self.model,
            "status": "in_progress" if result is None else _status(result),
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": [] if result is None else [self._item(result.text, _status(result))],
            "parallel_tool_calls": False,
            "tool_choice": "none",
            "tools": [],
            "store": False,
            "metadata": {},
            **done,
        }


def _status(result: Result) -> str:
    return "incomplete" if result.finish == "length" else "completed"


def _usage(result: Result) -> dict[str, object]:
    made = len(result.token_ids)
    return {
        "input_tokens": result.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": made,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": result.prompt_tokens + made,
    }
