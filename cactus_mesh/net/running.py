"""One run of the libp2p host with everything on it.  A crash ends the run; the next begins with what `Shared` kept."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, NoReturn

import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.id import ID
from multiaddr.utils import get_network_addrs

from cactus_mesh.concurrency import open_service_nursery
from cactus_mesh.errors import PeerUnreachable
from cactus_mesh.net.addresses import Address, Scope, parse_address, reachable_at, worth_telling
from cactus_mesh.net.circuits import Relay
from cactus_mesh.net.connections import Connections, is_relayed, remote, scope_of_connection
from cactus_mesh.net.dht import Dht
from cactus_mesh.net.dialler import Dialler
from cactus_mesh.net.discovery import open_discovery
from cactus_mesh.net.frames import MAX_ADDRESSES, About
from cactus_mesh.net.gossip import open_gossip
from cactus_mesh.net.greeting import Greetings
from cactus_mesh.net.host import CALLS_PROTOCOL, BoundedPeerStore, MeshHost
from cactus_mesh.net.reach import prefer_direct
from cactus_mesh.net.relayed import Circuits
from cactus_mesh.net.swarm import MeshSwarm

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from cactus_mesh.identity import PeerId
    from cactus_mesh.net.conn import MeshConn
    from cactus_mesh.net.discovery import Discovery
    from cactus_mesh.net.gossip import GossipMesh
    from cactus_mesh.net.shared import Shared

INTERFACES_SECONDS: Final = 30.0
"""How old our view of this machine's interfaces may be; a laptop changes networks."""


@asynccontextmanager
async def open_run(shared: Shared, listen: Sequence[Address]) -> AsyncIterator[RunningHost]:
    """Start a host.  Raises `PortInUse` or `AddressMalformed` from its start, later whatever made it crash."""
    async with open_service_nursery() as nursery:
        running = RunningHost(shared, nursery)
        # gossip first: a peer that finds no gossip here on arrival does not ask again
        async with open_gossip(running.host, shared, running.connections.drop) as running.gossip:
            await nursery.start(_serve, running.swarm, listen)
            nursery.start_soon(running.connections.watch_over)
            nursery.start_soon(prefer_direct, shared, running.connections, running.dialler.dial)
            if shared.settings.use_relays:
                nursery.start_soon(running.circuits.keep_reservations)
            for topic in shared.listeners:
                await running.gossip.join(topic)
            async with open_discovery(shared, running.dht, running.connections, running.connect) as running.discovery:
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
        self._interfaces: tuple[float, list[str]] = (-INTERFACES_SECONDS, [])
        self.swarm = MeshSwarm(own, keys, BoundedPeerStore(own, keys), max_pending=limits.pending_connections)
        self.connections = Connections(shared, self.connect, self._needed)
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
        self.host.own_addresses = self._every_address
        self.dialler = Dialler(shared.identity.peer_id, self.swarm, nursery, self.circuits.dial, shared.attempted)

    # --- reaching others -----------------------------------------------------------------------------------------

    async def connect(self, peer: PeerId) -> MeshConn:
        """The connection to *peer*, made when there is none.  Raises `PeerUnreachable` or `WrongNetwork`."""
        conn = self.connections.best(peer)
        if conn is not None:
            await trio.lowlevel.checkpoint()
            return conn
        if peer == self._shared.identity.peer_id:
            raise PeerUnreachable(f"{peer} is this peer itself")
        if self.connections.banned(peer):
            raise PeerUnreachable(f"{peer} broke the protocol a short while ago and is left alone for some minutes")
        self.connections.make_room()
        if not self._shared.book.addresses(peer):
            await self.discovery.find(peer)
        return await self.dialler.dial(peer, self._shared.book.addresses(peer))

    async def _reach_relay(self, relay: PeerId, endpoint: str) -> MeshConn:
        self._shared.book.learn(relay, [endpoint])
        return await self.connect(relay)

    def _needed(self, conn: MeshConn) -> bool:
        """Whether a reservation, of ours or of the other side, hangs on *conn*."""
        return self.circuits.holds(conn) or (self.relay is not None and self.relay.holds(conn))

    # --- being reached -------------------------------------------------------------------------------------------

    def bound(self) -> list[Address]:
        """What the listeners listen on, with the ports that they got."""
        found = []
        for listener in self.swarm.bound:
            host, port = listener.getsockname()[:2]
            found.append(Address("ip6" if ":" in host else "ip4", host.split("%")[0], port))
        return found

    def addresses(self) -> list[str]:
        """Where others can reach this peer, the best first, each with its peer id: only what carries as far as the
        farthest of those that we are connected to."""
        every = self._every_address()
        farthest = max(map(scope_of_connection, self.connections.all()), default=Scope.NOWHERE)
        if farthest is Scope.NOWHERE and every:
            farthest = max(parse_address(address).scope for address in every)
        return worth_telling(every, farthest)

    def _every_address(self) -> list[str]:
        own = self._shared.identity.peer_id
        announced = [parse_address(address).endpoint for address in self._shared.settings.announce]
        direct = [address.endpoint for address in reachable_at(self.bound(), self._machine())]
        circuits = self.circuits.addresses(self._shared.book.addresses)
        every = dict.fromkeys([*announced, *direct[: MAX_ADDRESSES - len(circuits)], *circuits])
        return [f"{address}/p2p/{own}" for address in every][:MAX_ADDRESSES]

    def _tell_everybody(self) -> None:
        self.connections.tell_everybody(self.about)

    def about(self, conn: MeshConn) -> About:
        """What to say over *conn*: only addresses that can be of use at its other end."""
        settings = self._shared.settings
        addresses = worth_telling(self._every_address(), scope_of_connection(conn))
        observed = "" if is_relayed(conn) else remote(conn).endpoint
        return About(addresses, dht=settings.serve_dht, relay=settings.serve_relay, observed=observed)

    def _machine(self) -> list[str]:
        """This machine's own addresses."""
        read_at, interfaces = self._interfaces
        if trio.current_time() - read_at >= INTERFACES_SECONDS:
            interfaces = [*get_network_addrs(4), *get_network_addrs(6)]
            self._interfaces = (trio.current_time(), interfaces)
        return interfaces
