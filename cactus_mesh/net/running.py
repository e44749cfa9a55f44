"""One run of the libp2p host with everything on it.  A crash ends the run; the next begins with what `Shared` kept."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, NoReturn

import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.id import ID

from cactus_mesh.concurrency import open_service_nursery
from cactus_mesh.core.reachability import NatView
from cactus_mesh.errors import MeshError, PeerLost, PeerUnreachable
from cactus_mesh.net.addresses import Scope, parse_address, scope_of, scopes, usable, worth_telling
from cactus_mesh.net.circuits import Relay
from cactus_mesh.net.connections import Connections, is_relayed, remote, scope_of_connection
from cactus_mesh.net.dht import Dht
from cactus_mesh.net.dialback import DialBack
from cactus_mesh.net.dialler import Dialler
from cactus_mesh.net.discovery import ENOUGH_PEERS, open_discovery
from cactus_mesh.net.frames import MAX_ADDRESSES, About
from cactus_mesh.net.gossip import open_gossip
from cactus_mesh.net.greeting import Greetings
from cactus_mesh.net.host import CALLS_PROTOCOL, BoundedPeerStore, MeshHost
from cactus_mesh.net.machine import Machine
from cactus_mesh.net.mdns import look_around
from cactus_mesh.net.punch import Puncher
from cactus_mesh.net.reachability import Reachability
from cactus_mesh.net.relayed import RELAY_KEY, Circuits
from cactus_mesh.net.swarm import MeshSwarm
from cactus_mesh.net.upgrades import Upgrades

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from cactus_mesh.identity import PeerId
    from cactus_mesh.net.addresses import Address
    from cactus_mesh.net.conn import MeshConn
    from cactus_mesh.net.discovery import Discovery
    from cactus_mesh.net.gossip import GossipMesh
    from cactus_mesh.net.shared import Shared
log = logging.getLogger(__name__)


@asynccontextmanager
async def open_run(shared: Shared, listen: Sequence[Address]) -> AsyncIterator[RunningHost]:
    """Start a host.  Raises `PortInUse` or `AddressMalformed` from its start, later whatever made it crash."""
    async with open_service_nursery() as nursery:
        running = RunningHost(shared, nursery)
        # gossip first: a peer that finds no gossip here on arrival does not ask again
        async with open_gossip(
            running.host, shared, running.connections.best, running.connections.drop
        ) as running.gossip:
            await nursery.start(_serve, running.swarm, listen)
            nursery.start_soon(running.connections.watch_over)
            for topic in shared.listeners:
                await running.gossip.join(topic)
            async with open_discovery(shared, running.dht, running.connections, running.connect) as running.discovery:
                nursery.start_soon(running.keep)
                yield running


async def _serve(swarm: MeshSwarm, listen: Sequence[Address], *, task_status: trio.TaskStatus[None]) -> NoReturn:
    await swarm.serve(listen, task_status=task_status)


class RunningHost:
    gossip: GossipMesh
    discovery: Discovery

    def __init__(self, shared: Shared, nursery: trio.Nursery) -> None:
        limits = shared.settings.limits
        keys = create_new_key_pair(shared.identity.seed)
        own = ID.from_pubkey(keys.public_key)
        self._shared = shared
        self._known_addresses: list[str] = []
        self._nat = NatView()
        self.swarm = MeshSwarm(own, keys, BoundedPeerStore(own, keys), max_pending=limits.pending_connections)
        self.connections = Connections(shared, self._connect_known, self._needed)
        self.swarm.greeter = self.connections
        self.host = MeshHost(self.swarm)
        self.host.set_stream_handler(CALLS_PROTOCOL, self.connections.take_calls_stream)
        self.connections.host = self.host
        self.connections.greetings = Greetings(
            shared.identity,
            shared.hello,
            shared.methods,
            admit=self.connections.admit,
            about=self.about,
            told=self.connections.told,
        )
        self.dht = Dht(self.host, shared.book, serve=shared.settings.serve_dht)
        self.relay = Relay(self.host, self.connections, limits) if shared.settings.serve_relay else None
        self.circuits = Circuits(self.swarm, self.host, self.connections, self._reach_relay, self._tell_everybody)
        self.machine = Machine(self.swarm)
        self.dial_back = DialBack(self.swarm, self.connections)
        self.reachability = Reachability(
            shared.settings,
            self.machine,
            self.connections,
            self.dial_back,
            self.swarm.dialled,
            self._reach_changed,
        )
        self.reachability.relays = lambda: self.circuits.relays
        self.host.own_addresses = self._every_address
        self.dialler = Dialler(shared.identity.peer_id, self.swarm, nursery, self.circuits.dial, shared.attempted)
        self.puncher = Puncher(self.swarm, self.connections, self.reachability.view, self._punched)
        self.upgrades = Upgrades(
            shared,
            self.connections,
            self.dialler.dial,
            self.puncher.punch,
            partial(self.reachability.step, "punch"),
        )
        self.connections.why_relayed = self.upgrades.why_relayed

    async def keep(self) -> None:
        """Look after how we are reached and reach others, for ever."""
        settings = self._shared.settings
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.reachability.keep)
            nursery.start_soon(self.upgrades.keep)
            nursery.start_soon(self.machine.watch, self._moved)
            if settings.relays != "never":
                nursery.start_soon(
                    self.circuits.keep_reservations,
                    lambda: self.reachability.wants_relays,
                    partial(self.discovery.providers, RELAY_KEY),
                )
            if settings.mdns:
                own, name = self._shared.identity.peer_id, self._shared.hello.network
                nursery.start_soon(look_around, name, own, self._every_address, partial(self._found, nursery))

    # --- reaching others -----------------------------------------------------------------------------------------

    async def connect(self, peer: PeerId) -> MeshConn:
        """The connection to *peer*, made when there is none.  Raises `PeerUnreachable` or `WrongNetwork`."""
        conn = self.connections.best(peer)
        if conn is not None:
            await trio.lowlevel.checkpoint()
            return conn
        self._check(peer)
        searched = not self._shared.book.addresses(peer)
        if searched:
            await self.discovery.find(peer)
        try:
            return await self._connect_known(peer)
        except PeerUnreachable:
            if searched or not await self.discovery.find(peer):
                raise
        return await self._connect_known(peer)  # it has moved

    async def _connect_known(self, peer: PeerId) -> MeshConn:
        """As `connect`, without asking anybody where *peer* is: for the DHT's own queries, among others."""
        conn = self.connections.best(peer)
        if conn is not None:
            await trio.lowlevel.checkpoint()
            return conn
        self._check(peer)
        self.connections.make_room()
        return await self.dialler.dial(peer, self._shared.book.addresses(peer))

    def _check(self, peer: PeerId) -> None:
        if peer == self._shared.identity.peer_id:
            raise PeerUnreachable(f"{peer} is this peer itself")
        if self.connections.banned(peer):
            raise PeerUnreachable(f"{peer} broke the protocol a short while ago and is left alone for some minutes")

    async def _reach_relay(self, relay: PeerId, endpoint: str | None) -> MeshConn:
        """At *endpoint*, which somebody's circuit address names; else wherever it is."""
        if endpoint is None:
            return await self.connect(relay)
        self._shared.book.learn(relay, [endpoint], hearsay=True)
        return await self._connect_known(relay)

    def _found(self, nursery: trio.Nursery, peer: PeerId, addresses: Sequence[str]) -> None:
        """*peer* is in this LAN."""
        self._shared.book.learn(peer, addresses)
        if self.connections.best(peer) is None and len(self.connections.conns()) < ENOUGH_PEERS:
            nursery.start_soon(self._greet_neighbour, peer)

    async def _greet_neighbour(self, peer: PeerId) -> None:
        try:
            await self.connect(peer)
        except MeshError as error:
            log.info("a peer of this LAN cannot be reached", extra={"peer": peer, "reason": str(error)})

    def _punched(self, peer: PeerId, why: str | None) -> None:
        self.upgrades.hear(peer, why)

    def _needed(self, conn: MeshConn) -> bool:
        """Whether a reservation, of ours or of the other side, hangs on *conn*."""
        return self.circuits.holds(conn) or (self.relay is not None and self.relay.holds(conn))

    # --- being reached -------------------------------------------------------------------------------------------

    def addresses(self) -> list[str]:
        """Where others can reach this peer, the best first, each with its peer id: only what carries as far as the
        farthest of those that we are, or will be, connected to."""
        every = self._every_address()
        return worth_telling(every, self._farthest() or max(scopes(every), default=Scope.GLOBAL))

    def believable(self, addresses: Iterable[str], peer: PeerId) -> list[str]:
        """What others say of where *peer* is, without the addresses of LANs when we are in a wider network: there they
        would be somebody else's."""
        own = self._farthest() or Scope.LOOPBACK
        told = [address for text in addresses if (address := usable(text, peer)) is not None]
        return [str(address) for address in told if address.scope >= own]

    def _farthest(self) -> Scope | None:
        """Of those that we are, or will be, connected to."""
        connected = [scope_of_connection(conn) for conn in self.connections.all()]
        return max(connected or scopes(self._shared.settings.bootstrap), default=None)

    def invitations(self) -> list[str]:
        """The best of our addresses for each scope that is of use to another machine, the farthest first."""
        by_scope: dict[Scope, str] = {}
        for text in [*self._every_address(), *self._shared.settings.bootstrap]:
            by_scope.setdefault(parse_address(text).scope, text)
        local = by_scope.pop(Scope.LOOPBACK, None)
        return [by_scope[scope] for scope in sorted(by_scope, reverse=True)] or ([local] if local else [])

    def _every_address(self) -> list[str]:
        own = self._shared.identity.peer_id
        announced = [parse_address(address).endpoint for address in self._shared.settings.announce]
        direct = [address.endpoint for address in self.reachability.addresses()]
        circuits = self.circuits.addresses(self._shared.book.addresses)
        every = dict.fromkeys([*announced, *direct[: MAX_ADDRESSES - len(circuits)], *circuits])
        return [f"{address}/p2p/{own}" for address in every][:MAX_ADDRESSES]

    def _tell_everybody(self) -> None:
        """Our addresses, or what we serve, may have changed."""
        every, open_ = self._every_address(), self.reachability.can_be_dialled
        self.connections.tell_everybody(lambda conn: self._about(conn, every, open_))
        if every != self._known_addresses:
            self._known_addresses = every
            self.discovery.moved()

    def _reach_changed(self) -> None:
        self._tell_everybody()
        if self.reachability.nat != self._nat:
            self._nat = self.reachability.nat
            self.upgrades.hurry()
        self.connections.announce_change()

    def _moved(self, why: str) -> None:
        """This machine is in another network, or has slept: what was found out, and what is connected, may be gone."""
        log.warning("the network may have changed", extra={"reason": why})
        hosts = self.machine.hosts()
        for conn in list(self.connections.all()):
            if conn.local_host is None or conn.local_host in hosts or scope_of(conn.local_host) is Scope.LOOPBACK:
                conn.session.ping()
            else:
                conn.end(PeerLost("this machine has left the network of that connection"))
        self.reachability.moved()
        self.upgrades.hurry()
        self.discovery.hurry()
        self._tell_everybody()

    def about(self, conn: MeshConn) -> About:
        """What to say over a new connection."""
        return self._about(conn, self._every_address(), self.reachability.can_be_dialled)

    def _about(self, conn: MeshConn, every: Sequence[str], open_: bool) -> About:
        """Only addresses that can be of use at the other end.  A peer that cannot be dialled neither answers the DHT's
        queries nor relays."""
        settings = self._shared.settings
        return About(
            worth_telling(every, scope_of_connection(conn)),
            dht=settings.serve_dht and open_,
            relay=settings.serve_relay and open_,
            observed="" if is_relayed(conn) else remote(conn).endpoint,
        )
