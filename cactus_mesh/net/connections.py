"""The connections of one running host, by peer: who is let in, which one calls use, who is still alive.

Implements the swarm's `Greeter`.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Final

import trio
from libp2p.connection_types import ConnectionType

from cactus_mesh.errors import Busy, PeerLost, ProtocolViolation
from cactus_mesh.identity import PeerId
from cactus_mesh.net.addresses import Scope, parse_address, worth_hearing
from cactus_mesh.net.conn import connection_of
from cactus_mesh.net.fairness import address_range
from cactus_mesh.ports import ConnectedPeer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    from libp2p.abc import INetConn, INetStream
    from libp2p.peer.id import ID

    from cactus_mesh.net.addresses import Address
    from cactus_mesh.net.conn import MeshConn
    from cactus_mesh.net.frames import About
    from cactus_mesh.net.greeting import Greetings
    from cactus_mesh.net.host import MeshHost
    from cactus_mesh.net.shared import Shared

PING_SECONDS: Final = 4.0
SILENCE_SECONDS: Final = 8.0
"""After an open ping.  A stopped process is found within 4 + 8 seconds and one round of pings: under 20."""
IDLE_SECONDS: Final = 120.0
"""Without a call, until a connection may give way to others."""
KEPT_CONNECTIONS: Final = 32
"""Outgoing ones that stay, idle or not: enough neighbours for gossip and for looking things up."""
RANGE_SHARE: Final = 0.25
"""Of all incoming connections; beyond it, those of one range of addresses give way to others, long idle or not."""
DOUBLE_SECONDS: Final = 20.0
"""After which two connections of one peer are known to live, both of them."""
BAN_SECONDS: Final = 300.0
MAX_BANS: Final = 1_024

log = logging.getLogger(__name__)


class Connections:
    """*dial* is how the library's services reach a peer; *needed* says which connections are never given up."""

    host: MeshHost
    greetings: Greetings
    why_relayed: Callable[[PeerId], str]

    def __init__(
        self,
        shared: Shared,
        dial: Callable[[PeerId], Awaitable[MeshConn]],
        needed: Callable[[MeshConn], bool],
    ) -> None:
        self.needed = needed
        self._shared = shared
        self._dial = dial
        self._by_peer: dict[PeerId, list[MeshConn]] = {}
        self._best: dict[PeerId, MeshConn] = {}
        self._bans: OrderedDict[PeerId, float] = OrderedDict()
        self._changed = trio.Event()

    # --- looking -------------------------------------------------------------------------------------------------

    def best(self, peer: PeerId) -> MeshConn | None:
        """The connection that calls to *peer* use."""
        conn = self._best.get(peer)
        if conn is not None and conn.over.is_set():
            self._choose(peer)
            conn = self._best.get(peer)
        return conn

    def of(self, peer: PeerId) -> list[MeshConn]:
        return list(self._by_peer.get(peer, ()))

    def all(self) -> Iterator[MeshConn]:
        for conns in self._by_peer.values():
            yield from conns

    def peers(self) -> list[ConnectedPeer]:
        return [self.seen(conn) for conn in self.conns()]

    def seen(self, conn: MeshConn) -> ConnectedPeer:
        session = conn.session
        rtt_ms = None if session.rtt_seconds is None else session.rtt_seconds * 1000
        if conn.seen is None or conn.seen.relayed or conn.seen.rtt_ms != rtt_ms:
            conn.seen = self._look_at(conn, rtt_ms)
        return conn.seen

    def _look_at(self, conn: MeshConn, rtt_ms: float | None) -> ConnectedPeer:
        session, relayed = conn.session, is_relayed(conn)
        return ConnectedPeer(
            peer=session.peer,
            public_key=session.public_key,
            roles=tuple(conn.hello.roles),
            agent=conn.hello.agent,
            address=f"{conn.way}/p2p/{session.peer}",
            relayed=relayed,
            rtt_ms=rtt_ms,
            since=conn.since,
            relay=remote(conn).relay,
            why_relayed=self.why_relayed(session.peer) if relayed else "",
        )

    def conns(self) -> list[MeshConn]:
        """The best connection of each peer."""
        return [conn for conn in map(self.best, list(self._best)) if conn is not None]

    def next_change(self) -> trio.Event:
        """Set when the next peer comes, goes, or tells something new about itself."""
        return self._changed

    def announce_change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    # --- the greeter ---------------------------------------------------------------------------------------------

    async def greet(self, conn: MeshConn, nursery: trio.Nursery) -> None:
        await self.greetings.exchange(conn, self.host, nursery)

    def admit(self, conn: MeshConn, peer: PeerId) -> None:
        """Whether an incoming connection may stay.  Raises the `MeshError` that its peer is told."""
        if self.banned(peer):
            raise ProtocolViolation("this peer broke the protocol a short while ago and is not let in for some minutes")
        limit = self._shared.settings.limits.inbound_connections
        incoming = [other for other in self.all() if other.inbound]
        if peer in self._by_peer or len(incoming) < limit:
            return
        idle = self._idle(incoming, IDLE_SECONDS) or self._idle(_crowd(incoming, range_of(conn), limit), 0.0)
        if not idle:
            raise Busy(f"this peer has its {limit} incoming connections already; try another one, or this one later")
        idle[0].end(PeerLost("it was idle, and others want its place"))

    def welcome(self, conn: MeshConn) -> None:
        peer = conn.session.peer
        conns = self._by_peer.setdefault(peer, [])
        conns.append(conn)
        if len(conns) > self._shared.settings.limits.connections_per_peer:
            conns[0].end(PeerLost("too many connections of one peer, the oldest goes"))
        if not conn.inbound:
            self._shared.book.learn(peer, [conn.way])
        self._shared.reached(peer)
        self._shared.book.useful(peer, time.time())
        self._choose(peer)
        for watcher in self._shared.watchers:
            self._shared.offer(watcher, self.seen(conn))
        log.info("connected", extra={"peer": peer, "inbound": conn.inbound, "relayed": is_relayed(conn)})
        self.announce_change()

    def farewell(self, conn: MeshConn) -> None:
        peer = conn.session.peer
        self._by_peer[peer].remove(conn)
        self._choose(peer)
        log.info("disconnected", extra={"peer": peer, "reason": repr(conn.failure) if conn.failure else "closed"})
        self.announce_change()

    async def dial(self, peer: ID) -> INetConn:
        return await self._dial(PeerId(str(peer)))

    def _choose(self, peer: PeerId) -> None:
        """Direct before relayed, then the newest: that one has been seen to work last."""
        conns = [conn for conn in self._by_peer[peer] if not conn.over.is_set()]
        if conns:
            self._best[peer] = min(reversed(conns), key=is_relayed)
        else:
            self._best.pop(peer, None)
        if not self._by_peer[peer]:
            del self._by_peer[peer]

    async def take_calls_stream(self, stream: INetStream) -> None:
        """The handler of the protocol for calls: the session reads the stream, this only keeps it open."""
        conn = connection_of(stream)
        if not conn.offer_calls(stream):
            await stream.reset()
        else:
            await conn.over.wait()

    # --- keeping -------------------------------------------------------------------------------------------------

    def told(self, conn: MeshConn, about: About) -> None:
        if not conn.words.take(trio.current_time()):
            raise ProtocolViolation("it talks about itself without end")
        conn.about = about
        peer, scope, seen_at = conn.session.peer, scope_of_connection(conn), remote(conn)
        heard = worth_hearing(about.addresses, peer, scope, None if is_relayed(conn) else seen_at.host)
        self._shared.book.told(peer, heard, scope)
        self.announce_change()

    def tell_everybody(self, about: Callable[[MeshConn], About]) -> None:
        """What is news to each: *about* gives what to say over a connection."""
        for conn in self.all():
            said = about(conn)
            if said != conn.said:
                conn.said = said
                conn.session.machine.tell(said)
                conn.session.flush()

    def banned(self, peer: PeerId) -> bool:
        return self._bans.get(peer, 0.0) > trio.current_time()

    def drop(self, peer: PeerId, why: str) -> None:
        """*peer* broke the rules: end its connections, and let it back in only after a while."""
        self._bans[peer] = trio.current_time() + BAN_SECONDS
        self._bans.move_to_end(peer)
        if len(self._bans) > MAX_BANS:
            self._bans.popitem(last=False)
        log.warning("a peer is dropped", extra={"peer": peer, "reason": why})
        for conn in self._by_peer.get(peer, ()):
            conn.end(ProtocolViolation(why))

    def make_room(self) -> None:
        """Before one more outgoing connection: at the bound, the one unused for longest gives way."""
        outgoing = [conn for conn in self.all() if not conn.inbound]
        if len(outgoing) < self._shared.settings.limits.outbound_connections:
            return
        idle = self._idle(outgoing, 0.0)
        if not idle:
            raise Busy(f"this node has its {len(outgoing)} outgoing connections, all in use; try again later")
        idle[0].end()

    def _idle(self, conns: Iterable[MeshConn], seconds: float) -> list[MeshConn]:
        """Those of *conns* that nobody needs, the one unused for longest first."""
        before = trio.current_time() - seconds
        idle = [
            conn for conn in conns if conn.session.used_at <= before and not conn.session.busy and not self.needed(conn)
        ]
        return sorted(idle, key=lambda conn: conn.session.used_at)

    def _let_go(self) -> None:
        """Close what nobody needs: relayed or double connections beside a direct one, and after a while those that
        were made for a look-up: they cost both sides, and a place at the other."""
        for conn in self._superfluous():
            conn.end()
        outgoing = [conn for conn in self.all() if not conn.inbound]
        for conn in self._idle(outgoing, IDLE_SECONDS)[: max(len(outgoing) - KEPT_CONNECTIONS, 0)]:
            conn.end()

    def _superfluous(self) -> list[MeshConn]:
        """Idle connections of peers with a better one.  Of two direct ones both sides keep the one that the peer with
        the smaller id made, once both have lasted; of several that we made, we keep the first."""
        found = []
        settled = time.time() - DOUBLE_SECONDS
        for conns in self._by_peer.values():
            direct = [conn for conn in conns if not is_relayed(conn)]
            kept = [conn for conn in direct if self._made_by_smaller(conn) and conn.since <= settled]
            more = [conn for conn in direct if not conn.inbound][1:]
            for conn in conns:
                worse = (is_relayed(conn) and direct) or (not self._made_by_smaller(conn) and kept) or conn in more
                if worse and conn.since <= settled and not conn.session.busy and not self.needed(conn):
                    found.append(conn)
        return found

    def _made_by_smaller(self, conn: MeshConn) -> bool:
        return conn.inbound == (conn.session.peer < self._shared.identity.peer_id)

    async def watch_over(self) -> None:
        """Ping everybody, for ever; close what has gone silent."""
        while True:
            await trio.sleep(PING_SECONDS)
            self._let_go()
            for conn in list(self.all()):
                if conn.session.silent_seconds() >= SILENCE_SECONDS:
                    conn.end(PeerLost(f"no sign of life for {SILENCE_SECONDS:.0f} s after a ping"))
                else:
                    conn.session.ping()
                    self._shared.book.useful(conn.session.peer, time.time())


