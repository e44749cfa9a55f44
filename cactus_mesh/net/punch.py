"""Hole punching: two peers that nobody can dial dial each other at the same moment, as agreed over a relay.

Each side's packets open its own NAT or firewall for the other's.  Both dial from the ports that they listen on, again
and again for a few seconds; which side is the initiator of what comes of it is decided in `noise` and by TCP.  What a
peer can make us do is bounded: `MAX_CONNECTS` to `MAX_ENDPOINTS` public endpoints at each of `REQUESTS` in a row.
"""

from __future__ import annotations

import logging
import random
import socket
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
import trio
from libp2p.peer.id import ID
from msgspec import Meta

from cactus_mesh.core.reachability import Nat  # noqa: TC001 - msgspec reads the annotations
from cactus_mesh.errors import AddressMalformed, Busy, MeshError, ProtocolViolation, UnknownMethod
from cactus_mesh.net.addresses import Scope, parse_address
from cactus_mesh.net.buckets import TokenBucket
from cactus_mesh.net.connections import is_relayed
from cactus_mesh.net.links import SocketLink
from cactus_mesh.net.sockets import connect_from, local_endpoint
from cactus_mesh.net.swarm import DialFailed, reason_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from cactus_mesh.identity import PeerId
    from cactus_mesh.net.addresses import Address
    from cactus_mesh.net.conn import MeshConn
    from cactus_mesh.net.connections import Connections
    from cactus_mesh.net.rpc import Methods
    from cactus_mesh.net.swarm import MeshSwarm
    from cactus_mesh.ports import Call

METHOD: Final = "net/punch"
AT_ONCE: Final = 8
"""Requests of others; each holds two sockets for some seconds."""
MAX_ENDPOINTS: Final = 2
"""One of each IP version, or what a gateway forwards beside what others see."""
MIN_PORT: Final = 1_024
"""Nobody's mail or web server is knocked at because some peer says so."""
PUNCH_SECONDS: Final = 3.0
"""Of dialling: a lost SYN is sent again after one second and, once more, after three."""
HANDSHAKE_SECONDS: Final = 4.0
"""After that, for what has connected by then."""
PAUSE_SECONDS: Final = 0.1
"""Between two SYNs, where something answers them with a reset until the other side's hole is there."""
KNOCKS: Final = 3
"""That were answered so, until one side stops hoping that the other was only a moment late."""
FIRST_HOPS: Final = 2
HOLD_SECONDS: Final = 0.25
"""For one distance, when a hole is held open by SYNs that get no further than a few routers: past our own firewalls,
not to the other side's, whose reset would close the hole.  The first distance is mostly right, others are tried."""
MAX_CONNECTS: Final = 60
"""In one try, over all endpoints; only one that answers with resets is dialled more often than twice."""
LINGER_SECONDS: Final = 0.3
"""After the last SYN, for what the other side has just connected to us."""
TRIES: Final = 4
TRY_PAUSE_SECONDS: Final = 0.5
EXCHANGE_SECONDS: Final = 5.0
END_SECONDS: Final = 2.0
"""The other side is done at the same time as we are, give or take the way through the relay."""
MAX_LEAD_SECONDS: Final = 1.0
"""For which we wait until our words have reached the peer, at most: half a round trip through a relay."""
REQUESTS: Final = 8
REQUESTS_PER_SECOND: Final = 1 / 30
"""Of one peer: two rounds of tries, and then one now and again."""
TOTAL_REQUESTS: Final = 32
TOTAL_PER_SECOND: Final = 0.5
"""Of all peers: 30 SYNs a second in the end, however many peers conspire to have us knock somewhere."""
MAX_BUCKETS: Final = 1_024

SYMMETRIC: Final = "NAT is symmetric: each destination sees another port"

log = logging.getLogger(__name__)


class PunchFailed(Exception):
    """There is no direct connection; the text says why.  *final*: trying once more now is of no use."""

    def __init__(self, reason: str, *, final: bool = False) -> None:
        super().__init__(reason)
        self.final = final


@dataclass(frozen=True, slots=True)
class View:
    """How the world sees this machine: the endpoints of its listening port, the best first, as others see them.

    *open*: they can be dialled by anybody, without a hole.
    """

    nat: Nat
    endpoints: tuple[str, ...]
    open: bool = False


