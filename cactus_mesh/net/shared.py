"""What the network adapter keeps while hosts come and go: identity, handlers, address book, listeners, counters."""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

import trio

from cactus_mesh.net.rpc import Methods

if TYPE_CHECKING:
    from collections.abc import Callable

    from cactus_mesh.identity import Identity, PeerId
    from cactus_mesh.messages import Hello
    from cactus_mesh.net.peers import AddressBook
    from cactus_mesh.net.settings import NetworkSettings
    from cactus_mesh.ports import ConnectedPeer, Gossip, GossipVerdict

CHANNEL_ITEMS: Final = 256
"""Waiting for a reader of gossip or arrivals: seconds of the busiest topic; the newest is dropped beyond that."""
MAX_ATTEMPTS: Final = 64

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, eq=False, slots=True)
class Listener:
    """One subscription to a topic."""

    validate: Callable[[bytes], GossipVerdict]
    into: trio.MemorySendChannel[Gossip]

    def judge(self, gossip: Gossip) -> GossipVerdict:
        try:
            return self.validate(gossip.data)
        except Exception:
            log.exception("a validator failed", extra={"topic": gossip.topic})
            return "ignore"


@dataclass(slots=True)
class Shared:
    identity: Identity
    hello: Hello
    settings: NetworkSettings
    book: AddressBook
    methods: Methods = field(default_factory=Methods)
    watchers: list[trio.MemorySendChannel[ConnectedPeer]] = field(default_factory=list)
    listeners: dict[str, list[Listener]] = field(default_factory=dict)
    """Those who subscribed, by topic."""
    provided: set[str] = field(default_factory=set)
    attempts: OrderedDict[str, str] = field(default_factory=OrderedDict)
    """Address to the reason why it failed last."""
    dropped: int = 0
    restarts: int = 0

    def attempted(self, address: str, reason: str) -> None:
        """*address*, which names its peer, did not lead to it."""
        self.attempts.pop(address, None)
        self.attempts[address] = reason
        if len(self.attempts) > MAX_ATTEMPTS:
            self.attempts.popitem(last=False)
        log.info("an address did not lead to its peer", extra={"address": address, "reason": reason})

    def reached(self, peer: PeerId) -> None:
        """*peer* is connected: what was tried before does not matter any more."""
        for address in [address for address in self.attempts if address.endswith(peer)]:
            del self.attempts[address]

    def hear(self, gossip: Gossip) -> GossipVerdict:
        """Ask those who listen, and deliver to those who accept."""
        verdicts: set[GossipVerdict] = set()
        for listener in self.listeners.get(gossip.topic, ()):
            verdict = listener.judge(gossip)
            verdicts.add(verdict)
            if verdict == "accept":
                self.offer(listener.into, gossip)
        if "reject" in verdicts:
            return "reject"
        return "accept" if "accept" in verdicts else "ignore"

    def offer(self, channel: trio.MemorySendChannel[T], item: T) -> None:
        try:
            channel.send_nowait(item)
        except trio.WouldBlock:
            self.dropped += 1
