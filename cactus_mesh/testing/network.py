"""An in-memory mesh: several `Network` ports in one process, without sockets, also under trio's MockClock.

It decides who reaches whom, and after how long; it knows nothing of bytes on a wire.
"""

from __future__ import annotations

import logging
import math
import time
from collections import defaultdict
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

import trio

from cactus_mesh.concurrency import open_service_nursery
from cactus_mesh.errors import (
    Busy,
    MessageTooLarge,
    PeerLost,
    PeerUnreachable,
    ProtocolViolation,
    UnknownMethod,
    from_wire,
    to_wire,
)
from cactus_mesh.messages import MAX_MESSAGE_BYTES
from cactus_mesh.ports import ConnectedPeer, Gossip

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from cactus_mesh.errors import MeshError
    from cactus_mesh.identity import Identity, PeerId, PublicKey
    from cactus_mesh.messages import Role
    from cactus_mesh.ports import GossipVerdict, Handler

CREDIT_ITEMS: Final = 64
"""Reply items under way before a handler waits for its caller."""
MAX_GOSSIP_BYTES: Final = 64 * 1024
CHANNEL_ITEMS: Final = 256
"""Gossip and connections waiting for a slow reader; the next one is dropped, as the port says."""

log = logging.getLogger(__name__)
_T = TypeVar("_T")


@asynccontextmanager
async def open_fake_mesh(*, latency_seconds: float = 0.0) -> AsyncIterator[FakeMesh]:
    """A mesh that peers `FakeMesh.join`.  Leaving the block ends every call."""
    async with open_service_nursery() as nursery:
        yield FakeMesh(nursery, latency_seconds)


class FakeMesh:
    """Everybody reaches everybody, *latency_seconds* one way, until told otherwise."""

    def __init__(self, nursery: trio.Nursery, latency_seconds: float = 0.0) -> None:
        self.latency_seconds = latency_seconds
        self._nursery = nursery
        self._members: dict[PeerId, FakeNetwork] = {}
        self._links: dict[frozenset[PeerId], _Link] = {}
        self._parted: set[frozenset[PeerId]] = set()

    def join(
        self, identity: Identity, *, roles: Sequence[Role] = ("client",), agent: str = "cactus-mesh/fake"
    ) -> FakeNetwork:
        """A new peer.  One that was killed may join again, with nothing remembered."""
        assert identity.peer_id not in self._members, "this peer is already in the mesh"
        member = FakeNetwork(self, identity, tuple(roles), agent)
        self._members[identity.peer_id] = member
        return member

    def kill(self, peer: PeerId) -> None:
        """The peer's process ends: its handlers and calls stop, everybody connected to it loses it at once."""
        self._members.pop(peer)
        for pair, link in list(self._links.items()):
            if peer in pair:
                self._cut(link)

    def partition(self, one: PeerId, other: PeerId) -> None:
        """From now on these two do not reach each other.  Gossip of one no longer comes to the other."""
        pair = frozenset((one, other))
        self._parted.add(pair)
        if link := self._links.get(pair):
            self._cut(link)

    def heal(self, one: PeerId, other: PeerId) -> None:
        self._parted.discard(frozenset((one, other)))

    def reaches(self, one: PeerId, other: PeerId) -> bool:
        return one in self._members and other in self._members and frozenset((one, other)) not in self._parted

    async def _link(self, dialler: FakeNetwork, peer: PeerId) -> _Link:
        """The connection of these two, made when there is none."""
        await self.travel()
        if peer == dialler.peer_id:
            raise PeerUnreachable(f"{peer} is this peer itself")
        if not self.reaches(dialler.peer_id, peer):
            raise PeerUnreachable(f"{peer} cannot be reached: /memory/{peer}: nobody answers there")
        pair = frozenset((dialler.peer_id, peer))
        if pair not in self._links:
            link = self._links[pair] = _Link(pair, time.time())
            listener = self._members[peer]
            listener._announce(dialler._as_seen(link))
            dialler._announce(listener._as_seen(link))
        return self._links[pair]

    def _cut(self, link: _Link) -> None:
        del self._links[link.pair]
        for call in tuple(link.calls):
            call.lose()

    async def travel(self) -> None:
        await trio.sleep(self.latency_seconds)

    def _spread(self, publisher: PeerId, gossip: Gossip) -> None:
        for member in tuple(self._members.values()):
            if member.peer_id != publisher and self.reaches(publisher, member.peer_id):
                if self.latency_seconds:
                    self._nursery.start_soon(self._deliver_later, member, gossip)
                else:
                    member._deliver(gossip)

    async def _deliver_later(self, member: FakeNetwork, gossip: Gossip) -> None:
        await self.travel()
        if self._members.get(member.peer_id) is member:
            member._deliver(gossip)


