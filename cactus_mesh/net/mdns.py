"""Peers of the same LAN, by multicast DNS (libp2p specification ``discovery/mdns``).

Decides what is announced and which answers are worth a look; whoever answers still has to prove its id, by Noise.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import secrets
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

import trio
from multiaddr.utils import get_network_addrs
from zeroconf import Error, ServiceBrowser, ServiceInfo, ServiceListener, Zeroconf

from cactus_mesh.errors import AddressMalformed
from cactus_mesh.net.addresses import Address, parse_address

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence

    from cactus_mesh.identity import PeerId

SERVICE: Final = "_p2p._udp.local."
PORT: Final = 4001
"""An SRV record needs one; the specification says that nobody looks at it."""
MAX_TOLD: Final = 8
"""Addresses of one peer: IPv4 and IPv6 of a few interfaces.  More in an answer are not read."""
MAX_WAITING: Final = 64
"""Answers that were not looked at yet; a LAN with more peers announces itself again and again."""
MAX_TEXT_BYTES: Final = 8_192
LOOK_MS: Final = 3_000
"""For one name's records to arrive."""
CHECK_SECONDS: Final = 5.0
"""Between two looks at our own addresses: a laptop changes networks."""
RETRY_SECONDS: Final = 60.0
LOOK_SECONDS: Final = 5.0
"""For somebody on the LAN to answer one who knows nobody else: an answer mostly comes within one."""
_ADDRESS: Final = b"dnsaddr="
_NETWORK: Final = b"network="
"""Beside what the specification says, so that two networks of one LAN leave each other in peace."""

log = logging.getLogger(__name__)


class Found(Protocol):
    def __call__(self, peer: PeerId, addresses: Sequence[str]) -> None:
        """*peer* says that it listens at *addresses* of this LAN; called in the trio thread."""
        ...


@dataclass(frozen=True, slots=True)
class Neighbour:
    """What one answer says."""

    peer: PeerId
    addresses: tuple[str, ...]


def neighbour(text: bytes, network: str) -> Neighbour | None:
    """What the TXT record *text* says; None for another network's, and for what cannot be used.

    Only numeric addresses of LANs: a name or a public address needs no multicast, and could name anybody.
    """
    entries = list(_entries(text[:MAX_TEXT_BYTES]))
    if _NETWORK + network.encode() not in entries:
        return None
    told = [entry.removeprefix(_ADDRESS) for entry in entries if entry.startswith(_ADDRESS)]
    found = [address for each in told[:MAX_TOLD] if (address := _usable(each)) is not None]
    peers = {address.peer for address in found}
    if len(peers) != 1:
        return None
    (peer,) = peers
    assert peer is not None, "_usable says so"
    return Neighbour(peer, tuple(address.endpoint for address in found))


def announcement(network: str, addresses: Iterable[str]) -> bytes:
    """The TXT record about a peer that listens at *addresses*; empty when none of them belongs to a LAN."""
    told = [each for each in addresses if _usable(each.encode()) is not None][:MAX_TOLD]
    entries = [_NETWORK + network.encode(), *(_ADDRESS + each.encode() for each in told)] if told else []
    return b"".join(bytes((len(entry),)) + entry for entry in entries if len(entry) < 256)


def _entries(text: bytes) -> Iterator[bytes]:
    while text:
        length = text[0]
        yield text[1 : 1 + length]
        text = text[1 + length :]


def _usable(text: bytes) -> Address | None:
    try:
        address = parse_address(text.decode())
    except (AddressMalformed, UnicodeDecodeError):
        return None
    if address.family not in ("ip4", "ip6") or address.peer is None or address.relay is not None:
        return None
    return address if _on_lan(address.host) and address.port else None


def _on_lan(text: str) -> bool:
    host = ipaddress.ip_address(text)
    return host.is_private and not host.is_loopback and not host.is_unspecified and not host.is_link_local


