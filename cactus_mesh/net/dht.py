"""The DHT with our rules: provider records are leases, strangers may only look, every answer and table is bounded.

Routing is the library's; serving queries and the provider queries are ours.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import Counter, OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import trio
from google.protobuf.message import DecodeError
from libp2p.exceptions import BaseLibp2pError
from libp2p.io.exceptions import IncompleteReadError
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.kad_dht.routing_table import RoutingTable
from libp2p.kad_dht.utils import sort_peer_ids_by_distance
from libp2p.network.stream.exceptions import StreamEOF, StreamReset
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.utils.varint import encode_varint_prefixed, read_varint_prefixed_bytes_limited
from multiaddr import Multiaddr
from multiaddr.exceptions import Error as MultiaddrError

from cactus_mesh.errors import AddressMalformed, MeshError
from cactus_mesh.identity import PeerId, public_key_of
from cactus_mesh.net.addresses import Scope, parse_address, usable, worth_telling
from cactus_mesh.net.conn import connection_of
from cactus_mesh.net.connections import scope_of_connection
from cactus_mesh.net.host import KAD_PROTOCOL

if TYPE_CHECKING:
    from collections.abc import Iterable

    from libp2p.abc import INetStream

    from cactus_mesh.net.addresses import Address
    from cactus_mesh.net.host import MeshHost
    from cactus_mesh.net.peers import AddressBook

LEASE_SECONDS: Final = 900.0
"""A provider record's life: a few times the refresh interval, so that dead providers are forgotten soon."""
MAX_PROVIDERS: Final = 64
"""Under one key; the newest stay.  Whoever asks wants a few to begin with, the directory finds the rest."""
MAX_KEYS: Final = 8_192
MAX_KEY_BYTES: Final = 50
MAX_QUERY_BYTES: Final = 16 * 1024
MAX_ANSWER_BYTES: Final = 256 * 1024
QUERY_SECONDS: Final = 3.0
SILENT_SECONDS: Final = 15.0
"""For which a peer that gave no answer is left alone: others go on naming it."""
MAX_SILENT: Final = 1_024
IDLE_SECONDS: Final = 10.0
"""Of a query stream before it is closed."""
STREAMS_PER_PEER: Final = 8
STREAMS_AT_ONCE: Final = 128
CLOSEST_PEERS: Final = 20
"""Kademlia's k."""
ASKED_AT_ONCE: Final = 6
MAX_ROUNDS: Final = 8
"""Each round halves the distance at least; 8 of 6 peers reach any key in a network of millions."""
ADDRESSES_TOLD: Final = 6
"""Of each peer in an answer: two through each of its relays."""

log = logging.getLogger(__name__)


class Leases:
    """Who provides what, as far as this node was told; pure."""

    def __init__(self) -> None:
        self._by_key: OrderedDict[bytes, OrderedDict[ID, tuple[float, list[bytes]]]] = OrderedDict()

    def grant(self, key: bytes, peer: ID, addresses: list[bytes], now: float) -> None:
        holders = self._by_key.setdefault(key, OrderedDict())
        self._by_key.move_to_end(key)
        holders[peer] = (now + LEASE_SECONDS, addresses)
        holders.move_to_end(peer)
        if len(holders) > MAX_PROVIDERS:
            holders.popitem(last=False)
        if len(self._by_key) > MAX_KEYS:
            self._by_key.popitem(last=False)

    def holding(self, key: bytes) -> list[ID]:
        return [peer for peer, _ in self.holders(key, time.time())]

    def holders(self, key: bytes, now: float) -> list[tuple[ID, list[bytes]]]:
        """Those whose lease runs, the newest first."""
        holders = self._by_key.get(key, OrderedDict())
        for peer in [peer for peer, (until, _) in holders.items() if until <= now]:
            del holders[peer]
        return [(peer, addresses) for peer, (_, addresses) in reversed(holders.items())]


def record_key(network: str, key: str) -> bytes:
    """A SHA-256 multihash (34 bytes) over the network and the key: networks that share a DHT do not meet in it."""
    return b"\x12\x20" + hashlib.sha256(f"cactus-mesh/1/{network}\x00{key}".encode()).digest()


