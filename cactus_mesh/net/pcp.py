"""Asks a router for a TCP port by PCP (RFC 6887) or, from those that know no other, NAT-PMP (RFC 6886).

One small UDP exchange at a time, with the router's own address and nobody else's; whatever comes back is checked.
"""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING, Final, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

PORT: Final = 5351
TRIES_SECONDS: Final = (0.25, 0.5, 1.0)
"""Waited for an answer before asking again, as in RFC 6886 section 3.1, but given up after three: on a LAN an answer
takes milliseconds, and most routers never give one."""
MIN_LIFETIME_SECONDS: Final = 60
MAX_LIFETIME_SECONDS: Final = 86_400
"""What a router may make of the time that we ask for (RFC 6887 section 15)."""
_MAX_ANSWER_BYTES: Final = 1_100
_MAX_STRAYS: Final = 16
"""Answers that are none, before the router is held to be out of its mind."""
_TCP: Final = 6
_MAP_TCP: Final = 2
_PCP_HEADER: Final = Struct(">BBHI16s")
_PCP_ANSWER: Final = Struct(">BBBBII12s")
_PCP_MAP: Final = Struct(">12sB3xHH16s")
_PMP_MAP: Final = Struct(">BBHHHI")
_PMP_ANSWER: Final = Struct(">BBHI")
_PCP_REFUSALS: Final = {
    2: "it does not allow that",
    3: "it takes our request to be malformed",
    4: "it does not know port mappings",
    7: "its network is down, or it has no public address itself",
    8: "it has no room for another mapping, or no public address itself",
    10: "we have too many mappings already",
    11: "another router stands between it and us",
    13: "it cannot give that port",
}
_PMP_REFUSALS: Final = {
    2: "it does not allow that",
    3: "its network is down, or it has no public address itself",
    4: "it has no room for another mapping",
    5: "it does not know port mappings",
}

T = TypeVar("T")


class MappingFailed(Exception):
    """There is no mapping; the text says why, in a few words."""


class OtherVersion(MappingFailed):
    """The router answers, but does not speak PCP."""


class NoAnswer(MappingFailed):
    """The router is silent."""


@dataclass(frozen=True, slots=True)
class Granted:
    """A mapping from *host*:*port*, which the router believes to be outside, for *lifetime_seconds*."""

    host: str
    port: int
    lifetime_seconds: int
    epoch: int | None
    """The router's seconds since it lost its mappings last, where the protocol tells."""


# --- PCP -------------------------------------------------------------------------------------------------------------


def pcp_request(client: str, nonce: bytes, port: int, wanted: int, lifetime_seconds: int) -> bytes:
    """MAP for TCP *port* of *client*; a lifetime of 0 ends the mapping that has this *nonce*."""
    header = _PCP_HEADER.pack(2, 1, 0, lifetime_seconds, _mapped(client))
    return header + _PCP_MAP.pack(nonce, _TCP, port, wanted, _mapped("0.0.0.0"))  # noqa: S104 - no wish


def read_pcp(answer: bytes, nonce: bytes, port: int) -> Granted | None:
    """What a router grants; None for what is no answer to this request.  Raises `MappingFailed`."""
    if len(answer) >= 4 and answer[0] == 0 and answer[1] & 0x80:
        raise OtherVersion("it speaks NAT-PMP only")
    if len(answer) < _PCP_ANSWER.size or answer[0] > 2 or answer[1] != 0x81:
        return None
    _, _, _, result, lifetime, epoch, _ = _PCP_ANSWER.unpack_from(answer)
    if result == 1:
        raise OtherVersion("it speaks another version of PCP")
    if len(answer) < _PCP_ANSWER.size + _PCP_MAP.size or answer[0] != 2:
        return None
    told_nonce, protocol, internal, external, host = _PCP_MAP.unpack_from(answer, _PCP_ANSWER.size)
    if (told_nonce, protocol, internal) != (nonce, _TCP, port):
        return None
    if result:
        raise MappingFailed(_PCP_REFUSALS.get(result, f"it refuses with PCP result {result}"))
    address = ipaddress.IPv6Address(host).ipv4_mapped
    if address is None:
        raise MappingFailed("it answers with an external address that is not IPv4")
    return _granted(str(address), external, lifetime, epoch)


def _mapped(host: str) -> bytes:
    return ipaddress.IPv6Address(f"::ffff:{host}").packed


# --- NAT-PMP ---------------------------------------------------------------------------------------------------------

PMP_ADDRESS_REQUEST: Final = bytes(2)


def pmp_request(port: int, wanted: int, lifetime_seconds: int) -> bytes:
    return _PMP_MAP.pack(0, _MAP_TCP, 0, port, wanted, lifetime_seconds)


