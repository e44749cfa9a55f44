"""What a node tells of its network in JSON: its own reachability, and of each peer the path and why it is that one.

The keys are documented in docs/operating.md and stay as they are.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from cactus_mesh.errors import AddressMalformed
from cactus_mesh.identity import PeerId, public_key_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cactus_mesh.net import NetworkStatus
    from cactus_mesh.ports import ConnectedPeer

LEAST_END: Final = 4
"""Characters of a peer id's end that may stand for it, when it is connected."""


def network_snapshot(status: NetworkStatus) -> dict[str, Any]:
    return {
        "peers": status.connected,
        "peers_known": status.known,
        "reachability": status.reachability,
        "nat": status.nat,
        "port_preserving": status.port_preserving,
        "observed": list(status.observed),
        "steps": [
            {**asdict(step), "seconds": round(step.seconds, 3), "since": round(step.since, 3)} for step in status.steps
        ],
        "relays": list(status.relays),
        "failed_dials": status.attempts,
        "gossip_dropped": status.dropped_gossip,
        "network_restarts": status.restarts,
    }


def peer_snapshot(peer: ConnectedPeer) -> dict[str, Any]:
    return {
        "peer_id": peer.peer,
        "roles": list(peer.roles),
        "relayed": peer.relayed,
        "relay": peer.relay,
        "why_relayed": peer.why_relayed or None,
        "address": peer.address,
        "rtt_ms": None if peer.rtt_ms is None else round(peer.rtt_ms, 2),
        "since": round(peer.since, 3),
        "agent": peer.agent,
    }


def whom(target: str, connected: Sequence[PeerId]) -> tuple[PeerId, list[str]]:
    """The peer that *target* names, and where: a peer id, its end if it is *connected*, or a multiaddr with /p2p/.

    Raises `AddressMalformed`.
    """
    from cactus_mesh.net.addresses import parse_address

    if target.startswith("/"):
        address = parse_address(target)
        if address.peer is None:
            raise AddressMalformed(f"the address {target!r} must say who is there: add /p2p/ and its peer id")
        return address.peer, [target]
    try:
        public_key_of(target)
    except ValueError:
        end = target.rpartition("…")[2]
        meant = [peer for peer in connected if len(end) >= LEAST_END and peer.endswith(end)]
        if len(meant) == 1:
            return meant[0], []
        raise AddressMalformed(
            f"{target!r} is neither a peer id (12D3KooW…) nor an address (/ip4/…/tcp/…/p2p/12D3KooW…), "
            f"and {'several connected peers end so' if meant else 'no connected peer ends so'}"
        ) from None
    return PeerId(target), []
