"""The `Network` port over libp2p, and the supervisor that starts a new host when one crashes."""

from __future__ import annotations

import logging
import os
from collections import deque
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import trio

from cactus_mesh.concurrency import open_service_nursery
from cactus_mesh.core.reachability import NatView
from cactus_mesh.errors import AddressMalformed, NetworkFailed
from cactus_mesh.net import dialback
from cactus_mesh.net.addresses import parse_address
from cactus_mesh.net.connections import is_relayed
from cactus_mesh.net.peers import AddressBook
from cactus_mesh.net.punch import serve_punching
from cactus_mesh.net.running import open_run
from cactus_mesh.net.settings import NetworkStatus
from cactus_mesh.net.shared import CHANNEL_ITEMS, Listener, Shared

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from cactus_mesh.identity import Identity, PeerId
    from cactus_mesh.messages import Hello
    from cactus_mesh.net.addresses import Address
    from cactus_mesh.net.rpc import SessionReply
    from cactus_mesh.net.running import RunningHost
    from cactus_mesh.net.settings import NetworkSettings
    from cactus_mesh.ports import Call, ConnectedPeer, Gossip, GossipVerdict, Handler

MAX_CRASHES: Final = 5
CRASH_WINDOW_SECONDS: Final = 60.0
"""More than `MAX_CRASHES` within this time is no accident: the node stops and says so."""
FIRST_PAUSE_SECONDS: Final = 0.2
MAX_PAUSE_SECONDS: Final = 5.0
LEAVE_SECONDS: Final = 1.0
"""To tell the others that a topic is left, also while being cancelled."""

log = logging.getLogger(__name__)


@asynccontextmanager
async def open_mesh_network(identity: Identity, settings: NetworkSettings, hello: Hello) -> AsyncIterator[MeshNetwork]:
    listen = [_parse_listen(text) for text in settings.listen]
    for text in settings.announce:
        parse_address(text)
    for text in settings.bootstrap:
        if parse_address(text).peer is None:
            raise AddressMalformed(f"the bootstrap address {text!r} must say who is there: add /p2p/ and its peer id")
    _quieten_library()
    book = AddressBook(remember=settings.limits.known_peers)
    if settings.known_peers_file is not None:
        book.load(settings.known_peers_file, hello.network)
    network = MeshNetwork(Shared(identity, hello, settings, book))
    async with open_service_nursery() as nursery:
        await nursery.start(network.supervise, listen)
        yield network


def _quieten_library() -> None:
    """The library reports as errors what every public node meets all day, payloads included; we report what counts."""
    if not os.environ.get("LIBP2P_DEBUG"):
        logging.getLogger("libp2p").setLevel(logging.CRITICAL)


def _parse_listen(text: str) -> Address:
    address = parse_address(text)
    if address.family not in ("ip4", "ip6") or address.peer or address.relay:
        raise AddressMalformed(f"cannot listen on {text!r}; it should look like /ip4/0.0.0.0/tcp/4001")
    if address.transport == "wss":
        raise AddressMalformed(
            f"cannot listen on {text!r}: a web server has to end TLS; listen on …/ws behind it, and announce …/wss"
        )
    return address


