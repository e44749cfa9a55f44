"""A node that is a router, asked by its own client: the same signed messages to the same handlers, without a wire.

Only what clients ask of routers is answered; the network itself still reaches no one under a node's own name.
"""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import trio

from cactus_mesh.concurrency import open_service_nursery
from cactus_mesh.errors import Busy, MeshError, MessageTooLarge, ProtocolViolation, UnknownMethod, from_wire, to_wire
from cactus_mesh.messages import MAX_MESSAGE_BYTES
from cactus_mesh.router import CANCEL_METHOD, MODELS_METHOD, SUBMIT_METHOD

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from cactus_mesh.identity import PeerId, PublicKey
    from cactus_mesh.ports import Handler, Network, Reply

METHODS: Final = frozenset({SUBMIT_METHOD, CANCEL_METHOD, MODELS_METHOD})
ITEMS_UNDER_WAY: Final = 64
"""Of a reply that its reader has not taken yet."""

N = TypeVar("N", bound="Network")
log = logging.getLogger(__name__)


def answering_itself(network: N, public_key: PublicKey) -> N:
    """*network*, on which the node with *public_key* can also ask itself what clients ask of a router."""
    return cast("N", _Network(network, public_key))


class _Network:
    def __init__(self, network: Network, public_key: PublicKey) -> None:
        self._network = network
        self._public_key = public_key
        self._handlers: dict[str, _Place] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)

    def serve(self, method: str, handler: Handler, *, at_once: int) -> None:
        self._network.serve(method, handler, at_once=at_once)
        if method in METHODS:
            self._handlers[method] = _Place(handler, at_once)

    @asynccontextmanager
    async def call(self, peer: PeerId, method: str, payload: bytes) -> AsyncIterator[Reply]:
        if peer != self._network.peer_id:
            async with self._network.call(peer, method, payload) as reply:
                yield reply
            return
        _check_size(payload)
        await trio.lowlevel.checkpoint()
        async with open_service_nursery() as nursery:
            call = _Call(peer, self._public_key, payload)
            nursery.start_soon(call.run, method, self._handlers.get(method))
            yield call

    async def ask(self, peer: PeerId, method: str, payload: bytes) -> bytes:
        if peer != self._network.peer_id:
            return await self._network.ask(peer, method, payload)
        async with self.call(peer, method, payload) as reply:
            items = [item async for item in reply]
        if len(items) != 1:
            raise ProtocolViolation(f"{peer} answered {method!r} with {len(items)} items instead of one")
        return items[0]


class _Place:
    """A handler, and how many of our own calls it answers now."""

    def __init__(self, handler: Handler, at_once: int) -> None:
        self.handler = handler
        self.at_once = at_once
        self.running = 0


class _Call:
    """Both ends of one call: the handler's `Call` and the caller's `Reply`."""

    def __init__(self, peer: PeerId, public_key: PublicKey, payload: bytes) -> None:
        self.peer = peer
        self.public_key = public_key
        self.payload = payload
        self._into, self._items = trio.open_memory_channel[bytes](ITEMS_UNDER_WAY)
        self._error: MeshError | None = None

    async def send(self, item: bytes) -> None:
        _check_size(item)
        await self._into.send(item)

    async def run(self, method: str, place: _Place | None) -> None:
        with self._into:
            try:
                await self._answer(method, place)
            except Exception as error:
                told = to_wire(error)
                self._error = from_wire(told.code, told.message, told.retry)
                unexpected = error if told.code == "peer.failed" else None
                level = logging.ERROR if unexpected else logging.INFO
                log.log(level, "a call failed", extra={"method": method, "code": told.code}, exc_info=unexpected)

    async def _answer(self, method: str, place: _Place | None) -> None:
        if place is None:
            raise UnknownMethod(f"this peer does not serve {method!r}; ask one that has the role for it")
        if place.running >= place.at_once:
            raise Busy(f"{place.at_once} calls of {method!r} are running already; try again or ask another peer")
        place.running += 1
        try:
            await place.handler(self)
        finally:
            place.running -= 1

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await self._items.receive()
        except trio.EndOfChannel:
            if self._error is not None:
                raise self._error from None
            raise StopAsyncIteration from None


def _check_size(data: bytes) -> None:
    if len(data) > MAX_MESSAGE_BYTES:
        raise MessageTooLarge(f"this has {len(data)} bytes; send at most {MAX_MESSAGE_BYTES} at once")
