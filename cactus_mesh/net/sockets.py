"""TCP sockets: listening on a free port or saying why not, connecting by name or number.

Connections leave from the port that we listen on where the system lets several sockets share one: a NAT then gives them
the mapping that others can dial, and holes can be punched.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import os
import socket
from typing import TYPE_CHECKING, Final

import trio

from cactus_mesh.errors import AddressMalformed, PortInUse

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cactus_mesh.net.addresses import Address

BACKLOG: Final = 128
NO_DESCRIPTORS_PAUSE_SECONDS: Final = 0.1
_MAX_RESOLVED: Final = 4
_NO_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_IN_USE: Final = frozenset({errno.EADDRINUSE, getattr(errno, "WSAEADDRINUSE", errno.EADDRINUSE)})
_UNDER_WAY: Final = frozenset({errno.EINPROGRESS, errno.EWOULDBLOCK, getattr(errno, "WSAEWOULDBLOCK", errno.EAGAIN)})
_NOT_FROM_THERE: Final = frozenset(
    {
        errno.EADDRINUSE,
        errno.EADDRNOTAVAIL,
        errno.EINVAL,
        errno.EACCES,
        getattr(errno, "WSAEADDRINUSE", errno.EADDRINUSE),
    }
)
"""A connection between these two ports exists, or lingers; no way from that address to the other; a guarded port."""

log = logging.getLogger(__name__)


def listen_on(address: Address) -> socket.socket:
    """A listening, non-blocking socket.  Raises `PortInUse` or `AddressMalformed`."""
    family = socket.AF_INET6 if address.family == "ip6" else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        elif hasattr(socket, "SO_EXCLUSIVEADDRUSE"):  # on Windows the other option lets two programs share a port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setblocking(False)
        sock.bind((address.host, address.port))
        sock.listen(BACKLOG)
        _share_port(sock)  # only now: a second program that listens here must be told that the port is in use
    except OSError as error:
        sock.close()
        raise _cannot_listen(address, error) from None
    return sock


def can_share_port() -> bool:
    """Whether connections can leave from the port that we listen on."""
    return os.name == "posix" and hasattr(socket, "SO_REUSEPORT")  # on Windows, whoever likes could take our port


def _share_port(sock: socket.socket) -> None:
    if can_share_port():
        with contextlib.suppress(OSError):  # a kernel without it: connections leave from any port then
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


def _cannot_listen(address: Address, error: OSError) -> PortInUse | AddressMalformed:
    if error.errno in _IN_USE:
        return PortInUse(
            f"port {address.port} of {address.host} is in use by another program (another node on this machine?); "
            f"stop it or choose another port, or 0 for any free one: --listen /{address.family}/{address.host}/tcp/0"
        )
    if isinstance(error, PermissionError):
        return AddressMalformed(f"this user may not listen on {address}; choose a port above 1023")
    return AddressMalformed(
        f"cannot listen on {address}: {os.strerror(error.errno or 0)}; name an address of this machine"
    )


async def accept_forever(listener: socket.socket, handle: Callable[[socket.socket], None]) -> None:
    """Give each accepted socket, non-blocking, to *handle*.  Outlives the lack of file descriptors."""
    while True:
        await trio.lowlevel.wait_readable(listener)
        try:
            accepted, _ = listener.accept()
        except (BlockingIOError, ConnectionError):
            continue  # it was gone before we looked
        except OSError as error:
            if error.errno not in _NO_DESCRIPTORS:
                raise
            log.warning("cannot accept connections", extra={"reason": os.strerror(error.errno or 0)})
            await trio.sleep(NO_DESCRIPTORS_PAUSE_SECONDS)
            continue
        accepted.setblocking(False)
        handle(accepted)


async def connect(address: Address, listeners: Sequence[socket.socket] = ()) -> socket.socket:
    """A connected, non-blocking socket, from the port of one of *listeners* if that can be.  Raises OSError."""
    if address.family in ("ip4", "ip6"):
        family = socket.AF_INET6 if address.family == "ip6" else socket.AF_INET
        return await _connect_to(family, (address.host, address.port), listeners)
    return await _connect_by_name(address, listeners)


async def _connect_by_name(address: Address, listeners: Sequence[socket.socket]) -> socket.socket:
    families = {"dns4": socket.AF_INET, "dns6": socket.AF_INET6}
    family = families.get(address.family, socket.AF_UNSPEC)
    found = await trio.socket.getaddrinfo(address.host, address.port, family=family, type=socket.SOCK_STREAM)
    failure: OSError = OSError(f"{address.host} has no address")
    for kind, _, _, _, endpoint in found[:_MAX_RESOLVED]:
        try:
            return await _connect_to(kind, endpoint, listeners)
        except OSError as error:
            failure = error
    raise failure


async def _connect_to(
    family: int, endpoint: tuple[object, ...], listeners: Sequence[socket.socket] = ()
) -> socket.socket:
    local = local_endpoint(str(endpoint[0]), listeners)
    if local is not None:
        try:
            return await connect_from(local, family, endpoint)
        except OSError as error:
            if error.errno not in _NOT_FROM_THERE:
                raise
    return await connect_from(None, family, endpoint)


def local_endpoint(host: str, listeners: Sequence[socket.socket]) -> tuple[str, int] | None:
    """Where a connection to *host* can leave from so that it has a listener's port; None for anywhere."""
    if not can_share_port():
        return None
    remote = ipaddress.ip_address(host.split("%")[0])
    for listener in listeners:
        own_host, port = listener.getsockname()[:2]
        own = ipaddress.ip_address(own_host.split("%")[0])
        if own.version == remote.version and (own.is_unspecified or own.is_loopback == remote.is_loopback):
            return own_host, port
    return None


async def connect_from(
    local: tuple[str, int] | None, family: int, endpoint: tuple[object, ...], *, hops: int | None = None
) -> socket.socket:
    """A socket connected from *local*, or from any port.

    With *hops*, the first packet gets past fewer routers than that, and the next ones as far as ever: it opens the
    firewalls near us for answers and does not reach those that would close them again.

    Raises OSError; EADDRINUSE also for a socket that would be connected with itself, as TCP does when a port without a
    listener dials itself.
    """
    with contextlib.ExitStack() as cleanup:
        sock = cleanup.enter_context(socket.socket(family, socket.SOCK_STREAM))
        if local is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # so that a restarted node can listen there
            _share_port(sock)
            sock.bind(local)
        if hops is None:
            await trio.socket.from_stdlib_socket(sock).connect(endpoint)
        else:
            await _connect_near(sock, endpoint, hops)
        if sock.getsockname() == sock.getpeername():
            raise OSError(errno.EADDRINUSE, "connected with itself")
        cleanup.pop_all()
        return sock


async def _connect_near(sock: socket.socket, endpoint: tuple[object, ...], hops: int) -> None:
    option = (
        (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS)
        if sock.family == socket.AF_INET6
        else (socket.IPPROTO_IP, socket.IP_TTL)
    )
    usual = sock.getsockopt(*option)
    sock.setblocking(False)
    sock.setsockopt(*option, hops)
    failure = sock.connect_ex(endpoint)
    sock.setsockopt(*option, usual)
    if failure in _UNDER_WAY:
        await trio.lowlevel.wait_writable(sock)
        failure = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if failure:
        raise OSError(failure, os.strerror(failure))
