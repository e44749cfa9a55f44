"""What a node tells its network adapter, and what the adapter tells of itself.  Does not import libp2p."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path  # noqa: TC003 - part of a public dataclass's annotations
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from cactus_mesh.core.reachability import Nat, Reach, Step
    from cactus_mesh.identity import PeerId

DEFAULT_LISTEN: Final = ("/ip4/0.0.0.0/tcp/0",)


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds, with room for one machine's work: a connection costs about 60 kB and a little processor time."""

    inbound_connections: int = 256
    outbound_connections: int = 128
    connections_per_peer: int = 4
    """More than one only while both sides dial at once, or an old one has not been found dead yet."""
    pending_connections: int = 128
    """Accepted and not yet past their hello; beyond, the oldest gives way, so that silent ones cannot block others."""
    known_peers: int = 256
    """Remembered across restarts."""
    relay_reservations: int = 128
    relay_reservations_per_range: int = 32
    """A range is an IPv4 /24 or an IPv6 /48.  An office behind one address fits; a few greedy ones exhaust no relay."""
    relay_circuits: int = 512
    relay_circuits_per_peer: int = 64
    relay_circuits_per_range: int = 128
    relay_bytes_per_second: int = 64 << 20
    """Of all circuits together, shared fairly among the peers that opened them: about what one core can carry."""
    circuit_bytes: int = 1 << 30
    """One circuit's life: a generation of 64k tokens with its receipt is a few MiB, and there are many of them."""
    circuit_seconds: int = 3_600


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """How to be in the network.

    *listen* may be empty: then nobody can dial this peer.  *announce* are addresses at which it can be reached besides
    those that it finds itself (a forwarded port).  *bootstrap* addresses should name their peer (``/p2p/…``).
    """

    listen: tuple[str, ...] = DEFAULT_LISTEN
    announce: tuple[str, ...] = ()
    bootstrap: tuple[str, ...] = ()
    known_peers_file: Path | None = None
    serve_dht: bool = True
    serve_relay: bool = False
    relays: Literal["auto", "always", "never"] = "auto"
    """Whether to keep reservations at relays: when nobody can reach this machine otherwise, or as said."""
    mdns: bool = False
    """Whether to find, and be found by, peers of the same LAN."""
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class RelayUse:
    """Reservations and circuits of now, and bytes that it has passed on since the start."""

    reservations: int
    circuits: int
    carried_bytes: int


@dataclass(frozen=True, slots=True)
class NetworkStatus:
    """What a person asks first when nothing happens.  *attempts* maps an address to why it failed last.

    *observed* are the endpoints at which others see this machine (``/ip4/…/tcp/…``), *relays* those at which it holds a
    reservation, *steps* the ladder of reachability from its top.
    """

    connected: int
    known: int
    reachability: Reach
    nat: Nat
    port_preserving: bool | None
    """Whether the NAT keeps port numbers; None while that is not known, or without a NAT."""
    observed: tuple[str, ...]
    steps: tuple[Step, ...]
    relays: tuple[PeerId, ...]
    attempts: dict[str, str]
    dropped_gossip: int
    restarts: int
    serving: RelayUse | None = None
    """What it carries for others; None where it is no relay."""
