"""Dial-back: a peer asks another to connect to it afresh, and hears whether that worked.

Whoever is asked connects only to the IP address from which it sees the asker, from a port that the asker does not know,
and to the asker's key: nobody can be made to knock on somebody else's door.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
import trio
from libp2p.peer.id import ID
from msgspec import Meta

from cactus_mesh.core.reachability import Endpoint
from cactus_mesh.errors import AddressMalformed, Busy, MeshError, ProtocolViolation
from cactus_mesh.net.addresses import parse_address, scope_of
from cactus_mesh.net.buckets import TokenBucket
from cactus_mesh.net.connections import is_relayed, remote
from cactus_mesh.net.swarm import DialFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cactus_mesh.net.conn import MeshConn
    from cactus_mesh.net.connections import Connections
    from cactus_mesh.net.swarm import MeshSwarm
    from cactus_mesh.ports import Call

METHOD: Final = "net/dial-back"
AT_ONCE: Final = 16
"""Over all peers; each takes a socket for some seconds."""
MAX_ENDPOINTS: Final = 4
"""The listening port, what a NAT makes of it, and what its gateway forwards; and one more."""
DIAL_SECONDS: Final = 4.0
"""For all endpoints of one call, side by side; a firewall that drops what it gets takes all of it."""
ASK_SECONDS: Final = 6.0
PER_SECOND: Final = 0.1
BURST: Final = 6
"""For one IP address: a node asks a few times when it starts, and every ten minutes after that."""
TOTAL_PER_SECOND: Final = 10.0
TOTAL_BURST: Final = 40
MAX_BUCKETS: Final = 1_024

log = logging.getLogger(__name__)


class _Result(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    reached: bool
    why: Annotated[str, Meta(max_length=200)]


_encode = msgspec.msgpack.Encoder().encode
_endpoints: msgspec.msgpack.Decoder[list[str]] = msgspec.msgpack.Decoder(
    Annotated[list[Annotated[str, Meta(max_length=80)]], Meta(min_length=1, max_length=MAX_ENDPOINTS)]
)
_results: msgspec.msgpack.Decoder[list[_Result]] = msgspec.msgpack.Decoder(
    Annotated[list[_Result], Meta(max_length=MAX_ENDPOINTS)]
)


@lru_cache(1_024)
def endpoint_of(text: str) -> Endpoint | None:
    """``/ip4|ip6/…/tcp/…`` from a peer; None for anything else."""
    try:
        address = parse_address(text)
    except AddressMalformed:
        return None
    if address.family not in ("ip4", "ip6") or address.peer or address.relay or not address.port:
        return None
    return Endpoint(address.host, address.port) if scope_of(address.host) else None


class DialBack:
    """Asks, and serves `METHOD`."""

    def __init__(self, swarm: MeshSwarm, connections: Connections) -> None:
        self._swarm = swarm
        self._connections = connections
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()
        self._total = TokenBucket.full(TOTAL_PER_SECOND, TOTAL_BURST, trio.current_time())

    # --- asking --------------------------------------------------------------------------------------------------

    async def ask(self, conn: MeshConn, endpoints: Sequence[Endpoint]) -> list[tuple[bool, str]] | None:
        """Of each endpoint whether the peer of *conn* reached us there, and why not; None when it does not say."""
        try:
            with trio.fail_after(ASK_SECONDS):
                reply = await conn.session.open(METHOD, _encode([str(endpoint) for endpoint in endpoints]))
                try:
                    answers = _results.decode(await reply.only(METHOD))
                finally:
                    reply.leave()
        except (MeshError, msgspec.DecodeError, UnicodeDecodeError, trio.TooSlowError) as error:
            log.debug("a peer did not dial back", extra={"peer": conn.session.peer, "reason": repr(error)})
            return None
        if len(answers) != len(endpoints):
            return None
        return [(answer.reached, _printable(answer.why)) for answer in answers]

    # --- being asked ---------------------------------------------------------------------------------------------

    async def answer(self, call: Call) -> None:
        try:
            wanted = _endpoints.decode(call.payload)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ProtocolViolation(f"a malformed request to dial back: {error}") from None
        seen_at = {remote(conn).host for conn in self._connections.of(call.peer) if not is_relayed(conn)}
        endpoints = [endpoint_of(text) for text in wanted]
        if not all(endpoint is not None and endpoint.host in seen_at for endpoint in endpoints):
            raise ProtocolViolation("a request to dial back to where the asker is not")
        self._admit(seen_at)
        results = [_Result(False, f"no answer in {DIAL_SECONDS:.0f} s")] * len(endpoints)

        async def dial(number: int, endpoint: Endpoint) -> None:
            results[number] = await self._dial(endpoint, ID.from_string(call.peer))

        with trio.move_on_after(DIAL_SECONDS):
            async with trio.open_nursery() as nursery:
                for number, endpoint in enumerate(endpoints):
                    assert endpoint is not None, "checked above"
                    nursery.start_soon(dial, number, endpoint)
        await call.send(_encode(results))

    async def _dial(self, endpoint: Endpoint, peer: ID) -> _Result:
        try:
            await self._swarm.probe(parse_address(str(endpoint)), peer)
        except DialFailed as error:
            return _Result(False, str(error)[:200])
        return _Result(True, "")

    def _admit(self, hosts: set[str]) -> None:
        """Raises `Busy` when somebody at one of *hosts*, or everybody together, asks too often."""
        now = trio.current_time()
        for host in hosts:
            bucket = self._buckets.setdefault(host, TokenBucket.full(PER_SECOND, BURST, now))
            self._buckets.move_to_end(host)
            if len(self._buckets) > MAX_BUCKETS:
                self._buckets.popitem(last=False)
            if not bucket.take(now):
                raise Busy("this peer has dialled back to your address often enough for now; ask another one")
        if not self._total.take(now):
            raise Busy("this peer dials back to many others at the moment; ask another one")


def _printable(words: str) -> str:
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in words)