async def neighbours(network: str) -> list[str]:
    """Addresses, with its peer id, of the first peer of *network* that answers on the LAN.  None when nobody does, or
    there is no LAN or no multicast; nothing is announced."""
    interfaces = [host for host in dict.fromkeys((*get_network_addrs(4), *get_network_addrs(6))) if _on_lan(host)]
    if not interfaces:
        return []
    into, answers = trio.open_memory_channel[bytes](MAX_WAITING)
    try:
        with trio.move_on_after(LOOK_SECONDS):
            async with _responding(interfaces) as responder:
                listener = _Answers(responder, "", into)
                await trio.to_thread.run_sync(partial(ServiceBrowser, responder, SERVICE, listener=listener))
                async for text in answers:
                    if (told := neighbour(text, network)) is not None:
                        return [f"{endpoint}/p2p/{told.peer}" for endpoint in told.addresses]
    except (OSError, Error) as error:
        log.info("no multicast DNS on this LAN", extra={"reason": str(error) or type(error).__name__})
    return []


@contextlib.asynccontextmanager
async def _responding(interfaces: list[str]) -> AsyncIterator[Zeroconf]:
    """Raises OSError and zeroconf's Error."""
    responder = await trio.to_thread.run_sync(partial(Zeroconf, interfaces=interfaces))
    try:
        yield responder
    finally:
        with trio.CancelScope(shield=True):  # says goodbye, well under a second
            await trio.to_thread.run_sync(responder.close)


async def look_around(network: str, own: PeerId, addresses: Callable[[], Sequence[str]], found: Found) -> None:
    """For ever: announce our *addresses* on the LAN, hear of others.  Without a LAN, or multicast, it just waits."""
    while True:
        announced = announcement(network, addresses())
        interfaces = _interfaces(addresses())
        pause = CHECK_SECONDS
        if announced:
            try:
                await _announce(network, own, announced, interfaces, addresses, found)
            except (OSError, Error) as error:
                log.info("no multicast DNS on this LAN", extra={"reason": str(error) or type(error).__name__})
                pause = RETRY_SECONDS
        await trio.sleep(pause)


async def _announce(
    network: str,
    own: PeerId,
    announced: bytes,
    interfaces: list[str],
    addresses: Callable[[], Sequence[str]],
    found: Found,
) -> None:
    """Until our addresses change.  Raises OSError and zeroconf's Error."""
    into, answers = trio.open_memory_channel[bytes](MAX_WAITING)
    async with _responding(interfaces) as responder:
        instance = f"{secrets.token_hex(16)}.{SERVICE}"
        info = ServiceInfo(SERVICE, instance, port=PORT, properties=announced, parsed_addresses=interfaces)
        await trio.to_thread.run_sync(responder.register_service, info)
        listener = _Answers(responder, instance, into)
        await trio.to_thread.run_sync(partial(ServiceBrowser, responder, SERVICE, listener=listener))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_hear, network, own, answers, found)
            while True:
                await trio.sleep(CHECK_SECONDS)
                if announcement(network, addresses()) != announced:
                    nursery.cancel_scope.cancel()


async def _hear(network: str, own: PeerId, answers: trio.MemoryReceiveChannel[bytes], found: Found) -> None:
    async for text in answers:
        told = neighbour(text, network)
        if told is not None and told.peer != own:
            found(told.peer, told.addresses)


class _Answers(ServiceListener):
    """Called by zeroconf in a thread of its own: hands each answer over to trio."""

    def __init__(self, responder: Zeroconf, own: str, into: trio.MemorySendChannel[bytes]) -> None:
        self._responder = responder
        self._own = own
        self._into = into
        self._trio = trio.lowlevel.current_trio_token()

    def add_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        self.update_service(zc, type_, name)

    def update_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        if name == self._own:
            return
        info = zc.get_service_info(type_, name, timeout=LOOK_MS)
        if info is not None and info.text:
            with contextlib.suppress(trio.RunFinishedError):
                trio.from_thread.run_sync(self._hand_over, info.text, trio_token=self._trio)

    def remove_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        """A peer that says goodbye is noticed by its connection."""

    def _hand_over(self, text: bytes) -> None:
        with contextlib.suppress(trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
            self._into.send_nowait(text)


def _interfaces(addresses: Iterable[str]) -> list[str]:
    """The IP addresses of this machine on whose links *addresses* are."""
    usable = (_usable(each.encode()) for each in addresses)
    return list(dict.fromkeys(address.host for address in usable if address is not None))