class MeshNetwork:
    """Implements `cactus_mesh.ports.Network`."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._running: RunningHost | None = None
        self._started = trio.Event()
        serve_punching(shared.methods, lambda: self._running.puncher if self._running else None)
        shared.methods.add(dialback.METHOD, self._dial_back, dialback.AT_ONCE)

    async def _dial_back(self, call: Call) -> None:
        await (await self._host()).dial_back.answer(call)

    # --- the supervisor ------------------------------------------------------------------------------------------

    async def supervise(self, listen: Sequence[Address], *, task_status: trio.TaskStatus[None]) -> None:
        """Keep a host running.  Raises what its first start does; later `NetworkFailed` when it crashes for ever."""
        crashes: deque[float] = deque(maxlen=MAX_CRASHES)
        pause = FIRST_PAUSE_SECONDS
        first = True
        while True:
            try:
                async with open_run(self._shared, listen) as running:
                    listen = running.machine.bound()  # the next one listens on the same ports
                    self._running = running
                    self._started.set()
                    if first:
                        task_status.started()
                        first = False
                    await trio.sleep_forever()
            except Exception as crash:
                if first:
                    raise
                self._note_crash(crashes, crash)  # a group with a cancellation in it is the end, not a crash
            finally:
                self._running = None
                self._started = trio.Event()
            await trio.sleep(pause)
            pause = min(2 * pause, MAX_PAUSE_SECONDS)

    def _note_crash(self, crashes: deque[float], crash: Exception) -> None:
        now = trio.current_time()
        self._shared.restarts += 1
        if len(crashes) == MAX_CRASHES and now - crashes[0] < CRASH_WINDOW_SECONDS:
            raise NetworkFailed(
                f"the peer-to-peer network crashed {MAX_CRASHES + 1} times within {CRASH_WINDOW_SECONDS:.0f} s, "
                f"last with {type(crash).__name__}; start the node again, and report this with its log"
            ) from crash
        crashes.append(now)
        log.error("the libp2p host crashed and is started again", exc_info=crash)

    async def _host(self) -> RunningHost:
        while self._running is None:
            await self._started.wait()
        return self._running

    # --- the port ------------------------------------------------------------------------------------------------

    @property
    def peer_id(self) -> PeerId:
        return self._shared.identity.peer_id

    def addresses(self) -> list[str]:
        return self._running.addresses() if self._running else []

    def invitations(self) -> list[str]:
        """What another machine can join through, one address for each kind of place that it may be in: where everybody
        can reach us, or the peer through which we joined; and where the machines of our LAN can."""
        return self._running.invitations() if self._running else []

    def peers(self) -> list[ConnectedPeer]:
        return self._running.connections.peers() if self._running else []

    async def _open(self, peer: PeerId, method: str, payload: bytes) -> SessionReply:
        running = self._running
        conn = running.connections.best(peer) if running else None
        if conn is None:
            conn = await (await self._host()).connect(peer)
        return await conn.session.open(method, payload)

    @asynccontextmanager
    async def call(self, peer: PeerId, method: str, payload: bytes) -> AsyncIterator[SessionReply]:
        reply = await self._open(peer, method, payload)
        try:
            yield reply
        finally:
            reply.leave()

    async def ask(self, peer: PeerId, method: str, payload: bytes) -> bytes:
        reply = await self._open(peer, method, payload)
        try:
            return await reply.only(method)
        finally:
            reply.leave()

    def serve(self, method: str, handler: Handler, *, at_once: int) -> None:
        self._shared.methods.add(method, handler, at_once)

    async def connect(self, peer: PeerId, addresses: Sequence[str] = (), *, hearsay: bool = False) -> ConnectedPeer:
        running = await self._host()
        conn = running.connections.best(peer)
        if hearsay and conn is not None and not is_relayed(conn):
            await trio.lowlevel.checkpoint_if_cancelled()
            return running.connections.seen(conn)  # what it says itself counts for more
        self._shared.book.learn(peer, running.believable(addresses, peer) if hearsay else addresses)
        return running.connections.seen(await running.connect(peer))

    async def ping(self, peer: PeerId, addresses: Sequence[str] = ()) -> ConnectedPeer:
        """As `connect`, with the round trip of this moment.  Raises `PeerLost` too; the deadline is the caller's."""
        self._shared.book.learn(peer, addresses)
        running = await self._host()
        conn = await running.connect(peer)
        seconds = await conn.session.round_trip()
        return replace(running.connections.seen(conn), rtt_ms=seconds * 1_000)

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[trio.MemoryReceiveChannel[ConnectedPeer]]:
        into, channel = trio.open_memory_channel["ConnectedPeer"](CHANNEL_ITEMS)
        self._shared.watchers.append(into)
        try:
            with into, channel:
                yield channel
        finally:
            self._shared.watchers.remove(into)

    async def provide(self, key: str) -> None:
        await (await self._host()).discovery.provide(key)

    async def providers(self, key: str) -> list[PeerId]:
        return await (await self._host()).discovery.providers(key)

    async def publish(self, topic: str, data: bytes) -> None:
        await (await self._host()).gossip.publish(topic, data)

    @asynccontextmanager
    async def subscribe(
        self, topic: str, validate: Callable[[bytes], GossipVerdict]
    ) -> AsyncIterator[trio.MemoryReceiveChannel[Gossip]]:
        into, channel = trio.open_memory_channel["Gossip"](CHANNEL_ITEMS)
        listener = Listener(validate, into)
        listeners = self._shared.listeners.setdefault(topic, [])
        listeners.append(listener)
        try:
            await (await self._host()).gossip.join(topic)
            with into, channel:
                yield channel
        finally:
            listeners.remove(listener)
            if not listeners:
                await self._leave(topic)

    async def _leave(self, topic: str) -> None:
        self._shared.listeners.pop(topic, None)
        if self._running is not None:
            with trio.move_on_after(LEAVE_SECONDS, shield=True):
                await self._running.gossip.leave(topic)

    def status(self) -> NetworkStatus:
        running = self._running
        reachability = running.reachability if running else None
        nat = reachability.nat if reachability else NatView()
        return NetworkStatus(
            connected=len(self.peers()),
            known=len(self._shared.book),
            reachability=reachability.reach if reachability else "unknown",
            nat=nat.kind,
            port_preserving=nat.port_preserving,
            observed=reachability.observed() if reachability else (),
            steps=reachability.steps() if reachability else (),
            relays=running.circuits.relays if running else (),
            attempts=dict(self._shared.attempts),
            dropped_gossip=self._shared.dropped,
            restarts=self._shared.restarts,
            serving=running.relay.use if running and running.relay else None,
        )
