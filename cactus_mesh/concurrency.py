"""Trio idioms that several layers need."""

from __future__ import annotations

from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Final, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable

T = TypeVar("T")
E = TypeVar("E", bound=BaseException)

LONG_TEXT_CHARACTERS: Final = 200_000
"""Checking so much takes some 5 ms, which others hardly notice."""


def first_of(group: BaseExceptionGroup[E]) -> E:
    """The first single exception in *group*: the one that is worth telling, the others mostly follow from it."""
    first = group.exceptions[0]
    return first_of(first) if isinstance(first, BaseExceptionGroup) else first


class Stop:
    """Somebody's wish that some work end early, with what there is; whoever does the work says what that means."""

    def __init__(self) -> None:
        self.asked = False
        self._acts: list[Callable[[], None]] = []

    def ask(self) -> None:
        """Once; again it does nothing."""
        if not self.asked:
            self.asked = True
            for act in self._acts:
                act()

    def then(self, act: Callable[[], None]) -> None:
        """Have *act* called as soon as the work is to end, which may be now."""
        self._acts.append(act)
        if self.asked:
            act()


async def beside(characters: int, work: Callable[[], T]) -> T:
    """Call *work*, which looks at so many characters and at nothing that changes: in a thread when they are many."""
    if characters <= LONG_TEXT_CHARACTERS:
        return work()
    return await trio.to_thread.run_sync(work)


@asynccontextmanager
async def open_service_nursery() -> AsyncIterator[trio.Nursery]:
    """A nursery for the services of a block: leaving the block cancels them.

    A single failure, of the block or of a service, comes out as itself and not inside an exception group.
    """
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        if len(group.exceptions) == 1:
            raise group.exceptions[0] from group.exceptions[0].__cause__
        raise


@asynccontextmanager
async def open_batches(source: AsyncIterator[T], window_seconds: float) -> AsyncIterator[AsyncIterator[list[T]]]:
    """The items of *source* in lists: the first as soon as it comes, then whatever came within each window.

    The end of *source*, or its error, ends the iteration after what came before it; it is not held back by a window.
    What a slow reader has not taken waits here, so *source* must be one that ends.
    """
    waiting: list[T] = []
    something = trio.Event()
    ended = trio.Event()
    failure: Exception | None = None

    async def pump() -> None:
        nonlocal failure
        try:
            async for item in source:
                waiting.append(item)
                something.set()
        except Exception as error:  # the reader's to deal with, in its place
            failure = error
        finally:
            ended.set()
            something.set()

    async def batches() -> AsyncGenerator[list[T], None]:
        nonlocal something
        while True:
            await something.wait()
            something = trio.Event()
            if waiting:
                batch = waiting.copy()
                waiting.clear()
                yield batch
            elif ended.is_set():
                if failure is not None:
                    raise failure
                return
            if ended.is_set():
                something.set()
            else:
                with trio.move_on_after(window_seconds):
                    await ended.wait()

    async with open_service_nursery() as nursery, aclosing(batches()) as made:
        nursery.start_soon(pump)
        yield made