@dataclass(eq=False, slots=True)
class _Link:
    """A connection and the calls on it."""

    pair: frozenset[PeerId]
    since: float
    calls: set[_FakeCall] = field(default_factory=set)


class _FakeCall:
    """Both ends of one call: the handler's `Call` and the caller's `Reply`."""

    def __init__(self, mesh: FakeMesh, caller: FakeNetwork, server: PeerId, payload: bytes) -> None:
        self.peer = caller.peer_id
        self.public_key = caller.public_key
        self.payload = payload
        self.scope = trio.CancelScope()
        self._mesh = mesh
        self._server = server
        self._items_in, self._items = trio.open_memory_channel[tuple[float, bytes]](CREDIT_ITEMS)
        self._ends_at = math.inf
        self._error: MeshError | None = None
        self._lost = trio.Event()

    async def send(self, item: bytes) -> None:
        _check_size(item, MAX_MESSAGE_BYTES)
        try:
            await self._items_in.send((self._arrival(), item))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            await trio.lowlevel.checkpoint()  # the caller is gone, so this handler's scope is already cancelled

    def finish(self, error: MeshError | None) -> None:
        if self._lost.is_set():
            return  # the connection ended first, and that is what the caller hears
        self._ends_at = self._arrival()
        self._error = None if error is None else from_wire(error.code, error.message, error.retry)
        self._items_in.close()

    def lose(self) -> None:
        self._lost.set()
        self.leave()

    def leave(self) -> None:
        self.scope.cancel()
        self._items_in.close()

    def _arrival(self) -> float:
        return trio.current_time() + self._mesh.latency_seconds

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            arrives_at, item = await self._items.receive()
        except trio.EndOfChannel:
            await self._until(self._ends_at)
            if self._error is not None:
                raise self._error from None
            raise StopAsyncIteration from None
        await self._until(arrives_at)
        return item

    async def _until(self, arrives_at: float) -> None:
        """Wait for what is under way; it never arrives when the connection is lost before it does."""
        if arrives_at > trio.current_time():
            with trio.move_on_at(arrives_at):
                await self._lost.wait()
                raise PeerLost(f"the connection to {self._server} ended during the call")


