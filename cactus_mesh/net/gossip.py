"""Gossipsub, made safe: every message signed, bounded in size and rate, judged once; whoever breaks that is dropped."""

from __future__ import annotations

import logging
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, Protocol

import trio
from libp2p.exceptions import BaseLibp2pError
from libp2p.io.exceptions import IncompleteReadError
from libp2p.network.exceptions import SwarmException
from libp2p.network.stream.exceptions import StreamError
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11, GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.pubsub.rpc_queue import RpcQueue
from libp2p.pubsub.validators import signature_validator
from libp2p.utils.varint import read_varint_prefixed_bytes_limited

from cactus_mesh.errors import MessageTooLarge
from cactus_mesh.identity import PeerId
from cactus_mesh.net.buckets import TokenBucket
from cactus_mesh.net.services import open_service
from cactus_mesh.ports import Gossip

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from libp2p.abc import INetStream
    from libp2p.peer.id import ID

    from cactus_mesh.net.conn import MeshConn
    from cactus_mesh.net.host import MeshHost
    from cactus_mesh.ports import GossipVerdict

MAX_GOSSIP_BYTES: Final = 64 * 1024
MAX_RPC_BYTES: Final = (1 << 20) + MAX_GOSSIP_BYTES
"""One packet of a peer, which may hold several messages; the library splits its own at 1 MiB."""
MAX_TOPICS: Final = 128
"""That one peer may subscribe to: two, and one for each model it cares for."""
MAX_CONTROLS: Final = 256
MAX_IDS: Final = 1_000
MAX_ANSWERED_IDS: Final = 32
"""Messages sent for one IWANT, each once; a peer that missed more asks again."""
HEARTBEAT_SECONDS: Final = 1
SEEN_SECONDS: Final = 120
MESSAGES_PER_SECOND: Final = 200
"""From one peer, duplicates included; a busy topic of this network has some tens.  More are ignored."""
IGNORED_AT_ONCE: Final = 2_000
"""Ignored messages before the peer that sends them is dropped."""
JUDGED_PER_SECOND: Final = 500
"""From all peers: each costs a signature check and whatever its validator does."""
REJECTED_PER_SECOND: Final = 0.2
REJECTED_AT_ONCE: Final = 20
"""An honest peer forwards none of what a validator rejects; some slack for rules that are just changing."""
MAX_REJECTED_PEERS: Final = 1_024

log = logging.getLogger(__name__)


class BadGossip(Exception):
    """What only a faulty or hostile peer sends."""


class Audience(Protocol):
    """Those on this node who listen to a topic."""

    def hear(self, gossip: Gossip) -> GossipVerdict:
        """Judge *gossip* and, when it is accepted, deliver it."""
        ...


@asynccontextmanager
async def open_gossip(
    host: MeshHost,
    audience: Audience,
    best: Callable[[PeerId], MeshConn | None],
    drop: Callable[[PeerId, str], None],
) -> AsyncIterator[GossipMesh]:
    """Take part in gossip.  *best* is the connection to use for a peer, *drop* is called with a peer that broke the
    rules and why."""
    router = MeshRouter()
    pubsub = MeshPubsub(host, router, audience, best, drop)
    async with open_service(pubsub), open_service(router):
        await pubsub.wait_until_ready()
        yield GossipMesh(pubsub)


class GossipMesh:
    def __init__(self, pubsub: MeshPubsub) -> None:
        self._pubsub = pubsub

    async def join(self, topic: str) -> None:
        await self._pubsub.subscribe(topic)

    async def leave(self, topic: str) -> None:
        await self._pubsub.unsubscribe(topic)

    async def publish(self, topic: str, data: bytes) -> None:
        if len(data) > MAX_GOSSIP_BYTES:
            raise MessageTooLarge(f"gossip has at most {MAX_GOSSIP_BYTES} bytes, this has {len(data)}")
        await self._pubsub.publish(topic, data)


