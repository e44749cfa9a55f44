"""TCP sockets: listening on a free port or saying why not, connecting by name or number."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
from typing import TYPE_CHECKING, Final

import trio

from cactus_mesh.errors import AddressMalformed, PortInUse

if TYPE_CHECKING:
    from collections.abc import Callable

    from cactus_mesh.net.addresses import Address

BACKLOG: Final = 128
NO_DESCRIPTORS_PAUSE_SECONDS: Final = 0.1
_MAX_RESOLVED: Final = 4
_NO_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_IN_USE: Final = frozenset({errno.EADDRINUSE, getattr(errno, "WSAEADDRINUSE", errno.EADDRINUSE)})

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
    except OSError as error:
        sock.close()
        raise _cannot_listen(address, error) from None
    return sock


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


async def connect(address: Address) -> socket.socket:
    """A connected, non-blocking socket.  Raises OSError."""
    if address.family in ("ip4", "ip6"):
        family = socket.AF_INET6 if address.family == "ip6" else socket.AF_INET
        return await _connect_to(family, (address.host, address.port))
    return await _connect_by_name(address)


async def _connect_by_name(address: Address) -> socket.socket:
    families = {"dns4": socket.AF_INET, "dns6": socket.AF_INET6}
    family = families.get(address.family, socket.AF_UNSPEC)
    found = await trio.socket.getaddrinfo(address.host, address.port, family=family, type=socket.SOCK_STREAM)
    failure: OSError = OSError(f"{address.host} has no address")
    for kind, _, _, _, endpoint in found[:_MAX_RESOLVED]:
        try:
            return await _connect_to(kind, endpoint)
        except OSError as error:
            failure = error
    raise failure


async def _connect_to(family: int, endpoint: tuple[object, ...]) -> socket.socket:
    with contextlib.ExitStack() as cleanup:
        sock = cleanup.enter_context(socket.socket(family, socket.SOCK_STREAM))
        await trio.socket.from_stdlib_socket(sock).connect(endpoint)
        cleanup.pop_all()
        return sock
