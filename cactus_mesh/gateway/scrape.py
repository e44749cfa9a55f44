"""``/metrics`` for a node without a gateway: one path, GET alone, on the gateway's own connections."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import trio

from cactus_mesh.errors import AddressMalformed
from cactus_mesh.gateway.connections import open_server
from cactus_mesh.gateway.guard import LOOPBACK_NAMES, host_name, is_loopback
from cactus_mesh.gateway.http import header, reply
from cactus_mesh.gateway.metrics import CONTENT_TYPE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.types import Receive, Scope, Send

CONNECTIONS: Final = 16
"""A few Prometheus servers and a curious person."""
FRESH_SECONDS: Final = 1.0
"""Nobody needs numbers more often; whoever asks more often gets the same ones again."""
PLAIN: Final = "text/plain; charset=utf-8"


def place_of(listen: str) -> tuple[str, int]:
    """Host and port; a port alone is on loopback.  Raises `AddressMalformed`."""
    host, _, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") or "127.0.0.1"
    if not (port.isascii() and port.isdigit() and int(port) <= 65_535):
        raise AddressMalformed(f"metrics are served at HOST:PORT, such as 127.0.0.1:4190, not at {listen!r}")
    return host, int(port)


@asynccontextmanager
async def open_scrape(listen: str, text: Callable[[], bytes]) -> AsyncIterator[str]:
    """Serve what *text* gives until the block is left; yields the URL.  Raises `AddressMalformed` or `PortInUse`."""
    host, port = place_of(listen)
    async with open_server(_Scrape(text, local=is_loopback(host)), host, port, connections=CONNECTIONS) as server:
        name = f"[{host}]" if ":" in host else host
        yield f"http://{name}:{server.port}/metrics"


class _Scrape:
    def __init__(self, text: Callable[[], bytes], *, local: bool) -> None:
        self._text = text
        self._local = local
        self._kept = (b"", float("-inf"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        if self._local and host_name(header(scope, b"host") or "") not in LOOPBACK_NAMES:
            await reply(send, 403, b"not by that name\n", {}, PLAIN)  # what DNS rebinding looks like
        elif scope["path"] != "/metrics":
            await reply(send, 404, b"there is /metrics\n", {}, PLAIN)
        elif scope["method"] not in ("GET", "HEAD"):
            await reply(send, 405, b"GET it\n", {"allow": "GET, HEAD"}, PLAIN)
        else:
            await reply(send, 200, self._fresh(), {}, CONTENT_TYPE)

    def _fresh(self) -> bytes:
        now = trio.current_time()
        if now - self._kept[1] >= FRESH_SECONDS:
            self._kept = self._text(), now
        return self._kept[0]
