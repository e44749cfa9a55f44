"""Multiaddrs that this network uses: what they say, which can be dialled, which a listener can be reached at.

``/ip4|ip6|dns|dns4|dns6/HOST/tcp/PORT[/p2p/PEER]`` and, through a relay, ``…/p2p/RELAY/p2p-circuit[/p2p/PEER]``.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from cactus_mesh.errors import AddressMalformed
from cactus_mesh.identity import PeerId, public_key_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_FAMILIES: Final = ("ip4", "ip6", "dns", "dns4", "dns6")
_MAX_CHARACTERS: Final = 400
_MAX_HOST_CHARACTERS: Final = 253
_HOST_NAME: Final = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?")
_EXAMPLE: Final = "it should look like /ip4/203.0.113.7/tcp/4001/p2p/12D3KooW…"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a peer listens, or the relay that it can be reached through.  *peer* None: whoever answers there."""

    family: str
    host: str
    port: int
    peer: PeerId | None = None
    relay: PeerId | None = None

    @property
    def wildcard(self) -> bool:
        return self.family in ("ip4", "ip6") and ipaddress.ip_address(self.host).is_unspecified

    @property
    def loopback(self) -> bool:
        return self.family in ("ip4", "ip6") and ipaddress.ip_address(self.host).is_loopback

    @property
    def endpoint(self) -> str:
        return f"/{self.family}/{self.host}/tcp/{self.port}"

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
    address = Address(parts[0], _host(parts[0], parts[1], text), _port(parts[3], text))
    return _with_peers(address, parts[4:], text)


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
        if address.peer not in (None, peer) or address.wildcard or address.port == 0 or own in (peer, address.relay):
            continue
        if address.relay != peer:
            found[replace(address, peer=peer)] = None
    return sorted(found, key=lambda address: address.relay is not None)


def reachable_at(bound: Iterable[Address], interfaces: Sequence[str]) -> list[Address]:
    """Where listeners on *bound* can be reached, wildcards expanded to the machine's *interfaces* (IP addresses).

    Loopback is named only when there is nothing else: it helps nobody on another machine.
    """
    found: dict[Address, None] = {}
    for address in bound:
        for host in _hosts(address, interfaces):
            found[replace(address, host=host)] = None
    elsewhere = [address for address in found if not address.loopback]
    return elsewhere or list(found)


def _hosts(address: Address, interfaces: Sequence[str]) -> list[str]:
    if not address.wildcard:
        return [address.host]
    hosts = [host for host in interfaces if (":" in host) == (address.family == "ip6")]
    return hosts or (["::1"] if address.family == "ip6" else ["127.0.0.1"])