class MeshRouter(GossipSub):
    """Gossipsub 1.1 with our limits.  The library's own guesses at spam and health are left out: they drop silently."""

    def __init__(self) -> None:
        super().__init__(
            [PROTOCOL_ID_V11],
            degree=6,
            degree_low=4,
            degree_high=12,
            heartbeat_interval=HEARTBEAT_SECONDS,
            do_px=False,
            adaptive_gossip_enabled=False,
            spam_protection_enabled=False,
            eclipse_protection_enabled=False,
            max_pending_messages_per_peer=1,
        )

    async def publish(self, msg_forwarder: ID, pubsub_msg: rpc_pb2.Message) -> None:
        await super().publish(msg_forwarder, pubsub_msg)
        self.recent_message_deliveries.clear()  # a statistic of what we switched off, never trimmed

    async def handle_prune(self, prune_msg: rpc_pb2.ControlPrune, sender_peer_id: ID) -> None:
        if prune_msg.topicID in self.mesh:
            del prune_msg.peers[:]
            await super().handle_prune(prune_msg, sender_peer_id)

    async def handle_ihave(self, ihave_msg: rpc_pb2.ControlIHave, sender_peer_id: ID) -> None:
        if ihave_msg.topicID in self.mesh:
            del ihave_msg.messageIDs[MAX_IDS:]
            await super().handle_ihave(ihave_msg, sender_peer_id)

    async def handle_iwant(self, iwant_msg: rpc_pb2.ControlIWant, sender_peer_id: ID) -> None:
        wanted = list(dict.fromkeys(iwant_msg.messageIDs[:MAX_IDS]))[:MAX_ANSWERED_IDS]
        await super().handle_iwant(rpc_pb2.ControlIWant(messageIDs=wanted), sender_peer_id)


