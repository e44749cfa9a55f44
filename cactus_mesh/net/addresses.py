"""Multiaddrs that this network uses: what they say, how far they carry, which are worth telling and dialling.

``/ip4|ip6|dns|dns4|dns6/HOST/tcp/PORT[/ws|/wss][/p2p/PEER]``; through a relay ``…/p2p/RELAY/p2p-circuit[/p2p/PEER]``.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal

from cactus_mesh.errors import AddressMalformed
from cactus_mesh.identity import PeerId, public_key_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Transport = Literal["tcp", "ws", "wss"]
_SUFFIX: Final[dict[Transport, str]] = {"tcp": "", "ws": "/ws", "wss": "/wss"}
_FAMILIES: Final = ("ip4", "ip6", "dns", "dns4", "dns6")
_MAX_CHARACTERS: Final = 400
_MAX_HOST_CHARACTERS: Final = 253
_HOST_NAME: Final = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?")
_EXAMPLE: Final = "it should look like /ip4/203.0.113.7/tcp/4001/p2p/12D3KooW…"


_PRIVATE: Final = tuple(
    map(
        ipaddress.ip_network,
        (
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "169.254.0.0/16",
            "100.64.0.0/10",
            "fc00::/7",
            "fe80::/10",
            "fec0::/10",
        ),
    )
)
"""RFC 1918, 3927, 6598, 4193, 4291.  Not what ``ipaddress`` calls private: that has networks for documentation too."""


class Scope(IntEnum):
    """How far an address carries: nowhere, within its machine, within its site, everywhere."""

    NOWHERE = 0
    LOOPBACK = 1
    PRIVATE = 2
    GLOBAL = 3


@lru_cache(4_096)
def scope_of(host: str) -> Scope:
    """The scope of an IP address, or of a host's name."""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        name = host.rstrip(".").lower()
        if name == "localhost" or name.endswith(".localhost"):
            return Scope.LOOPBACK
        return Scope.PRIVATE if name.endswith(".local") or "." not in name else Scope.GLOBAL
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if ip.is_loopback:
        return Scope.LOOPBACK
    if any(ip in network for network in _PRIVATE if network.version == ip.version):
        return Scope.PRIVATE
    if ip.is_unspecified or ip.is_multicast or ip.is_reserved or (ip.version == 4 and ip.packed[0] in (0, 255)):
        return Scope.NOWHERE
    return Scope.GLOBAL


@dataclass(frozen=True, slots=True)
class Address:
    """Where a peer listens, or the relay that it can be reached through.  *peer* None: whoever answers there."""

    family: str
    host: str
    port: int
    peer: PeerId | None = None
    relay: PeerId | None = None
    transport: Transport = "tcp"

    @property
    def wildcard(self) -> bool:
        return self.family in ("ip4", "ip6") and ipaddress.ip_address(self.host).is_unspecified

    @property
    def loopback(self) -> bool:
        return self.scope is Scope.LOOPBACK

    @property
    def scope(self) -> Scope:
        """Of a circuit, that of the relay's address."""
        return scope_of(self.host)

    @property
    def endpoint(self) -> str:
        return f"/{self.family}/{self.host}/tcp/{self.port}{_SUFFIX[self.transport]}"

    def __str__(self) -> str:
        circuit = f"/p2p/{self.relay}/p2p-circuit" if self.relay else ""
        return self.endpoint + circuit + (f"/p2p/{self.peer}" if self.peer else "")


def parse_address(text: str) -> Address:
    """Raises `AddressMalformed`, saying what is wrong and how it should look."""
    if len(text) > _MAX_CHARACTERS:
        raise AddressMalformed(f"an address of {len(text)} characters; {_EXAMPLE}")
    empty, *parts = text.split("/")
    if empty or len(parts) < 4 or parts[0] not in _FAMILIES or parts[2] != "tcp":
        raise AddressMalformed(f"{text!r} is not an address that can be used here; {_EXAMPLE}")
    transport, rest = _transport(parts[4:])
    address = Address(parts[0], _host(parts[0], parts[1], text), _port(parts[3], text), transport=transport)
    return _with_peers(address, rest, text)


def _transport(parts: Sequence[str]) -> tuple[Transport, Sequence[str]]:
    match parts:
        case ["ws", *rest]:
            return "ws", rest
        case ["wss", *rest] | ["tls", "ws", *rest]:
            return "wss", rest
    return "tcp", parts