def read_pmp_address(answer: bytes) -> str | None:
    """The router's external address; None for what is no answer.  Raises `MappingFailed`."""
    if len(answer) < _PMP_ANSWER.size or answer[:2] != b"\x00\x80":
        return None
    _pmp_result(answer)
    return str(ipaddress.IPv4Address(answer[8:12])) if len(answer) >= 12 else None


def read_pmp(answer: bytes, host: str, port: int) -> Granted | None:
    """What a router whose external address is *host* grants; None for what is no answer.  Raises `MappingFailed`."""
    if len(answer) < _PMP_ANSWER.size or answer[:2] != bytes((0, 0x80 | _MAP_TCP)):
        return None
    epoch = _pmp_result(answer)
    if len(answer) < 16 or int.from_bytes(answer[8:10], "big") != port:
        return None
    external, lifetime = int.from_bytes(answer[10:12], "big"), int.from_bytes(answer[12:16], "big")
    return _granted(host, external, lifetime, epoch)


def _pmp_result(answer: bytes) -> int:
    _, _, result, epoch = _PMP_ANSWER.unpack_from(answer)
    if result:
        raise MappingFailed(_PMP_REFUSALS.get(result, f"it refuses with NAT-PMP result {result}"))
    return int(epoch)


def _granted(host: str, port: int, lifetime: int, epoch: int) -> Granted:
    if not port or not lifetime:
        raise MappingFailed("it grants a mapping without a port, or for no time")
    return Granted(host, port, min(max(lifetime, MIN_LIFETIME_SECONDS), MAX_LIFETIME_SECONDS), epoch)


# --- asking ----------------------------------------------------------------------------------------------------------


async def ask_pcp(gateway: str, nonce: bytes, port: int, wanted: int, lifetime_seconds: int) -> Granted:
    """Raises `MappingFailed` within about two seconds, `OtherVersion` when NAT-PMP is worth trying."""
    with _open_socket() as sock:
        await _connect(sock, gateway)
        request = pcp_request(sock.getsockname()[0], nonce, port, wanted, lifetime_seconds)
        return await _exchange(sock, request, lambda answer: read_pcp(answer, nonce, port))


async def ask_pmp(gateway: str, port: int, wanted: int, lifetime_seconds: int) -> Granted:
    """Raises `MappingFailed` within about four seconds."""
    with _open_socket() as sock:
        await _connect(sock, gateway)
        host = await _exchange(sock, PMP_ADDRESS_REQUEST, read_pmp_address)
        request = pmp_request(port, wanted, lifetime_seconds)
        return await _exchange(sock, request, lambda answer: read_pmp(answer, host, port))


async def end_pcp(gateway: str, nonce: bytes, port: int) -> None:
    """Give the mapping back; the router is told once, and may not hear it."""
    with _open_socket() as sock:
        await _connect(sock, gateway)
        await _tell(sock, pcp_request(sock.getsockname()[0], nonce, port, 0, 0))


async def end_pmp(gateway: str, port: int) -> None:
    with _open_socket() as sock:
        await _connect(sock, gateway)
        await _tell(sock, pmp_request(port, 0, 0))


def _open_socket() -> trio.socket.SocketType:
    return trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


async def _connect(sock: trio.socket.SocketType, gateway: str) -> None:
    """Connected, the system delivers nothing that others send."""
    try:
        await sock.connect((gateway, PORT))
    except OSError as error:
        raise MappingFailed(f"no way to it ({error.strerror})") from None


async def _exchange(sock: trio.socket.SocketType, request: bytes, read: Callable[[bytes], T | None]) -> T:
    strays = 0
    for seconds in TRIES_SECONDS:
        await _tell(sock, request)
        with trio.move_on_after(seconds):
            while strays < _MAX_STRAYS:
                answer = read(await _hear(sock))
                if answer is not None:
                    return answer
                strays += 1
            raise MappingFailed("it answers with nonsense")
    if strays:
        raise MappingFailed("it answers with nonsense")
    raise NoAnswer("it does not answer")


async def _tell(sock: trio.socket.SocketType, request: bytes) -> None:
    try:
        await sock.send(request)
    except OSError as error:
        raise MappingFailed(_no_service(error)) from None


async def _hear(sock: trio.socket.SocketType) -> bytes:
    try:
        return await sock.recv(_MAX_ANSWER_BYTES)
    except OSError as error:
        raise MappingFailed(_no_service(error)) from None


def _no_service(error: OSError) -> str:
    if isinstance(error, ConnectionError):
        return "it does not offer this service"
    return f"no way to it ({error.strerror})"