def is_relayed(conn: MeshConn) -> bool:
    return conn.get_connection_type() is ConnectionType.RELAYED


def remote(conn: MeshConn) -> Address:
    """Where the other end is seen, or the address of the relay that carries *conn*."""
    if conn.remote is None:
        conn.remote = parse_address(conn.way)
    return conn.remote


def range_of(conn: MeshConn) -> str | None:
    """The range of addresses that *conn* comes from; None for neighbours and through relays."""
    return None if is_relayed(conn) else address_range(remote(conn).host)


def _crowd(conns: Iterable[MeshConn], newcomer: str | None, limit: int) -> list[MeshConn]:
    """Those of the range that has taken more than its share of all *limit* places, unless the newcomer is of it too."""
    conns = list(conns)
    crowded, count = Counter(map(range_of, conns)).most_common(1)[0]
    if crowded == newcomer or count <= limit * RANGE_SHARE:
        return []
    return [conn for conn in conns if range_of(conn) == crowded]


def scope_of_connection(conn: MeshConn) -> Scope:
    """How far an address must carry to be of use at the other end of *conn*.  Through a relay that can be anywhere,
    except on this machine's loopback, where everybody is at home."""
    scope = remote(conn).scope
    return Scope.GLOBAL if is_relayed(conn) and scope is not Scope.LOOPBACK else scope
