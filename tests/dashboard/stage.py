"""A mesh in memory with real sockets of a gateway, in a thread of its own, and a picture that tests can paint over."""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from cactus_mesh.book import open_book
from cactus_mesh.client import open_client_role
from cactus_mesh.concurrency import open_service_nursery
from cactus_mesh.config import ClientConfig, Config, GatewayConfig
from cactus_mesh.gateway.server import open_gateway
from cactus_mesh.heard import heard_network
from cactus_mesh.live import Sources, TaskTable, open_live, watching
from cactus_mesh.portal import Portal
from cactus_mesh.testing.engine import FakeEngine
from tests.gateway.conftest import listed, until
from tests.world import DEPOSIT, clock, identity, open_world, seconds

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from cactus_mesh.client import Client
    from cactus_mesh.live import Live
    from tests.world import World


@dataclass
class Painted:
    """What is live, with *over* painted over its parts and *written* over its texts."""

    live: Live
    over: dict[str, Any] = field(default_factory=dict)
    written: dict[str, str] = field(default_factory=dict)

    async def fresh(self) -> dict[str, Any]:
        return await self.live.fresh() | self.over

    def snapshot(self) -> dict[str, Any]:
        return self.live.snapshot() | self.over

    def texts(self) -> dict[str, str]:
        return self.live.texts() | self.written


@dataclass
class Stage:
    world: World
    client: Client
    engine: FakeEngine
    picture: Painted
    keys_file: Path | None
    nursery: trio.Nursery
    url: str = ""
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    stopped: trio.Event = field(default_factory=trio.Event)

    async def start(self, *, config: GatewayConfig | None = None) -> str:
        port = int(self.url.rpartition(":")[2]) if self.url else 0
        self.scope, self.stopped = trio.CancelScope(), trio.Event()
        self.url = await self.nursery.start(self._serve, config or GatewayConfig(port=port))
        return self.url

    async def stop(self) -> None:
        self.scope.cancel()
        await self.stopped.wait()

    async def _serve(self, config: GatewayConfig, *, task_status: trio.TaskStatus[str]) -> None:
        with self.scope:
            async with open_gateway(self.client, config, self.keys_file, picture=self.picture) as gateway:
                task_status.started(gateway.url)
                await trio.sleep_forever()
        self.stopped.set()


@asynccontextmanager
async def open_stage(
    engine: FakeEngine | None = None,
    *,
    keys_file: Path | None = None,
    config: GatewayConfig | None = None,
    deposit: int = DEPOSIT,
) -> AsyncIterator[Stage]:
    engine = engine or FakeEngine(delay_seconds=0.02)
    async with open_world() as world:
        stack = world.stack  # what is opened last must be closed first, and the roles are opened on this one
        await world.orchestrator(engine=engine)
        await world.router()
        me, tasks = identity("client"), TaskTable()
        world.ledger.deposit_for(me, deposit)
        network = heard_network(world.mesh.join(me), [watching(tasks)])
        settings = ClientConfig(model="fake")
        client = await stack.enter_async_context(open_client_role(me, network, world.ledger, settings, clock))
        sources = Sources(
            identity=me,
            config=Config(client=settings),
            network=network,
            ledger=world.ledger,
            book=stack.enter_context(open_book(None)),
            tasks=tasks,
            roles=("client",),
            started_at=seconds(),
            spent_today=client.spent_today,
        )
        live = await stack.enter_async_context(open_live(sources))
        await until(partial(listed, client))
        nursery = await stack.enter_async_context(open_service_nursery())
        stage = Stage(world, client, engine, Painted(live), keys_file, nursery)
        await stage.start(config=config)
        yield stage


class Theatre:
    """A stage in a thread of its own, for tests that block."""

    def __init__(self, portal: Portal[Stage]) -> None:
        self._portal = portal
        self.stage = portal.ready.result(30)

    @property
    def url(self) -> str:
        return self.stage.url

    def do(self, function: Any, *args: object) -> Any:
        """Run an async *function* over there, and wait for it."""
        return self._portal.submit(function, *args).result(30)


@contextmanager
def open_theatre(**given: Any) -> Iterator[Theatre]:
    portal = Portal(partial(open_stage, **given))
    try:
        yield Theatre(portal)
    finally:
        portal.close()
        portal.ended.result(30)
