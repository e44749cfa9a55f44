"""A mesh in memory with the gateway's real sockets before it, on the real clock."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import httpx
import pytest
import trio

from cactus_mesh.config import ClientConfig, GatewayConfig
from cactus_mesh.errors import MeshError
from cactus_mesh.gateway.server import open_gateway
from cactus_mesh.testing.engine import FAKE_MODEL, FakeEngine
from tests.world import World, open_world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from cactus_mesh.client import Client

READY_SECONDS = 20


@dataclass(frozen=True)
class Site:
    """A gateway, what is behind it, and an HTTP client for it."""

    url: str
    client: Client
    engine: FakeEngine
    world: World
    http: httpx.AsyncClient

    async def chat(self, **changes: object) -> httpx.Response:
        return await self.http.post("/v1/chat/completions", json=ask(**changes))

    async def idle(self) -> None:
        """Until the engine has nothing to do."""
        await until(lambda: not self.engine.running)

    async def busy(self, generations: int = 1) -> None:
        await until(lambda: self.engine.running >= generations)


async def until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Look until it holds; what is waited for has no event of its own."""
    with trio.fail_after(READY_SECONDS):
        while True:
            found = condition()
            if found is True or (not isinstance(found, bool) and await found):
                return
            await trio.sleep(0.01)


VECTORS = "[[0.600000024, -0.800000012], [1, 0]]"
EMBEDDER = replace(FAKE_MODEL, name="embedder", kinds=("embed",))


class Wire:
    """A TCP connection that says what it is told to, byte by byte."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.heard = bytearray()

    async def say(self, text: bytes) -> None:
        await self.stream.send_all(text)

    async def post(self, body: dict[str, object], path: str = "/v1/chat/completions") -> None:
        raw = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        await self.say(head.encode() + f"Content-Length: {len(raw)}\r\n\r\n".encode() + raw)

    async def hear(self, text: bytes) -> bytes:
        """Everything so far, once *text* is in it."""
        with trio.fail_after(20):
            while text not in self.heard:
                piece = await self.stream.receive_some(65_536)
                assert piece, f"closed before {text!r}: {bytes(self.heard)!r}"
                self.heard += piece
        return bytes(self.heard)

    async def to_the_end(self) -> bytes:
        with trio.fail_after(30):
            async for piece in self.stream:
                self.heard += piece
        return bytes(self.heard)


@asynccontextmanager
async def open_wire(site: Site) -> AsyncIterator[Wire]:
    port = int(site.url.rpartition(":")[2])
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        yield Wire(stream)


def ask(**changes: object) -> dict[str, object]:
    return {"model": "fake", "messages": [{"role": "user", "content": "What is a router?"}], **changes}


@asynccontextmanager
async def open_site(
    engine: FakeEngine | None = None,
    *,
    config: GatewayConfig | None = None,
    client_config: ClientConfig | None = None,
    keys_file: Path | None = None,
    deposit: int = 10**9,
) -> AsyncIterator[Site]:
    engine = engine or FakeEngine()
    async with open_world() as world:
        await world.orchestrator(engine=engine)  # first, so that the router finds it as it looks around at once
        await world.router()
        client = await world.client(config=client_config, deposit=deposit)
        await until(partial(listed, client))
        async with (
            open_gateway(client, config or GatewayConfig(port=0), keys_file) as gateway,
            httpx.AsyncClient(base_url=gateway.url, timeout=30) as http,
        ):
            yield Site(gateway.url, client, engine, world, http)


async def listed(client: Client) -> bool:
    try:
        return bool(await client.models())
    except MeshError:
        return False


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with open_site() as opened:
        yield opened
