"""What a node tells of its network in JSON: its own reachability, and of each peer the path and why it is that one.

Also what it finds out when asked: a round trip, and whether a relayed path becomes a direct one.

The keys are documented in docs/operating.md and stay as they are.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import trio

from cactus_mesh.errors import AddressMalformed, CallTimeout, MeshError
from cactus_mesh.identity import PeerId, public_key_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cactus_mesh.config import Config
    from cactus_mesh.identity import Identity
    from cactus_mesh.net import NetworkStatus
    from cactus_mesh.net.network import MeshNetwork
    from cactus_mesh.ports import ConnectedPeer

PING_SECONDS: Final = 20.0
"""Direct addresses, a relay and the answer; a hole is punched beside it."""
PUNCH_SECONDS: Final = 6.0
"""A hole is there within 5 s or not at all."""
PUNCH_POLL_SECONDS: Final = 0.2
WILLING_ASKED: Final = 6
WILLING_SECONDS: Final = 4.0
"""For reaching one that is not connected yet."""
LEAST_END: Final = 4
"""Characters of a peer id's end that may stand for it, when it is connected."""


def self_snapshot(
    identity: Identity, config: Config, roles: Sequence[str], network: MeshNetwork, started_at: float
) -> dict[str, Any]:
    """Who this is, since when (Unix seconds), and how it is connected."""
    return {
        "peer_id": identity.peer_id,
        "address": identity.address,
        "network": config.network,
        "ledger": config.ledger,
        "roles": list(roles),
        "bootstrap": list(config.bootstrap),
        "started_at": round(started_at, 3),
        "addresses": network.addresses(),
        **network_snapshot(network.status()),
    }


def answers_about(network: MeshNetwork) -> dict[str, Callable[[str], object]]:
    """What the command line asks of whoever is connected."""
    return {
        "peers": lambda _: [peer_snapshot(peer) for peer in network.peers()],
        "ping": lambda target: ping(network, target),
        "punch": lambda _: try_punch(network),
    }


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


async def ping(network: MeshNetwork, target: str) -> dict[str, Any]:
    """The path to a peer and its round trip now; *target* as in `whom`.  Raises `CallTimeout` and what it raises."""
    peer, addresses = whom(target, [each.peer for each in network.peers()])
    with trio.move_on_after(PING_SECONDS):
        return peer_snapshot(await network.ping(peer, addresses))
    raise CallTimeout(f"{peer} does not answer within {PING_SECONDS:.0f} s")


async def try_punch(network: MeshNetwork) -> dict[str, Any]:
    """Whether the path to a peer that only a relay reaches becomes a direct one while we wait.

    *succeeded* is None where no such peer is to be found; *tested* says in words what was done.
    """
    peer = await _reached_by_relay(network)
    if peer is None:
        return {
            "tested": "nobody here is reached through a relay, so there is nobody to try it with",
            "succeeded": None,
        }
    began = trio.current_time()
    why = "it is no longer connected"
    with trio.move_on_after(PUNCH_SECONDS):
        while (found := _connected(network, peer)) is not None:
            if not found.relayed:
                seconds = trio.current_time() - began
                return {"tested": f"the path to …{peer[-8:]} became direct in {seconds:.1f} s", "succeeded": True}
            why = found.why_relayed or f"no direct connection within {PUNCH_SECONDS:.0f} s"
            await trio.sleep(PUNCH_POLL_SECONDS)
    return {"tested": f"the path to …{peer[-8:]} stayed relayed: {why}", "succeeded": False}


def _connected(network: MeshNetwork, peer: PeerId) -> ConnectedPeer | None:
    return next((each for each in network.peers() if each.peer == peer), None)


async def _reached_by_relay(network: MeshNetwork) -> PeerId | None:
    """A peer whose path is relayed now: one that is connected, or one of those that offer something in the DHT."""
    relayed = [each.peer for each in network.peers() if each.relayed]
    if relayed:
        return relayed[0]
    known = {each.peer for each in network.peers()}
    offering = [peer for role in ("orchestrator", "router") for peer in await network.providers(f"role/{role}")]
    for peer in [peer for peer in dict.fromkeys(offering) if peer not in known][:WILLING_ASKED]:
        try:
            with trio.fail_after(WILLING_SECONDS):
                if (await network.connect(peer)).relayed:
                    return peer
        except (MeshError, trio.TooSlowError):
            continue  # a record may be older than its peer
    return None