class Dht:
    """*book* says where peers are and learns it from answers."""

    def __init__(self, host: MeshHost, book: AddressBook, *, serve: bool) -> None:
        self.leases = Leases()
        self.table = RoutingTable(host.get_id(), host, max_peers_per_subnet=0)
        self._host = host
        self._book = book
        self._own = host.get_id()
        self._streams: Counter[ID] = Counter()
        self._silent: OrderedDict[ID, float] = OrderedDict()
        if serve:
            host.set_stream_handler(KAD_PROTOCOL, self._take_stream)

    async def add_server(self, peer: PeerId) -> bool:
        """A peer that answers queries, by its own word; whether it is new and there was room."""
        key = ID.from_string(peer)
        self._silent.pop(key, None)
        if self.table.peer_in_table(key):
            return False
        with trio.move_on_after(QUERY_SECONDS):
            return bool(await self.table.add_peer(PeerInfo(key, []), skip_server_mode_check=True))
        return False

    def remove_server(self, peer: PeerId) -> None:
        """It answers no queries any more, by its own word."""
        self.table.remove_peer(ID.from_string(peer))

    @property
    def has_addresses(self) -> bool:
        """Whether this peer can be reached at all."""
        return bool(self._host.own_addresses())

    def nearest_known(self, key: bytes) -> list[ID]:
        """Whom to ask first: connected ones answer at once, of the others some may be gone."""
        known = self.table.find_local_closest_peers(key, CLOSEST_PEERS)
        connected = self._host.swarm.connections
        return sorted(known, key=lambda peer: peer not in connected)[:ASKED_AT_ONCE]

    # --- asking --------------------------------------------------------------------------------------------------

    async def closest(self, key: bytes) -> list[ID]:
        """The peers nearest to *key* that answer, by asking nearer and nearer ones; nothing when nobody does."""
        heard_of = set(self.table.find_local_closest_peers(key, CLOSEST_PEERS))
        asked: set[ID] = set()
        silent: set[ID] = set()
        for _ in range(MAX_ROUNDS):
            nearest = sort_peer_ids_by_distance(key, list(heard_of - silent))[:CLOSEST_PEERS]
            batch = [peer for peer in nearest if peer not in asked][:ASKED_AT_ONCE]
            if not batch:
                break
            asked.update(batch)
            async with trio.open_nursery() as nursery:
                for peer in batch:
                    nursery.start_soon(self._ask_nearer, peer, key, heard_of, silent)
        return sort_peer_ids_by_distance(key, list((heard_of & asked) - silent))[:CLOSEST_PEERS]

    async def _ask_nearer(self, peer: ID, key: bytes, heard_of: set[ID], silent: set[ID]) -> None:
        answer = await self.query(peer, Message(type=Message.FIND_NODE, key=key))
        if answer is None:
            silent.add(peer)
            self.table.remove_peer(peer)
            return
        with trio.move_on_after(QUERY_SECONDS):  # it may ping another peer to make room
            await self.table.add_peer(PeerInfo(peer, []), skip_server_mode_check=True)
        for told in answer.message.closerPeers[:CLOSEST_PEERS]:
            found = self._learn(told, answer.scope)
            if found is not None:
                heard_of.add(ID.from_string(found))

    async def providers_at(self, peer: ID, key: bytes) -> list[PeerId]:
        """Whom *peer* knows to provide *key*; where they are is learnt on the way."""
        answer = await self.query(peer, Message(type=Message.GET_PROVIDERS, key=key))
        if answer is None:
            return []
        found = [self._learn(provider, answer.scope) for provider in answer.message.providerPeers[:MAX_PROVIDERS]]
        return [provider for provider in found if provider is not None]

    async def announce_at(self, peer: ID, key: bytes) -> bool:
        """Whether *peer* has stored that we provide *key*."""
        return await self.query(peer, Message(type=Message.ADD_PROVIDER, key=key)) is not None

    async def query(self, peer: ID, question: Message) -> _Answer | None:
        """One question to one peer; None when it gives no proper answer in time."""
        if self._silent.get(peer, 0.0) > trio.current_time():
            return None
        try:
            with trio.fail_after(QUERY_SECONDS):
                answer = await self._exchange(peer, question)
            self._silent.pop(peer, None)
            return answer
        except (BaseLibp2pError, MeshError, EOFError, ValueError, DecodeError, trio.TooSlowError) as error:
            self._silent[peer] = trio.current_time() + SILENT_SECONDS
            self._silent.move_to_end(peer)
            if len(self._silent) > MAX_SILENT:
                self._silent.popitem(last=False)
            log.debug("a DHT query failed", extra={"peer": str(peer), "reason": repr(error)})
            return None

    async def _exchange(self, peer: ID, question: Message) -> _Answer:
        stream = await self._host.new_stream(peer, [KAD_PROTOCOL])
        scope = scope_of_connection(connection_of(stream))
        if question.type == Message.ADD_PROVIDER:
            own = question.providerPeers.add(id=self._own.to_bytes())
            told = worth_telling(self._host.own_addresses(), scope)[:ADDRESSES_TOLD]
            own.addrs.extend(Multiaddr(address).to_bytes() for address in told)
        try:
            await stream.write(encode_varint_prefixed(question.SerializeToString()))
            answer = Message()
            answer.ParseFromString(await read_varint_prefixed_bytes_limited(stream, MAX_ANSWER_BYTES))
        finally:
            with trio.CancelScope(shield=True):
                await stream.reset()
        if answer.type != question.type:
            raise ValueError("an answer to another question")
        return _Answer(answer, scope)

    def _learn(self, told: Message.Peer, scope: Scope) -> PeerId | None:
        """A peer that another one told us of, over a connection of this *scope*.  Its addresses are hearsay, so they
        come after what it says itself."""
        peer = PeerId(ID(told.id).to_base58())
        try:
            public_key_of(peer)
        except ValueError:
            return None
        self._book.learn(peer, map(str, _usable(told.addrs[:ADDRESSES_TOLD], peer, scope)), hearsay=True)
        return None if told.id == self._own.to_bytes() else peer

    # --- answering -----------------------------------------------------------------------------------------------

    async def _take_stream(self, stream: INetStream) -> None:
        peer = stream.muxed_conn.peer_id
        if self._streams[peer] >= STREAMS_PER_PEER or self._streams.total() >= STREAMS_AT_ONCE:
            await stream.reset()
            return
        self._streams[peer] += 1
        try:
            await self._answer_all(stream, peer)
        finally:
            self._streams[peer] -= 1
            if not self._streams[peer]:
                del self._streams[peer]

    async def _answer_all(self, stream: INetStream, peer: ID) -> None:
        conn = connection_of(stream)
        while True:
            try:
                with trio.fail_after(IDLE_SECONDS):
                    data = await read_varint_prefixed_bytes_limited(stream, MAX_QUERY_BYTES)
            except (IncompleteReadError, StreamEOF, StreamReset, trio.TooSlowError):
                await stream.close()
                return
            question = Message()
            question.ParseFromString(data)
            answer = self._answer(question, peer, scope_of_connection(conn), greeted=conn.welcomed.is_set())
            await stream.write(encode_varint_prefixed(answer.SerializeToString()))

    def _answer(self, question: Message, peer: ID, scope: Scope, *, greeted: bool) -> Message:
        """What *peer* is told over a connection of this *scope*.  Raises ValueError for what deserves no answer; the
        stream is reset then."""
        answer = Message(type=question.type, key=question.key)
        if question.type == Message.PING:
            return answer
        if not 0 < len(question.key) <= MAX_KEY_BYTES:
            raise ValueError("a key that is none")
        if question.type == Message.ADD_PROVIDER:
            if not greeted:
                raise ValueError("only peers of this network may store here")
            self._store(question, peer, scope)
        elif question.type == Message.GET_PROVIDERS:
            for holder, addresses in self.leases.holders(question.key, time.time()):
                provider = answer.providerPeers.add(id=holder.to_bytes())
                provider.addrs.extend(raw for raw in addresses if _scope(raw) >= scope)
            self._add_closest(answer, question.key, peer, scope)
        elif question.type == Message.FIND_NODE:
            self._add_closest(answer, question.key, peer, scope)
        else:
            raise ValueError("values are not stored here")
        return answer

    def _store(self, question: Message, peer: ID, scope: Scope) -> None:
        for provider in question.providerPeers[:1]:
            if provider.id != peer.to_bytes():
                raise ValueError("a peer can only speak for itself")
            addresses = [raw for raw in provider.addrs[:ADDRESSES_TOLD] if _scope(raw) >= scope]
            self.leases.grant(question.key, peer, addresses, time.time())

    def _add_closest(self, answer: Message, key: bytes, asker: ID, scope: Scope) -> None:
        closest = self.table.find_local_closest_peers(key, CLOSEST_PEERS)
        sought = ID(key)
        if sought not in closest and self._book.addresses(PeerId(sought.to_base58())):
            closest.insert(0, sought)
        for peer in closest:
            if peer != asker:
                addresses = worth_telling(self._book.addresses(PeerId(peer.to_base58())), scope)[:ADDRESSES_TOLD]
                told = answer.closerPeers.add(id=peer.to_bytes())
                told.addrs.extend(Multiaddr(address).to_bytes() for address in addresses)


@dataclass(frozen=True, slots=True)
class _Answer:
    message: Message
    scope: Scope
    """Of the connection over which it came."""


def _usable(addresses: Iterable[bytes], peer: PeerId, scope: Scope) -> list[Address]:
    """Those multiaddrs from the wire that may lead to *peer*, and carry at least as far as *scope*."""
    texts = [str(address) for raw in addresses if (address := _address(raw)) is not None]
    found = [usable(text, peer) for text in texts]
    return [address for address in found if address is not None and address.scope >= scope]


def _scope(raw: bytes) -> Scope:
    address = _address(raw)
    return Scope.NOWHERE if address is None else address.scope


@lru_cache(8_192)
def _address(raw: bytes) -> Address | None:
    """A multiaddr from the wire, if it is one that we can use."""
    try:
        return parse_address(str(Multiaddr(raw)))
    except (AddressMalformed, MultiaddrError, ValueError, LookupError, EOFError):
        return None
