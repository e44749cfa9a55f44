"""The HTTP client for a ledger's URL: bounded, and quick to make where there is nothing to encrypt."""

from __future__ import annotations

import ssl
from typing import Final

import httpx

from cactus_mesh.errors import LedgerDown

REQUEST_SECONDS: Final = 10.0
MAX_CONNECTIONS: Final = 16
"""To one node: fifty transactions take four turns.  The pool's own work grows with the square of it."""
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})


class _Body(httpx.AsyncByteStream):
    """A request's body in one piece; httpx's own is an async generator, which a cancelled request leaves unfinished."""

    def __init__(self, data: bytes) -> None:
        self._pieces = iter((data,))

    def __aiter__(self) -> _Body:
        return self

    async def __anext__(self) -> bytes:
        for piece in self._pieces:
            return piece
        raise StopAsyncIteration


async def _one_piece(request: httpx.Request) -> None:
    request.stream = _Body(await request.aread())


def base_url(url: str) -> str:
    """*url* without the ``/v1`` and the slash that people may or may not write.  Raises `LedgerDown`."""
    base = url.rstrip("/").removesuffix("/v1")
    try:
        parsed = httpx.URL(base)
    except httpx.InvalidURL as error:
        raise LedgerDown(f"{url!r} is no URL of a ledger ({error}); correct ledger in the configuration") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise LedgerDown(f"{url!r} is no URL of a ledger: it must begin with http:// or https:// and name a host")
    return base


def http_client(base: str, transport: httpx.AsyncBaseTransport | None = None) -> httpx.AsyncClient:
    """*transport* replaces the network."""
    url = httpx.URL(base)
    return httpx.AsyncClient(
        base_url=base,
        event_hooks={"request": [_one_piece]},
        timeout=REQUEST_SECONDS,
        limits=httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_CONNECTIONS),
        trust_env=url.host not in _LOOPBACK,  # no proxy reaches our own loopback
        # loading the certificates takes a tenth of a second
        verify=True if url.scheme == "https" else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        transport=transport,
    )