class Offer(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A `View`, as it travels."""

    endpoints: Annotated[list[Annotated[str, Meta(max_length=64)]], Meta(max_length=MAX_ENDPOINTS)]
    nat: Nat
    open: bool


_encode = msgspec.msgpack.Encoder().encode
_offer = msgspec.msgpack.Decoder(Offer)


def offer_of(view: View) -> Offer:
    endpoints = [] if view.nat == "symmetric" and not view.open else [*view.endpoints[:MAX_ENDPOINTS]]
    return Offer(endpoints, view.nat, view.open)


def read_offer(data: bytes) -> Offer:
    """Raises `ProtocolViolation`."""
    try:
        return _offer.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolViolation(f"a malformed offer to punch a hole: {error}") from None


def hopeless(own: View, theirs: Offer) -> str | None:
    """Why no hole will do between these two; None when one may."""
    if (own.open and own.endpoints) or (theirs.open and theirs.endpoints):
        return None
    if own.nat == "symmetric":
        return f"this machine's {SYMMETRIC}" + ("; so is the other's" if theirs.nat == "symmetric" else "")
    if theirs.nat == "symmetric":
        return f"its {SYMMETRIC}"
    if not own.endpoints:
        return "this machine does not know yet how others see it"
    return None if theirs.endpoints else "it does not know yet how others see it"


def targets(offered: Iterable[str], own: View, relay: Scope) -> list[Address]:
    """Those *offered* endpoints that we dial: in the network in which we are seen ourselves, which is the public one
    unless all of it, with the relay, is private."""
    own_endpoints = [address for text in own.endpoints if (address := _endpoint(text)) is not None]
    scope = max([relay, *(address.scope for address in own_endpoints)])
    found: dict[Address, None] = {}
    for text in offered:
        address = _endpoint(text)
        if address is not None and address.scope >= scope and address not in own_endpoints:
            found[address] = None
    return list(found)[:MAX_ENDPOINTS]


def _endpoint(text: str) -> Address | None:
    try:
        address = parse_address(text)
    except AddressMalformed:
        return None
    if address.family not in ("ip4", "ip6") or address.peer or address.relay or address.port < MIN_PORT:
        return None
    return address if address.scope is not Scope.NOWHERE else None


def serve_punching(methods: Methods, current: Callable[[], Puncher | None]) -> None:
    """Answer requests by whichever puncher is the *current* one, as hosts come and go."""

    async def answer(call: Call) -> None:
        puncher = current()
        if puncher is None:
            raise Busy("this peer's network is starting; try again")
        await puncher.answer(call)

    methods.add(METHOD, answer, AT_ONCE)


class Puncher:
    """*view* says how this machine is seen now; *told* hears each outcome: why there is no hole, or None."""

    def __init__(
        self,
        swarm: MeshSwarm,
        connections: Connections,
        view: Callable[[], View],
        told: Callable[[PeerId, str | None], None],
    ) -> None:
        self._swarm = swarm
        self._connections = connections
        self._view = view
        self._told = told
        self._asked: OrderedDict[PeerId, TokenBucket] = OrderedDict()
        self._asked_by_all = TokenBucket.full(TOTAL_PER_SECOND, TOTAL_REQUESTS, trio.current_time())

    # --- asking --------------------------------------------------------------------------------------------------

    async def punch(self, conn: MeshConn) -> MeshConn:
        """A direct connection to the peer of *conn*, which is relayed and stays.  Raises `PunchFailed`.

        By convention the side that was dialled asks; when both do, that does no harm.  A try takes three seconds when
        nobody answers, and never more than fourteen.
        """
        assert is_relayed(conn), "there is a direct connection already"
        peer = conn.session.peer
        for number in range(1, TRIES + 1):
            try:
                direct = await self._ask(conn)
            except PunchFailed as failure:
                log.info("no hole", extra={"peer": peer, "try": number, "reason": str(failure)})
                if failure.final or number == TRIES or conn.over.is_set():
                    self._told(peer, str(failure))
                    raise
            else:
                log.info("a hole is punched", extra={"peer": peer, "try": number})
                self._told(peer, None)
                return direct
            await trio.sleep(TRY_PAUSE_SECONDS * random.uniform(0.5, 1.5))
        raise AssertionError("unreachable")

    async def _ask(self, conn: MeshConn) -> MeshConn:
        view = self._view()
        try:
            reply = await conn.session.open(METHOD, _encode(offer_of(view)))
            try:
                with trio.fail_after(EXCHANGE_SECONDS):
                    theirs = read_offer(await anext(reply))
                direct = await self._dig(conn, view, theirs)
                with trio.move_on_after(END_SECONDS):  # leaving it earlier would stop the other side's hello
                    async for _ in reply:
                        pass
                return direct
            finally:
                reply.leave()
        except UnknownMethod:
            raise PunchFailed("it does not punch holes", final=True) from None
        except Busy as error:
            raise PunchFailed(str(error), final=True) from None
        except (trio.TooSlowError, StopAsyncIteration):
            raise PunchFailed("it does not answer through the relay") from None
        except MeshError as error:
            raise PunchFailed(str(error)) from None

    # --- being asked ---------------------------------------------------------------------------------------------

    async def answer(self, call: Call) -> None:
        """One item: our own offer.  The reply ends when we have stopped dialling."""
        offered = read_offer(call.payload)
        conn = self._relayed(call.peer)
        self._admit(call.peer)
        view = self._view()
        await call.send(_encode(offer_of(view)))
        try:
            await trio.sleep(min((conn.session.rtt_seconds or 0.0) / 2, MAX_LEAD_SECONDS))
            await self._dig(conn, view, offered)
        except PunchFailed as failure:
            log.info("no hole", extra={"peer": call.peer, "reason": str(failure)})
            self._told(call.peer, str(failure))
        else:
            log.info("a hole is punched", extra={"peer": call.peer})
            self._told(call.peer, None)

    def _relayed(self, peer: PeerId) -> MeshConn:
        for conn in self._connections.all():
            if conn.session.peer == peer and is_relayed(conn):
                return conn
        raise ProtocolViolation("a request to punch a hole, without a relay between us")

    def _admit(self, peer: PeerId) -> None:
        now = trio.current_time()
        bucket = self._asked.setdefault(peer, TokenBucket.full(REQUESTS_PER_SECOND, REQUESTS, now))
        self._asked.move_to_end(peer)
        if len(self._asked) > MAX_BUCKETS:
            self._asked.popitem(last=False)
        if not bucket.take(now):
            raise Busy("you have asked this peer often enough for now; the relay goes on serving")
        if not self._asked_by_all.take(now):
            raise Busy("this peer punches holes with many others at the moment; try again in a minute")

    # --- digging -------------------------------------------------------------------------------------------------

    async def _dig(self, conn: MeshConn, view: View, theirs: Offer) -> MeshConn:
        """Dial what the other side offered while it dials us, until one direct connection has passed its hello."""
        peer = conn.session.peer
        reason = hopeless(view, theirs)
        if reason is not None:
            raise PunchFailed(reason, final=True)
        wanted = targets(theirs.endpoints, view, parse_address(conn.way).scope)
        if not wanted and not view.open:
            raise PunchFailed("it names no endpoint that can be dialled from here", final=True)
        if not theirs.open and not view.open and not all(self._local(address) for address in wanted):
            raise PunchFailed("this system does not let us dial from the port that we listen on", final=True)
        for address in wanted:
            self._swarm.note_dialled(address.host)
        failures: dict[str, str] = {}
        direct: list[MeshConn] = []

        async def watch() -> None:
            direct.append(await self._until_direct(peer))
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            async with trio.open_nursery() as drills:
                until = trio.current_time() + PUNCH_SECONDS
                budget = iter(range(MAX_CONNECTS))
                for address in wanted:
                    drills.start_soon(self._drill, address, peer, until, budget, failures)
                if not wanted:
                    drills.start_soon(trio.sleep_until, until)  # the other side dials
            await trio.sleep(LINGER_SECONDS)
            nursery.cancel_scope.cancel()
        if direct:
            return direct[0]
        raise PunchFailed("; ".join(f"{endpoint}: {reason}" for endpoint, reason in failures.items()) or "no answer")

    def _local(self, address: Address) -> tuple[str, int] | None:
        return local_endpoint(address.host, self._swarm.bound)

    async def _until_direct(self, peer: PeerId) -> MeshConn:
        while True:
            change = self._connections.next_change()
            conn = self._connections.best(peer)
            if conn is not None and not is_relayed(conn):
                return conn
            await change.wait()

    async def _drill(
        self, address: Address, peer: PeerId, until: float, budget: Iterator[int], failures: dict[str, str]
    ) -> None:
        """Dial until something connects or time is up; why there is no connection goes into *failures*.

        Where resets keep coming they come to both sides: then one of them holds its hole open between its knocks.
        """
        failures[address.endpoint] = "no answer"
        holds = str(self._swarm.get_peer_id()) > peer
        refusals, hops, holding = 0, FIRST_HOPS, False
        for _ in budget:
            next_at = trio.current_time() + (HOLD_SECONDS if holding else PAUSE_SECONDS * random.uniform(0.5, 1.5))
            try:
                if holding:
                    await self._dial(address, peer, min(next_at, until), hops)
                else:
                    await self._dial(address, peer, until)
                return
            except ConnectionRefusedError as error:
                failures[address.endpoint] = reason_for(error)
                refusals += 1
                hops = FIRST_HOPS if holding else hops  # that was too far
            except (OSError, trio.TooSlowError) as error:
                if not holding and isinstance(error, trio.TooSlowError):
                    return  # the last answer, if there was one, says more
                elif not holding:
                    failures[address.endpoint] = reason_for(error)
                hops += holding
            except (DialFailed, MeshError) as error:
                failures[address.endpoint] = str(error)
                return
            holding = holds and not holding and refusals >= KNOCKS
            if next_at >= until:
                return
            await trio.sleep_until(next_at)

    async def _dial(self, address: Address, peer: PeerId, until: float, hops: int | None = None) -> None:
        """Once, up to the hello.  Raises TooSlowError, OSError, `DialFailed` or a `MeshError`."""
        family = socket.AF_INET6 if address.family == "ip6" else socket.AF_INET
        with trio.fail_at(until):
            sock = await connect_from(self._local(address), family, (address.host, address.port), hops=hops)
        with trio.fail_after(HANDSHAKE_SECONDS):
            await self._swarm.dial_link(open_link(sock), ID.from_string(peer))


def open_link(sock: socket.socket) -> SocketLink:
    """Raises OSError, and closes *sock* then."""
    try:
        return SocketLink(sock, initiator=True)
    except OSError:
        sock.close()
        raise
