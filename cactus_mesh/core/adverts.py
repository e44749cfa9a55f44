"""Which peers say that they serve what, and until when.

Decides whose advert is current and how often to send one; knows neither how adverts travel nor how good a peer is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sortedcontainers import SortedSet

from cactus_mesh.messages import MAX_VALIDITY_MS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cactus_mesh.identity import PublicKey
    from cactus_mesh.messages import Advert, Sealed

LEASE_HEARTBEATS: Final = 3
"""An advert outlives two lost successors."""
MIN_HEARTBEAT_SECONDS: Final = 5.0
MAX_HEARTBEAT_SECONDS: Final = MAX_VALIDITY_MS / 1_000 / LEASE_HEARTBEATS
"""A lease cannot outlast a message.  Reached at 12,000 peers, beyond which a peer's load grows again."""
ADVERTS_PER_SECOND: Final = 10.0
"""What one peer should receive at most; a gossiped message costs 6-12 ms of CPU over the network."""
MAX_ADVERTS: Final = 200_000
"""About 1 KiB each: the memory of a router that knows every peer of a very large network."""


def heartbeat_seconds(peers_seen: int) -> float:
    """How long to wait between one's own adverts, so that a peer's load does not grow with the network."""
    return min(MAX_HEARTBEAT_SECONDS, max(MIN_HEARTBEAT_SECONDS, peers_seen / ADVERTS_PER_SECOND))


def lease_seconds(peers_seen: int) -> float:
    """How long an advert sent now is valid."""
    return LEASE_HEARTBEATS * heartbeat_seconds(peers_seen)


class AdvertBook:
    """The newest unexpired advert of each peer, at most `MAX_ADVERTS`; the one that expires first makes room."""

    def __init__(self) -> None:
        self._adverts: dict[PublicKey, Sealed[Advert]] = {}
        self._by_expiry: SortedSet[tuple[int, PublicKey]] = SortedSet()

    def __len__(self) -> int:
        return len(self._adverts)

    def __iter__(self) -> Iterator[Sealed[Advert]]:
        return iter(self._adverts.values())

    def get(self, peer: PublicKey) -> Sealed[Advert] | None:
        return self._adverts.get(peer)

    def hear(self, advert: Sealed[Advert], now_ms: int) -> bool:
        """Take in *advert*; False when it is expired or not newer than what is known."""
        known = self._adverts.get(advert.sender)
        if advert.expires_at_ms <= now_ms or (known and advert.body.sequence <= known.body.sequence):
            return False
        self.forget(advert.sender)
        if len(self._adverts) >= MAX_ADVERTS:
            self.forget(self._by_expiry[0][1])
        self._adverts[advert.sender] = advert
        self._by_expiry.add((advert.expires_at_ms, advert.sender))
        return True

    def forget(self, peer: PublicKey) -> None:
        known = self._adverts.pop(peer, None)
        if known is not None:
            self._by_expiry.remove((known.expires_at_ms, peer))

    def ending(self, before_ms: int) -> Iterator[PublicKey]:
        """Peers whose lease ends earlier than that, the first to end first."""
        for expires_at_ms, peer in self._by_expiry:
            if expires_at_ms >= before_ms:
                return
            yield peer

    def expire(self, now_ms: int) -> list[PublicKey]:
        """Forget every peer whose lease has ended, and name them."""
        ended: list[PublicKey] = []
        while self._by_expiry and self._by_expiry[0][0] <= now_ms:
            ended.append(self._by_expiry[0][1])
            self.forget(ended[-1])
        return ended