def _host(family: str, host: str, text: str) -> str:
    try:
        if family == "ip4":
            return str(ipaddress.IPv4Address(host))
        if family == "ip6":
            return str(ipaddress.IPv6Address(host))
    except ValueError:
        raise AddressMalformed(f"{text!r}: {host!r} is not an {family} address; {_EXAMPLE}") from None
    if not 0 < len(host) <= _MAX_HOST_CHARACTERS or not _HOST_NAME.fullmatch(host):
        raise AddressMalformed(f"{text!r}: {host!r} is not a host name; {_EXAMPLE}")
    return host


def _port(digits: str, text: str) -> int:
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 5 and int(digits) <= 65_535):
        raise AddressMalformed(f"{text!r}: {digits!r} is not a TCP port; {_EXAMPLE}")
    return int(digits)


def _with_peers(address: Address, parts: Sequence[str], text: str) -> Address:
    match parts:
        case []:
            return address
        case ["p2p", peer]:
            return replace(address, peer=_peer(peer, text))
        case ["p2p", relay, "p2p-circuit"]:
            return replace(address, relay=_peer(relay, text))
        case ["p2p", relay, "p2p-circuit", "p2p", peer]:
            return replace(address, relay=_peer(relay, text), peer=_peer(peer, text))
    raise AddressMalformed(f"{text!r} is not an address that can be used here; {_EXAMPLE}")


def _peer(text: str, where: str) -> PeerId:
    try:
        public_key_of(text)
    except ValueError as error:
        raise AddressMalformed(f"{where!r}: {error}; {_EXAMPLE}") from None
    return PeerId(text)


def dialable(texts: Iterable[str], peer: PeerId, own: PeerId) -> list[Address]:
    """Those of *texts* that may lead to *peer*: direct ones first, no repetitions.  Others are left out silently:
    what peers say about addresses is often stale or private, and never an error of ours."""
    found: dict[Address, None] = {}
    for text in texts:
        try:
            address = parse_address(text)
        except AddressMalformed:
            continue
        if address.peer not in (None, peer) or not _leads_somewhere(address) or own in (peer, address.relay):
            continue
        if address.relay != peer:
            found[replace(address, peer=peer)] = None
    return sorted(found, key=lambda address: address.relay is not None)


def _leads_somewhere(address: Address) -> bool:
    return address.port != 0 and address.scope is not Scope.NOWHERE


def usable(text: str, peer: PeerId) -> Address | None:
    """*text* as an address of *peer*, whose id is left out; None when it cannot lead there."""
    try:
        address = parse_address(text)
    except AddressMalformed:
        return None
    if address.peer not in (None, peer) or address.relay == peer or not _leads_somewhere(address):
        return None
    return replace(address, peer=None)


def scopes(texts: Iterable[str]) -> list[Scope]:
    return [parse_address(text).scope for text in texts]


def worth_telling(texts: Iterable[str], scope: Scope) -> list[str]:
    """Those of *texts* that somebody at the other end of a connection of this *scope* may be able to dial."""
    return [text for text in texts if parse_address(text).scope >= scope]


def worth_hearing(texts: Iterable[str], peer: PeerId, scope: Scope, seen_at: str | None) -> list[str]:
    """What *peer* says of itself over a connection of this *scope*, without what cannot lead there from here.

    *seen_at* is its host as we see it, None through a relay.  A private address counts only when the peer is seen at
    one that it names: else there is a NAT between us, and its private addresses are somebody else's here.
    """
    told = [address for text in texts if (address := usable(text, peer)) is not None and address.scope >= scope]
    if scope is Scope.PRIVATE and seen_at not in {address.host for address in told if address.relay is None}:
        told = [address for address in told if address.scope is not Scope.PRIVATE or address.relay is not None]
    return list(dict.fromkeys(map(str, told)))


def reachable_at(bound: Iterable[Address], interfaces: Sequence[str]) -> list[Address]:
    """Where listeners on *bound* may be reached, the widest scope first, wildcards expanded to the machine's
    *interfaces* (IP addresses) and the loopback."""
    found: dict[Address, None] = {}
    for address in bound:
        for host in _hosts(address, interfaces):
            found[replace(address, host=host)] = None
    return sorted(found, key=lambda address: -address.scope)


def _hosts(address: Address, interfaces: Sequence[str]) -> list[str]:
    if not address.wildcard:
        return [address.host]
    hosts = [host for host in interfaces if (":" in host) == (address.family == "ip6")]
    return [*hosts, "::1" if address.family == "ip6" else "127.0.0.1"]
