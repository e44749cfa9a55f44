"""Tells watchers what changes, as server-sent events: first everything, then the parts that are new.

Decides how often, to how many, and who may read an answer's text: whoever asked for it, where there are several keys.
A watcher that reads slowly is told less often, and one that does not read at all is cut by its connection.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from cactus_mesh.errors import TooManyRequests
from cactus_mesh.gateway.faults import Fault
from cactus_mesh.gateway.http import start, while_listening
from cactus_mesh.gateway.replies import encode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from starlette.types import Receive, Scope, Send

FRAME_SECONDS: Final = 0.5
"""Two pictures a second at most: as quick as anybody reads numbers."""
QUIET_SECONDS: Final = 5.0
"""Without a change a watcher hears this often that the connection lives; the page takes three times that for dead."""
WATCHERS: Final = 32
RETRY_SECONDS: Final = 5
OWNERS_KEPT: Final = 1_024
"""Tasks of which it is known whose they are; no more texts than that are ever told."""
_HEADERS: Final = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-store",
    "x-accel-buffering": "no",
}
_ALIVE: Final = b": alive\n\n"


class Picture(Protocol):
    """What there is to be seen: see `live.Live`."""

    async def fresh(self) -> dict[str, Any]: ...
    def snapshot(self) -> dict[str, Any]: ...
    def texts(self) -> dict[str, str]: ...


class Feed:
    def __init__(self, picture: Picture) -> None:
        self._picture = picture
        self._watchers = 0
        self._closed = trio.Event()
        self._owners: OrderedDict[str, str] = OrderedDict()
        self._frame: dict[str, bytes] = {}
        self._drawn_at = -FRAME_SECONDS

    def asked(self, task_id: bytes, caller: str) -> None:
        """Whose task that is."""
        self._owners[task_id.hex()] = caller
        if len(self._owners) > OWNERS_KEPT:
            self._owners.popitem(last=False)

    def close(self) -> None:
        """End every stream, so that nobody waits for their connections."""
        self._closed.set()

    async def serve(
        self, scope: Scope, receive: Receive, send: Send, *, alone: Callable[[], bool], welcome: Callable[[], bool]
    ) -> None:
        """*alone*: there are no keys, so whoever asks may see all.  *welcome*: the caller still has a key, if needed.

        Raises a `Fault` when too many watch.
        """
        if self._watchers >= WATCHERS:
            raise Fault(
                TooManyRequests(f"{WATCHERS} pages watch already, which is the most; close one"),
                retry_after=RETRY_SECONDS,
            )
        self._watchers += 1
        try:
            async with while_listening(receive):
                await start(send, 200, _HEADERS)
                await self._tell(_Watcher(send), scope["cactus.caller"], alone, welcome)
        finally:
            self._watchers -= 1

    async def _tell(
        self, watcher: _Watcher, caller: str, alone: Callable[[], bool], welcome: Callable[[], bool]
    ) -> None:
        await self._picture.fresh()
        while welcome() and not self._closed.is_set():
            await watcher.tell(self._now())
            texts = self._picture.texts()
            await watcher.tell_texts(
                {task: text for task, text in texts.items() if alone() or self._owners.get(task) == caller}
            )
            with trio.move_on_after(FRAME_SECONDS):
                await self._closed.wait()
        await watcher.end()

    def _now(self) -> dict[str, bytes]:
        """The picture, in its parts; one for all watchers."""
        now = trio.current_time()
        if now - self._drawn_at >= FRAME_SECONDS:
            self._drawn_at = now
            self._frame = {name: encode(part) for name, part in self._picture.snapshot().items()}
        return self._frame


class _Watcher:
    """What one watcher has been told."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._told: dict[str, bytes] = {}
        self._lengths: dict[str, int] = {}
        self._spoke_at = trio.current_time()

    async def tell(self, frame: Mapping[str, bytes]) -> None:
        new = {name: part for name, part in frame.items() if self._told.get(name) != part}
        if set(new) <= {"now"}:
            if trio.current_time() - self._spoke_at >= QUIET_SECONDS:
                await self._say(_ALIVE)
            return
        members = b",".join(b'"%s":%s' % (name.encode(), part) for name, part in new.items())
        await self._say(b"event: %s\ndata: {%s}\n\n" % (b"change" if self._told else b"snapshot", members))
        self._told = dict(frame)

    async def tell_texts(self, texts: Mapping[str, str]) -> None:
        for task, text in texts.items():
            known = self._lengths.get(task, 0)
            if len(text) > known:
                more = {"id": task, "from": known, "more": text[known:]}
                await self._say(b"event: text\ndata: %s\n\n" % encode(more))
        self._lengths = {task: len(text) for task, text in texts.items()}

    async def _say(self, data: bytes) -> None:
        self._spoke_at = trio.current_time()
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})
