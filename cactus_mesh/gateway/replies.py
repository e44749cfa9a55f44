"""OpenAI's objects around what the mesh gave.  Beside them stands ``cactus``: who did it and what it cost."""

from __future__ import annotations

import base64
import struct
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec

from cactus_mesh.errors import ProtocolViolation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cactus_mesh.answer import Answer, Result
    from cactus_mesh.core.likelihoods import TokenLogprob
    from cactus_mesh.gateway.logprobs import Tokens
    from cactus_mesh.messages import Listed

OWNER: Final = "cactus-mesh"
DONE: Final = b"data: [DONE]\n\n"
KEEP_ALIVE: Final = b": still working\n\n"
_FINISH: Final = {"cancelled": "stop", "length": "length", "stop": "stop", "stop_string": "stop"}


def encode(value: object) -> bytes:
    return msgspec.json.encode(value)


def sse(value: object, event: str = "") -> bytes:
    name = f"event: {event}\n".encode() if event else b""
    return name + b"data: " + encode(value) + b"\n\n"


def usage(result: Result) -> dict[str, int]:
    made = len(result.token_ids)
    return {
        "prompt_tokens": result.prompt_tokens,
        "completion_tokens": made,
        "total_tokens": result.prompt_tokens + made,
    }


def cactus(result: Result) -> dict[str, object]:
    """Everything that `Result.summary` has beside the text."""
    return {name: value for name, value in result.summary().items() if name not in ("text", "tokens", "finish")}


def task_headers(answer: Answer, orchestrator: str, overhead_ms: float, result: Result | None) -> dict[str, str]:
    task = answer.task_id.hex()
    headers = {
        "x-request-id": task,
        "x-cactus-task-id": task,
        "x-cactus-orchestrator": orchestrator,
        "x-cactus-max-price-octas": str(answer.max_price),
        "x-cactus-overhead-ms": f"{overhead_ms:.2f}",
    }
    if result is not None:
        headers |= {"x-cactus-router": result.router, "x-cactus-price-octas": str(result.price)}
    return headers


@dataclass(frozen=True, slots=True)
class Completion:
    """The shape of one reply, whole or in chunks; *chat* or plain completion.  *tokens* where they are asked for."""

    chat: bool
    model: str
    task_id: bytes
    include_usage: bool = False
    tokens: Tokens | None = None
    created: int = field(default_factory=lambda: int(time.time()))
    error_event: str = ""

    def whole(self, result: Result) -> dict[str, object]:
        text: dict[str, Any] = (
            {"message": {"role": "assistant", "content": result.text, "refusal": None}}
            if self.chat
            else {"text": result.text}
        )
        told = None if self.tokens is None else self.tokens.whole(result.text, result.logprobs or (), result.finish)
        choice = {"index": 0, **text, "finish_reason": _FINISH[result.finish], "logprobs": told}
        return self._object([choice], streamed=False) | {"usage": usage(result), "cactus": cactus(result)}

    def first(self) -> list[bytes]:
        """What comes before any text."""
        return [self._chunk({"role": "assistant", "content": ""}, None)] if self.chat else []

    def piece(self, text: str, tokens: Sequence[TokenLogprob]) -> bytes:
        told = None if self.tokens is None else self.tokens.take(text, tokens)
        return self._said(text, told) if text or told else b""

    def last(self, result: Result) -> list[bytes]:
        told = None if self.tokens is None else self.tokens.end(result.finish)
        rest = [self._said("", told)] if told else []
        end = self._chunk({} if self.chat else "", _FINISH[result.finish], cactus=cactus(result))
        if not self.include_usage:
            return [*rest, end, DONE]
        return [*rest, end, sse(self._object([], streamed=True) | {"usage": usage(result)}), DONE]

    def _said(self, text: str, told: dict[str, Any] | None) -> bytes:
        return self._chunk({"content": text} if self.chat else text, None, told)

    def _chunk(self, delta: object, finish: str | None, told: dict[str, Any] | None = None, **more: object) -> bytes:
        text = {"delta": delta} if self.chat else {"text": delta}
        choice = {"index": 0, **text, "finish_reason": finish, "logprobs": told}
        chunk = self._object([choice], streamed=True) | more
        return sse(chunk | {"usage": None} if self.include_usage else chunk)

    def _object(self, choices: Sequence[object], *, streamed: bool) -> dict[str, object]:
        kind = "chat.completion" if self.chat else "text_completion"
        return {
            "id": f"{'chatcmpl' if self.chat else 'cmpl'}-{self.task_id.hex()}",
            "object": f"{kind}.chunk" if streamed and self.chat else kind,
            "created": self.created,
            "model": self.model,
            "choices": list(choices),
        }


@dataclass(frozen=True, slots=True)
class Vectors:
    """The shape of a reply of ``/v1/embeddings``, for so many texts."""

    model: str
    texts: int
    base64: bool

    def whole(self, result: Result) -> dict[str, object]:
        """Raises `ProtocolViolation` when there is not one vector of numbers for each text."""
        vectors = result.vectors()
        if len(vectors) != self.texts:
            raise ProtocolViolation(f"{len(vectors)} vectors came for {self.texts} texts; ask again")
        return {
            "object": "list",
            "model": self.model,
            "data": [
                {"object": "embedding", "index": at, "embedding": _packed(vector) if self.base64 else vector}
                for at, vector in enumerate(vectors)
            ],
            "usage": {"prompt_tokens": result.prompt_tokens, "total_tokens": result.prompt_tokens},
            "cactus": cactus(result),
        }


def _packed(vector: Sequence[float]) -> str:
    """Little-endian singles, which is what the official clients ask for."""
    try:
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    except (OverflowError, struct.error):
        raise ProtocolViolation("a vector's numbers are out of bounds; ask again") from None


def model_object(listed: Listed) -> dict[str, object]:
    offer = listed.offer
    return {
        "id": offer.name,
        "object": "model",
        "created": 0,  # nobody vouches for a date
        "owned_by": OWNER,
        "cactus": {
            "digest": offer.digest.hex(),
            "dtype": offer.dtype,
            "context_tokens": offer.context_tokens,
            "kinds": list(offer.kinds),
            "orchestrators": listed.orchestrators,
            "price_octas": msgspec.to_builtins(offer.price),
            "dearest_price_octas": msgspec.to_builtins(listed.dearest),
        },
    }
