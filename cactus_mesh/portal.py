"""A trio loop in a thread of its own, for programs that run on asyncio or on no loop at all.

A thread, not trio's guest mode: it works with every event loop, and what the network does never waits for the caller's.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import TYPE_CHECKING, Generic, TypeVar

import trio

from cactus_mesh.concurrency import open_service_nursery

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

T = TypeVar("T")
R = TypeVar("R")


class Portal(Generic[R]):
    """Opens something in its own thread and does there what other threads ask.  All methods are thread-safe.

    `ready` becomes what was opened, or the error that it was not.  Cancelling `ready` gives the opening up.
    """

    def __init__(self, opened: Callable[[], AbstractAsyncContextManager[R]]) -> None:
        self.ready: Future[R] = Future()
        self.ended: Future[None] = Future()
        self._opened = opened
        self._stop: trio.Event | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._nursery: trio.Nursery | None = None
        self._thread = threading.Thread(target=self._run, name="cactus-mesh", daemon=True)
        self._thread.start()

    def submit(self, function: Callable[..., Awaitable[T]], *args: object) -> Future[T]:
        """Run ``function(*args)`` over there.  Cancelling the future cancels it, without waiting for its end."""
        future: Future[T] = Future()
        assert self._token is not None, "ready comes first"
        try:
            self._token.run_sync_soon(self._start, function, args, future)
        except trio.RunFinishedError:
            future.set_exception(RuntimeError("this client is closed"))
        return future

    def close(self) -> None:
        """Begin to close; `ended` tells when it is done.  May be called again."""
        self.ready.cancel()
        self._soon(lambda: None if self._stop is None else self._stop.set())

    # --- in the thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            trio.run(self._main)
        except BaseException as error:
            if not self._settle(self.ready, error=error):
                self._settle(self.ended, error=error)
        finally:
            self._settle(self.ended)

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._stop = trio.Event()
        opening = trio.CancelScope()
        self.ready.add_done_callback(lambda ready: self._soon(opening.cancel) if ready.cancelled() else None)
        with opening:
            async with self._opened() as opened, open_service_nursery() as nursery:
                self._nursery = nursery
                if self._settle(self.ready, opened):
                    await self._stop.wait()

    def _start(self, function: Callable[..., Awaitable[T]], args: tuple[object, ...], future: Future[T]) -> None:
        if self._nursery is None or (self._stop is not None and self._stop.is_set()):
            self._settle(future, error=RuntimeError("this client is closed"))
        else:
            self._nursery.start_soon(self._do, function, args, future)

    async def _do(self, function: Callable[..., Awaitable[T]], args: tuple[object, ...], future: Future[T]) -> None:
        scope = trio.CancelScope()
        future.add_done_callback(lambda done: self._soon(scope.cancel) if done.cancelled() else None)
        try:
            with scope:
                self._settle(future, await function(*args))
        except Exception as error:  # the caller's to deal with, in its own thread
            self._settle(future, error=error)
        finally:
            future.cancel()  # of something that was cancelled from here, when the portal closes

    def _soon(self, function: Callable[[], object]) -> None:
        if self._token is not None:
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(function)

    @staticmethod
    def _settle(future: Future[T], value: T | None = None, *, error: BaseException | None = None) -> bool:
        """False when it was settled already."""
        try:
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(value)  # type: ignore[arg-type]  # None is what a Future[None] holds
        except InvalidStateError:
            return False
        return True
