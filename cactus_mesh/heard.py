"""A network on which others hear what becomes of each task that passes; it does what it did.

Decides what a task's end is called.  What to make of a task is for who listens (`live.watched`,
`observability.measured`); nobody who does can change, refuse or delay one.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, cast

import trio

from cactus_mesh.dispatch import RUN_METHOD
from cactus_mesh.errors import MeshError, MessageError
from cactus_mesh.messages import Done, decode_item
from cactus_mesh.router import SUBMIT_METHOD
from cactus_mesh.verifying import AUDIT_METHOD

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from typing import TypeVar

    from cactus_mesh.identity import PeerId
    from cactus_mesh.messages import StreamItem
    from cactus_mesh.ports import Call, Handler, Network, Reply

    N = TypeVar("N", bound=Network)

Part = Literal["client", "router", "orchestrator", "verifier"]
"""What this process is in a task: the client where it asks."""
SERVED: Final[dict[str, Part]] = {SUBMIT_METHOD: "router", RUN_METHOD: "orchestrator", AUDIT_METHOD: "verifier"}
OK: Final = "ok"
GONE: Final = "gone"
"""Nobody waits for the answer any more."""
FAILED: Final = "failed"
"""An error that has no code of ours: a bug, and the log has it."""


class Heard(Protocol):
    """One task, as one listener hears of it."""

    def item(self, item: StreamItem) -> None:
        """What passes, in its order; of an audit nothing does."""
        ...

    def ended(self, outcome: str) -> None:
        """Once, and last: `OK`, `GONE`, `FAILED` or the error's code."""
        ...


Listener = Callable[[Part, bytes, "PeerId"], "Heard | None"]
"""Told of a call for a task when it begins, with its payload and who asks or is asked; None is for who does not care.

What others ask of this process has not been checked then: not before its first item, and perhaps never.
"""


def heard_network(network: N, listeners: Sequence[Listener]) -> N:
    return cast("N", _Network(network, listeners))


class _Network:
    def __init__(self, network: Network, listeners: Sequence[Listener]) -> None:
        self._network = network
        self._listeners = listeners

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)

    def serve(self, method: str, handler: Handler, *, at_once: int) -> None:
        part = SERVED.get(method)
        if part is None:
            self._network.serve(method, handler, at_once=at_once)
            return

        async def heard(call: Call) -> None:
            passing = _Passing(self._listeners, part, call.payload, call.peer)
            with passing.to_its_end():
                await handler(call if part == "verifier" else _Call(call, passing))

        self._network.serve(method, heard, at_once=at_once)

    @asynccontextmanager
    async def call(self, peer: PeerId, method: str, payload: bytes) -> AsyncIterator[Reply]:
        if method != SUBMIT_METHOD:
            async with self._network.call(peer, method, payload) as reply:
                yield reply
            return
        passing = _Passing(self._listeners, "client", payload, peer)
        with passing.to_its_end():
            async with self._network.call(peer, method, payload) as reply:
                yield _Reply(reply, passing)


class _Passing:
    """One call for a task, while it is under way."""

    def __init__(self, listeners: Sequence[Listener], part: Part, payload: bytes, peer: PeerId) -> None:
        self._heard = [heard for listen in listeners if (heard := listen(part, payload, peer)) is not None]
        self._lacks_receipt = part == "client"

    def item(self, raw: bytes) -> None:
        try:
            item = decode_item(raw)
        except MessageError:
            return  # whoever reads it says so
        if isinstance(item, Done):
            self._lacks_receipt = False
        for heard in self._heard:
            heard.item(item)

    @contextmanager
    def to_its_end(self) -> Iterator[None]:
        outcome = FAILED
        try:
            yield
            outcome = GONE if self._lacks_receipt else OK
        except MeshError as error:
            outcome = error.code
            raise
        except (trio.Cancelled, GeneratorExit):
            outcome = GONE
            raise
        finally:
            for heard in self._heard:
                heard.ended(outcome)


class _Reply:
    def __init__(self, reply: Reply, passing: _Passing) -> None:
        self._items = aiter(reply)
        self._passing = passing

    def __aiter__(self) -> _Reply:
        return self

    async def __anext__(self) -> bytes:
        item = await anext(self._items)
        self._passing.item(item)
        return item


class _Call:
    def __init__(self, call: Call, passing: _Passing) -> None:
        self.peer = call.peer
        self.public_key = call.public_key
        self.payload = call.payload
        self._call = call
        self._passing = passing

    async def send(self, item: bytes) -> None:
        self._passing.item(item)
        await self._call.send(item)
