"""Gossipsub, made safe: every message signed, bounded in size and rate, judged once; whoever breaks that is dropped."""

from __future__ import annotations

import logging
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, Protocol

import trio
from libp2p.io.exceptions import IncompleteReadError
from libp2p.network.stream.exceptions import StreamError
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11, GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.pubsub.validators import signature_validator
from libp2p.utils.varint import read_varint_prefixed_bytes_limited

from cactus_mesh.errors import MessageTooLarge
from cactus_mesh.identity import PeerId
from cactus_mesh.net.buckets import TokenBucket
from cactus_mesh.net.services import open_service
from cactus_mesh.ports import Gossip

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from libp2p.abc import IHost, INetStream
    from libp2p.peer.id import ID

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
    host: IHost, audience: Audience, drop: Callable[[PeerId, str], None]
) -> AsyncIterator[GossipMesh]:
    """Take part in gossip.  *drop* is called with a peer that broke the rules and why."""
    router = MeshRouter()
    pubsub = MeshPubsub(host, router, audience, drop)
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
    def __init__(
        self, host: IHost, router: MeshRouter, audience: Audience, drop: Callable[[PeerId, str], None]
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
        self._drop = drop
        self._judged = TokenBucket.full(JUDGED_PER_SECOND, JUDGED_PER_SECOND, trio.current_time())
        self._rejected: dict[ID, TokenBucket] = {}

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
        while True:
            packet = rpc_pb2.RPC()
            packet.ParseFromString(await read_varint_prefixed_bytes_limited(stream, MAX_RPC_BYTES))
            packet.ClearField("senderRecord")  # addresses come with a peer's own words, see `frames.About`
            if len(packet.subscriptions) > MAX_TOPICS:
                raise BadGossip("too many subscriptions at once")
            for subscription in packet.subscriptions:
                self.handle_subscription(peer, subscription)
            for message in packet.publish:
                if allowed.take(trio.current_time()):
                    await self.push_msg(peer, message)
                elif not ignored.take(trio.current_time()):
                    raise BadGossip("too many messages")
            if packet.HasField("control"):
                await self._control(peer, packet)

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
