"""Runs the library's services (DHT, pubsub) so that a failure of one small task of theirs stays small."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import trio
from libp2p.tools.anyio_service.api import InternalManagerAPI
from libp2p.tools.anyio_service.stats import Stats, TaskStats

from cactus_mesh.concurrency import open_service_nursery

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from libp2p.tools.anyio_service.api import AsyncFn, ServiceAPI

log = logging.getLogger(__name__)


@asynccontextmanager
async def open_service(service: ServiceAPI) -> AsyncIterator[None]:
    """Run *service* until the block is left.  When its main task or a daemon fails, so does the block."""
    async with open_service_nursery() as nursery:
        manager = _Manager(nursery)
        service._manager = manager
        nursery.start_soon(service.run)
        try:
            yield
        finally:
            manager.cancel()


class _Manager(InternalManagerAPI):
    """The library's own manager searches all tasks for each new one, and lets any failure end the whole host."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._finished = trio.Event()

    is_started = property(lambda self: True)
    is_running = property(lambda self: not self._finished.is_set())
    is_cancelled = property(lambda self: self._finished.is_set())
    is_finished = property(lambda self: self._finished.is_set())
    did_error = property(lambda self: False)
    stats = property(lambda self: Stats(tasks=TaskStats(total_count=0, finished_count=0)))

    def cancel(self) -> None:
        self._finished.set()

    async def stop(self) -> None:
        self.cancel()
        await trio.lowlevel.checkpoint()

    async def wait_started(self) -> None:
        await trio.lowlevel.checkpoint()

    async def wait_finished(self) -> None:
        await self._finished.wait()

    @classmethod
    async def run_service(cls, service: ServiceAPI) -> NoReturn:
        raise AssertionError("services are run by open_service")

    async def run(self) -> NoReturn:
        raise AssertionError("services are run by open_service")

    def run_task(self, async_fn: AsyncFn, *args: Any, daemon: bool = False, name: str | None = None) -> None:
        self._nursery.start_soon(async_fn if daemon else _guarded, *(args if daemon else (async_fn, *args)), name=name)

    def run_daemon_task(self, async_fn: AsyncFn, *args: Any, name: str | None = None) -> None:
        self.run_task(async_fn, *args, daemon=True, name=name)

    def run_child_service(self, service: ServiceAPI, daemon: bool = False, name: str | None = None) -> NoReturn:
        raise AssertionError("none of the services used here has children")

    def run_daemon_child_service(self, service: ServiceAPI, name: str | None = None) -> NoReturn:
        self.run_child_service(service)


async def _guarded(async_fn: AsyncFn, *args: Any) -> None:
    try:
        await async_fn(*args)
    except Exception as error:
        log.warning("a task of the library failed", extra={"service": str(async_fn)}, exc_info=error)
