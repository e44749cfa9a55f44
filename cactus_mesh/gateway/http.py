"""Small ASGI pieces: reading a body within its bounds, writing a reply, and noticing that the client has gone."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio

from cactus_mesh.concurrency import open_service_nursery
from cactus_mesh.errors import RequestMalformed, RequestTooLarge, RequestTooSlow

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from starlette.types import Receive, Scope, Send

BODY_BYTES: Final = 2 << 20
"""A prompt of the largest size that the mesh takes, with every character escaped."""
BODY_SECONDS: Final = 30.0
"""For the whole body, however it drips."""


class ClientGone(Exception):
    """Nobody is there to answer."""


def header(scope: Scope, name: bytes) -> str | None:
    """The value, None without one, and the values of several with commas between them."""
    found = [value.decode("latin-1") for key, value in scope["headers"] if key == name]
    return ", ".join(found) if found else None


async def read_body(scope: Scope, receive: Receive) -> bytes:
    """Raises `RequestTooLarge`, `RequestTooSlow` or `ClientGone`."""
    declared = header(scope, b"content-length")
    if declared is not None and declared.isdigit() and int(declared) > BODY_BYTES:
        raise _too_large()
    body = bytearray()
    try:
        with trio.fail_after(BODY_SECONDS):
            while True:
                event = await receive()
                if event["type"] == "http.disconnect":
                    raise ClientGone
                body += event.get("body", b"")
                if len(body) > BODY_BYTES:
                    raise _too_large()
                if not event.get("more_body", False):
                    return bytes(body)
    except trio.TooSlowError:
        raise RequestTooSlow(f"the request's body did not come within {BODY_SECONDS:.0f} s; send it at once") from None


def _too_large() -> RequestTooLarge:
    return RequestTooLarge(f"a request's body has at most {BODY_BYTES:,} bytes; shorten the prompt")


def json_of(body: bytes) -> dict[str, Any]:
    """Raises `RequestMalformed`."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestMalformed(f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise RequestMalformed("the body must be a JSON object")
    return value


async def reply(
    send: Send, status: int, body: bytes, headers: Mapping[str, str], content_type: str = "application/json"
) -> None:
    await start(send, status, {"content-type": content_type, "content-length": str(len(body)), **headers})
    await send({"type": "http.response.body", "body": body})


async def start(send: Send, status: int, headers: Mapping[str, str]) -> None:
    raw = [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})


@asynccontextmanager
async def while_listening(receive: Receive) -> AsyncIterator[None]:
    """Cancels the block when the client goes away, which then ends without an error.

    Only once its body has been read: what a client sends after that is ignored.
    """
    async with open_service_nursery() as nursery:

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            nursery.cancel_scope.cancel()

        nursery.start_soon(watch)
        yield
