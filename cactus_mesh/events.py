"""What a client does, told as it happens to whoever watches; knows nothing of how they show it."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cactus_mesh.answer import Result
    from cactus_mesh.errors import MeshError
    from cactus_mesh.identity import PeerId

EVENTS_WAITING: Final = 1_024
"""Of one watcher; when it falls behind, the newest are dropped for it."""


@dataclass(frozen=True, slots=True)
class TaskSent:
    """A router is asked; sent again for each further router.  *max_price* in octas."""

    task_id: bytes
    model: str
    router: PeerId
    max_price: int


@dataclass(frozen=True, slots=True)
class TaskDone:
    """Its receipt is checked and part of *result*."""

    task_id: bytes
    result: Result


@dataclass(frozen=True, slots=True)
class TaskFailed:
    task_id: bytes
    error: MeshError


Event = TaskSent | TaskDone | TaskFailed


class Broadcast:
    def __init__(self) -> None:
        self._watchers: list[trio.MemorySendChannel[Event]] = []

    @contextmanager
    def watch(self) -> Iterator[trio.MemoryReceiveChannel[Event]]:
        into, events = trio.open_memory_channel[Event](EVENTS_WAITING)
        self._watchers.append(into)
        with into, events:
            try:
                yield events
            finally:
                self._watchers.remove(into)

    def tell(self, event: Event) -> None:
        for watcher in self._watchers:
            with suppress(trio.WouldBlock):
                watcher.send_nowait(event)
