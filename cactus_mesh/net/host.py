"""The library's host, guarded: no stream handler's failure leaves it, no stranger uses our protocols, all is bounded.

It identifies nobody by itself: what we need of a peer comes with its hello.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Final, cast

import trio
from libp2p.exceptions import ParseError
from libp2p.host.basic_host import BasicHost
from libp2p.host.ping import ID as PING
from libp2p.identity.identify.identify import ID as IDENTIFY
from libp2p.identity.identify_push.identify_push import ID_PUSH
from libp2p.io.exceptions import IOException
from libp2p.peer.peerstore import PeerStore
from libp2p.protocol_muxer.exceptions import MultiselectCommunicatorError
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.utils.varint import read_varint_prefixed_bytes_limited
from multiaddr import Multiaddr

from cactus_mesh.net.conn import connection_of
from cactus_mesh.net.frames import MAX_ADDRESSES
from cactus_mesh.net.swarm import CLOSE_SECONDS, HANDSHAKE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from libp2p.abc import INetStream
    from libp2p.crypto.keys import KeyPair
    from libp2p.custom_types import StreamHandlerFn, TProtocol
    from libp2p.peer.id import ID

    from cactus_mesh.net.conn import MeshConn
    from cactus_mesh.net.swarm import MeshSwarm
    from cactus_mesh.net.yamux import MeshStream

CALLS_PROTOCOL: Final = cast("TProtocol", "/cactus/rpc/1")
KAD_PROTOCOL: Final = cast("TProtocol", "/ipfs/kad/1.0.0")
MAX_PROTOCOL_BYTES: Final = 1_024
MAX_STORED_PEERS: Final = 2_048
"""Whose addresses came with DHT answers.  The routing table alone wants a few hundred of them."""
STRANGER_PROTOCOLS: Final = frozenset({CALLS_PROTOCOL, KAD_PROTOCOL, IDENTIFY, PING})
"""Served before the hello: it travels by the first; plain libp2p peers may look around with the others meanwhile."""

log = logging.getLogger(__name__)


class BoundedPeerStore(PeerStore):
    """Never forgets this host's own keys, which the library's may when strangers name many peers."""

    def __init__(self, own: ID, keys: KeyPair) -> None:
        super().__init__(max_records=MAX_STORED_PEERS, max_peers=MAX_STORED_PEERS)
        self._own = own
        self.add_key_pair(own, keys)

    def add_addrs(self, peer_id: ID, addrs: Sequence[Multiaddr], ttl: int = 0) -> None:
        super().add_addrs(peer_id, list(addrs)[:MAX_ADDRESSES], ttl)
        known = self.peer_data_map.get(peer_id)
        if known is not None:
            del known.addrs[:-MAX_ADDRESSES]

    def _enforce_peer_limit(self) -> None:
        for peer in list(self.peer_data_map):
            if len(self.peer_data_map) <= self.max_peers:
                return
            if peer != self._own:
                del self.peer_data_map[peer]
                self.peer_record_map.pop(peer, None)


class BoundedCommunicator(MultiselectCommunicator):
    """The library's reads a protocol's name of any length."""

    async def read(self) -> str:
        try:
            line = await read_varint_prefixed_bytes_limited(self.read_writer, MAX_PROTOCOL_BYTES)
            return line.decode().removesuffix("\n")
        except (ParseError, IOException, UnicodeDecodeError) as error:
            raise MultiselectCommunicatorError(f"no protocol was named: {error}") from error


class MeshHost(BasicHost):
    """Protocol negotiation over a `MeshSwarm`."""

    def __init__(self, swarm: MeshSwarm) -> None:
        self.own_addresses: Callable[[], list[str]] = list
        super().__init__(swarm, disable_identify_address_discovery=True)
        swarm.notifees.clear()  # its own one spawns system tasks, whose failure would end the whole program
        self.remove_stream_handler(ID_PUSH)
        self.swarm = swarm

    def get_addrs(self) -> list[Multiaddr]:
        return [Multiaddr(address) for address in self.own_addresses()]

    def get_transport_addrs(self) -> list[Multiaddr]:
        return self.get_addrs()

    def _schedule_identify(self, peer_id: ID, *, reason: str) -> None:
        pass

    def set_stream_handler(self, protocol_id: TProtocol, stream_handler: StreamHandlerFn) -> None:
        if protocol_id not in STRANGER_PROTOCOLS:
            stream_handler = partial(_after_hello, stream_handler)
        super().set_stream_handler(protocol_id, stream_handler)

    async def _swarm_stream_handler(self, net_stream: INetStream) -> None:
        """What every incoming stream runs in."""
        try:
            words = BoundedCommunicator(net_stream)
            protocol, handler = await self.multiselect.negotiate(words, int(HANDSHAKE_SECONDS))
            assert protocol is not None
            assert handler is not None
            net_stream.set_protocol(protocol)
            await handler(net_stream)
        except Exception as error:
            details = {"protocol": net_stream.get_protocol(), "peer": str(net_stream.muxed_conn.peer_id)}
            log.debug("a stream handler failed", extra=details, exc_info=error)
            with trio.move_on_after(CLOSE_SECONDS, shield=True):
                await net_stream.reset()

    async def open_on(self, conn: MeshConn, protocol: TProtocol) -> MeshStream:
        """A new stream on this very connection.  Raises a `BaseLibp2pError`."""
        stream = await conn.muxed_conn.open_stream()
        try:
            communicator = BoundedCommunicator(stream)
            await self.multiselect_client.select_one_of([protocol], communicator, int(HANDSHAKE_SECONDS))
        except BaseException:
            with trio.CancelScope(shield=True):
                await stream.reset()
            raise
        return stream


async def _after_hello(handler: StreamHandlerFn, stream: INetStream) -> None:
    """Wait until the connection has passed its hello; the swarm ends it when it does not."""
    conn = connection_of(stream)
    if not conn.welcomed.is_set():
        await conn.welcomed.wait()
    await handler(stream)