class MeshPubsub(Pubsub):
    host: MeshHost

    def __init__(
        self,
        host: MeshHost,
        router: MeshRouter,
        audience: Audience,
        best: Callable[[PeerId], MeshConn | None],
        drop: Callable[[PeerId, str], None],
    ) -> None:
        super().__init__(
            host,
            router,
            seen_ttl=SEEN_SECONDS,
            strict_signing=True,
            max_subscriptions_per_rpc=MAX_TOPICS,
            max_subscriptions_per_peer=MAX_TOPICS,
            max_inbound_rpc_size=MAX_RPC_BYTES,
        )
        self.counter = time.time_ns()  # a lower one after a restart would make our messages look like repetitions
        self._audience = audience
        self._best = best
        self._drop = drop
        self._carriers: dict[ID, MeshConn] = {}
        """The connections that our streams to peers are on."""
        self._judged = TokenBucket.full(JUDGED_PER_SECOND, JUDGED_PER_SECOND, trio.current_time())
        self._rejected: dict[ID, TokenBucket] = {}

    # --- our stream to each peer -----------------------------------------------------------------------------------
    #
    # The library leaves it on the connection that was there first, and when that closes it forgets what the peer has
    # subscribed to, though the peer says that once, on its own stream.  Here our stream moves to the best connection,
    # begins with our subscriptions, and what the peer said holds until the peer has no connection left.

    async def handle_peer_queue(self) -> None:
        self.event_handle_peer_queue_started.set()
        async for peer in self.peer_receive_channel:
            self._schedule_peer_stream_retry(peer)

    async def handle_dead_peer_queue(self) -> None:
        self.event_handle_dead_peer_queue_started.set()
        async for peer in self.dead_peer_receive_channel:
            self._look_after(peer)

    def _look_after(self, peer: ID) -> None:
        """A connection of *peer* is over."""
        if self._best_of(peer) is not None:
            self._schedule_peer_stream_retry(peer)
        else:
            self._carriers.pop(peer, None)
            super()._handle_dead_peer(peer)

    def _handle_dead_peer(self, peer_id: ID) -> None:
        """Our stream to *peer_id* has failed."""
        self._carriers.pop(peer_id, None)
        self._look_after(peer_id)

    def _best_of(self, peer: ID) -> MeshConn | None:
        return self._best(PeerId(str(peer)))

    async def _handle_new_peer(self, peer_id: ID) -> None:
        """Have our stream to *peer_id* on its best connection.  Raises SwarmException; the caller tries again."""
        while (conn := self._best_of(peer_id)) is not None and conn is not self._carriers.get(peer_id):
            try:
                stream = conn.wrap(await self.host.open_on(conn, PROTOCOL_ID_V11))
            except BaseLibp2pError as error:
                raise SwarmException(f"no stream for gossip: {error}") from error
            if conn.over.is_set():
                continue
            self._carriers[peer_id] = conn
            newcomer = peer_id not in self.peers
            self.peers[peer_id] = stream
            if newcomer:
                self.router.add_peer(peer_id, PROTOCOL_ID_V11)
                self.peer_queues[peer_id] = queue = RpcQueue()
                self.manager.run_task(self.handle_sending_messages, peer_id, stream, queue)
            self.peer_queues[peer_id].push(rpc_pb2.RPC())  # nothing; but a stream begins with our subscriptions
            if newcomer:
                await self._send_recent_messages_to_new_peer(peer_id)

    async def handle_sending_messages(self, peer_id: ID, stream: INetStream, queue: RpcQueue) -> None:
        """Write what is for *peer_id* to the stream of the moment."""
        begun: INetStream | None = None
        while (packet := await queue.pop()) is not None:
            stream = self.peers.get(peer_id, stream)
            try:
                if stream is begun or await self.write_msg(stream, self.get_hello_packet()):
                    begun = stream
                    if packet.ByteSize():
                        await self.write_msg(stream, packet)
            except BaseLibp2pError as error:
                log.debug("gossip was not sent", extra={"peer": str(peer_id)}, exc_info=error)
                self._handle_dead_peer(peer_id)

    # --- what a peer sends ---------------------------------------------------------------------------------------

    async def stream_handler(self, stream: INetStream) -> None:
        peer = stream.muxed_conn.peer_id
        try:
            await self._read(stream, peer)
        except (StreamError, IncompleteReadError):
            pass  # its connection or its stream ended; the library opens another when the peer is still there
        except Exception as error:
            log.info("bad gossip", extra={"peer": str(peer)}, exc_info=error)
            self._drop(PeerId(str(peer)), f"gossip that breaks the rules ({str(error) or type(error).__name__})")

    async def _read(self, stream: INetStream, peer: ID) -> None:
        now = trio.current_time()
        allowed = TokenBucket.full(MESSAGES_PER_SECOND, 2 * MESSAGES_PER_SECOND, now)
        ignored = TokenBucket.full(MESSAGES_PER_SECOND, IGNORED_AT_ONCE, now)
        first = True
        while True:
            packet = rpc_pb2.RPC()
            packet.ParseFromString(await read_varint_prefixed_bytes_limited(stream, MAX_RPC_BYTES))
            packet.ClearField("senderRecord")  # addresses come with a peer's own words, see `frames.About`
            if len(packet.subscriptions) > MAX_TOPICS:
                raise BadGossip("too many subscriptions at once")
            if first:
                self._forget_all_but(peer, {said.topicid for said in packet.subscriptions if said.subscribe})
                first = False
            for subscription in packet.subscriptions:
                self.handle_subscription(peer, subscription)
            for message in packet.publish:
                if allowed.take(trio.current_time()):
                    await self.push_msg(peer, message)
                elif not ignored.take(trio.current_time()):
                    raise BadGossip("too many messages")
            if packet.HasField("control"):
                await self._control(peer, packet)

    def _forget_all_but(self, peer: ID, topics: set[str]) -> None:
        """A stream begins with all that its peer subscribes to; what it left meanwhile may have been lost."""
        for topic in [topic for topic, peers in self.peer_topics.items() if peer in peers and topic not in topics]:
            self._forget_subscription(peer, topic)

    async def _control(self, peer: ID, packet: rpc_pb2.RPC) -> None:
        control = packet.control
        entries = len(control.ihave) + len(control.iwant) + len(control.graft) + len(control.prune)
        if entries > MAX_CONTROLS or control.idontwant:
            raise BadGossip("too much control, or a kind that we did not offer")
        await self.router.handle_rpc(packet, peer)

    # --- one message ---------------------------------------------------------------------------------------------

    async def push_msg(self, msg_forwarder: ID, msg: rpc_pb2.Message) -> None:
        """Take a message from a peer or from ourselves.  Raises `BadGossip`, or what its signature stumbles over."""
        own = msg_forwarder == self.my_id
        if len(msg.topicIDs) != 1 or len(msg.data) > MAX_GOSSIP_BYTES or len(msg.seqno) != 8:
            raise BadGossip("a message that is not one of ours")
        topic = msg.topicIDs[0]
        if self._is_msg_seen(msg) or not (own or topic in self.topic_ids) or (not own and self._from_us(msg)):
            return
        if not own:
            if not self._judged.take(trio.current_time()):
                return
            if not signature_validator(msg):
                raise BadGossip("a message that its author did not sign")
        self._mark_msg_seen(msg)
        if own or self._accepts(msg_forwarder, topic, msg.data):
            await self.router.publish(msg_forwarder, msg)

    def _from_us(self, msg: rpc_pb2.Message) -> bool:
        return bool(msg.from_id == self.my_id.to_bytes())

    def _accepts(self, forwarder: ID, topic: str, data: bytes) -> bool:
        verdict = self._audience.hear(Gossip(topic, data, PeerId(str(forwarder))))
        if verdict == "reject":
            now = trio.current_time()
            if len(self._rejected) > MAX_REJECTED_PEERS:
                self._rejected.clear()
            slack = self._rejected.setdefault(forwarder, TokenBucket.full(REJECTED_PER_SECOND, REJECTED_AT_ONCE, now))
            if not slack.take(now):
                raise BadGossip("it keeps forwarding messages that break the rules")
        return verdict == "accept"