class FakeNetwork:
    """One peer's view of a `FakeMesh`; implements `cactus_mesh.ports.Network`."""

    def __init__(self, mesh: FakeMesh, identity: Identity, roles: tuple[Role, ...], agent: str) -> None:
        self.roles = roles
        self.agent = agent
        self.dropped = 0
        """Messages that a slow reader missed."""
        self._mesh = mesh
        self._identity = identity
        self._handlers: dict[str, tuple[Handler, int]] = {}
        self._running: dict[str, int] = defaultdict(int)
        self._provided: set[str] = set()
        self._subscriptions: dict[str, list[_Subscription]] = defaultdict(list)
        self._watchers: list[trio.MemorySendChannel[ConnectedPeer]] = []

    @property
    def peer_id(self) -> PeerId:
        return self._identity.peer_id

    @property
    def public_key(self) -> PublicKey:
        return self._identity.public_key

    def addresses(self) -> list[str]:
        return [f"/memory/{self.peer_id}/p2p/{self.peer_id}"]

    def peers(self) -> list[ConnectedPeer]:
        links = [link for pair, link in self._mesh._links.items() if self.peer_id in pair]
        return [self._other_end(link) for link in links]

    def _other_end(self, link: _Link) -> ConnectedPeer:
        (other,) = link.pair - {self.peer_id}
        return self._mesh._members[other]._as_seen(link)

    def _as_seen(self, link: _Link) -> ConnectedPeer:
        return ConnectedPeer(
            peer=self.peer_id,
            public_key=self.public_key,
            roles=self.roles,
            agent=self.agent,
            address=self.addresses()[0],
            relayed=False,
            rtt_ms=2_000 * self._mesh.latency_seconds,
            since=link.since,
        )

    @asynccontextmanager
    async def call(self, peer: PeerId, method: str, payload: bytes) -> AsyncIterator[_FakeCall]:
        _check_size(payload, MAX_MESSAGE_BYTES)
        link = await self._mesh._link(self, peer)
        call = _FakeCall(self._mesh, self, peer, payload)
        link.calls.add(call)
        self._mesh._nursery.start_soon(self._mesh._members[peer]._answer, method, call)
        try:
            yield call
        finally:
            link.calls.discard(call)
            call.leave()

    async def _answer(self, method: str, call: _FakeCall) -> None:
        error: MeshError | None = None
        try:
            with call.scope:
                await self._mesh.travel()
                await self._run(method, call)
        except Exception as failure:
            error = to_wire(failure)
            log.info("a call failed", extra={"method": method, "peer": call.peer, "code": error.code}, exc_info=failure)
        call.finish(error)

    async def _run(self, method: str, call: _FakeCall) -> None:
        if method not in self._handlers:
            raise UnknownMethod(f"this peer does not serve {method!r}; its roles are {', '.join(self.roles)}")
        handler, at_once = self._handlers[method]
        if self._running[method] >= at_once:
            raise Busy(f"{at_once} calls of {method!r} are running already; try again or ask another peer")
        self._running[method] += 1
        try:
            await handler(call)
        finally:
            self._running[method] -= 1

    async def ask(self, peer: PeerId, method: str, payload: bytes) -> bytes:
        async with self.call(peer, method, payload) as reply:
            items = [item async for item in reply]
        if len(items) != 1:
            raise ProtocolViolation(f"{peer} answered {method!r} with {len(items)} items instead of one")
        return items[0]

    def serve(self, method: str, handler: Handler, *, at_once: int) -> None:
        assert method not in self._handlers, f"{method!r} is served already"
        self._handlers[method] = (handler, at_once)

    async def connect(self, peer: PeerId, addresses: Sequence[str] = (), *, hearsay: bool = False) -> ConnectedPeer:
        return self._other_end(await self._mesh._link(self, peer))

    async def provide(self, key: str) -> None:
        await self._mesh.travel()
        self._provided.add(key)

    async def providers(self, key: str) -> list[PeerId]:
        await self._mesh.travel()
        return [
            member.peer_id
            for member in self._mesh._members.values()
            if key in member._provided and self._mesh.reaches(self.peer_id, member.peer_id)
        ]

    async def publish(self, topic: str, data: bytes) -> None:
        _check_size(data, MAX_GOSSIP_BYTES)
        await trio.lowlevel.checkpoint()
        self._mesh._spread(self.peer_id, Gossip(topic, data, self.peer_id))

    @asynccontextmanager
    async def subscribe(
        self, topic: str, validate: Callable[[bytes], GossipVerdict]
    ) -> AsyncIterator[trio.MemoryReceiveChannel[Gossip]]:
        await trio.lowlevel.checkpoint()
        into, channel = trio.open_memory_channel[Gossip](CHANNEL_ITEMS)
        subscription = _Subscription(validate, into)
        with _listed(self._subscriptions[topic], subscription), into, channel:
            yield channel

    def _deliver(self, gossip: Gossip) -> None:
        for subscription in self._subscriptions[gossip.topic]:
            if subscription.validate(gossip.data) == "accept":
                self._offer(subscription.into, gossip)

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[trio.MemoryReceiveChannel[ConnectedPeer]]:
        await trio.lowlevel.checkpoint()
        into, channel = trio.open_memory_channel[ConnectedPeer](CHANNEL_ITEMS)
        with _listed(self._watchers, into), into, channel:
            yield channel

    def _announce(self, peer: ConnectedPeer) -> None:
        for watcher in self._watchers:
            self._offer(watcher, peer)

    def _offer(self, channel: trio.MemorySendChannel[_T], item: _T) -> None:
        try:
            channel.send_nowait(item)
        except trio.WouldBlock:
            self.dropped += 1


@dataclass(frozen=True, eq=False, slots=True)
class _Subscription:
    validate: Callable[[bytes], GossipVerdict]
    into: trio.MemorySendChannel[Gossip]


def _check_size(data: bytes, limit_bytes: int) -> None:
    if len(data) > limit_bytes:
        raise MessageTooLarge(f"this has {len(data)} bytes; send at most {limit_bytes} at once")


@contextmanager
def _listed(entries: list[_T], entry: _T) -> Iterator[None]:
    entries.append(entry)
    try:
        yield
    finally:
        entries.remove(entry)
