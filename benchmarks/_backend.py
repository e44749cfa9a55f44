"""A server with OpenAI's API that always answers the same: what proxies are measured in front of.

``python -m benchmarks._backend`` prints its port, and ends with its standard input.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
import trio

from cactus_mesh.gateway.connections import open_server
from cactus_mesh.gateway.http import read_body, reply, start
from cactus_mesh.lifetime import open_lifetime
from cactus_mesh.testing.engine import FAKE_TEXT

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

CONNECTIONS: Final = 1_024
_HEAD: Final = {"id": "chatcmpl-fixed", "created": 0, "model": "fake"}
_USAGE: Final = {"prompt_tokens": 5, "completion_tokens": 16, "total_tokens": 21}


def _whole() -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": FAKE_TEXT}, "finish_reason": "stop"}
    return msgspec.json.encode({**_HEAD, "object": "chat.completion", "choices": [choice], "usage": _USAGE})


def _chunk(delta: object, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    body = msgspec.json.encode({**_HEAD, "object": "chat.completion.chunk", "choices": [choice]})
    return b"data: " + body + b"\n\n"


_PIECES: Final = [
    _chunk({"role": "assistant", "content": ""}),
    *(_chunk({"content": f"{word} "}) for word in FAKE_TEXT.split()),
    _chunk({}, "stop") + b"data: [DONE]\n\n",
]


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    asked = msgspec.json.decode(await read_body(scope, receive))
    if not asked.get("stream"):
        await reply(send, 200, _whole(), {})
        return
    await start(send, 200, {"content-type": "text/event-stream"})
    for piece in _PIECES:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def main() -> None:
    async with (
        open_lifetime(stdin_too=True) as lifetime,
        open_server(app, "127.0.0.1", 0, connections=CONNECTIONS) as server,
    ):
        print(server.port, flush=True)
        await lifetime.serving()


if __name__ == "__main__":
    trio.run(main)
