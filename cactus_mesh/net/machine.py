"""This machine as the network sees it: what it listens on, its own addresses, and when those change."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NoReturn

import trio
from multiaddr.utils import get_network_addrs

from cactus_mesh.net.addresses import Address

if TYPE_CHECKING:
    from collections.abc import Callable

    from cactus_mesh.net.swarm import MeshSwarm

WATCH_SECONDS: Final = 3.0
"""Between two looks at the interfaces, which cost less than a millisecond."""
GAP_SECONDS: Final = 15.0
"""By which time has jumped when a machine has slept, or this process was stopped; longer than it ever waits busy."""
_ANYWHERE: Final = {socket.AF_INET: "198.51.100.1", socket.AF_INET6: "2001:db8::1"}
"""Far away, by the default route: networks for documentation."""


class Machine:
    def __init__(self, swarm: MeshSwarm) -> None:
        self._swarm = swarm
        self._hosts: list[str] = []
        self._read_at = float("-inf")

    def bound(self) -> list[Address]:
        """What the listeners listen on, with the ports that they got."""
        found = []
        for listener, transport in zip(self._swarm.bound, self._swarm.transports, strict=False):
            host, port = listener.getsockname()[:2]
            family = "ip6" if ":" in host else "ip4"
            found.append(Address(family, host.split("%")[0], port, transport=transport))
        return found

    def hosts(self) -> list[str]:
        """Its own IP addresses without the loopback's, those of the default routes first."""
        now = trio.current_time()
        if now - self._read_at >= WATCH_SECONDS:
            every = [*get_network_addrs(4), *get_network_addrs(6)]
            first = [_source(family) for family in _ANYWHERE]
            self._hosts = list(dict.fromkeys([host for host in first if host in every] + every))
            self._read_at = now
        return self._hosts

    def own(self) -> set[str]:
        """All IP addresses at which somebody sees us when nothing stands between."""
        return {"127.0.0.1", "::1", *self.hosts(), *(each.host for each in self.bound() if not each.wildcard)}

    async def watch(self, moved: Callable[[str], None]) -> NoReturn:
        """For ever: call *moved*, with the reason, when old addresses and connections may be of no use any more."""
        before = set(self.hosts())
        while True:
            wall, began = time.time(), trio.current_time()
            await trio.sleep(WATCH_SECONDS)
            elapsed = max(time.time() - wall, trio.current_time() - began)  # clocks differ in whether they sleep too
            now = set(self.hosts())
            if now != before:
                moved("the addresses of this machine have changed")
            elif elapsed > WATCH_SECONDS + GAP_SECONDS:
                moved(f"this machine slept, or this process was stopped, for {elapsed:.0f} s")
            before = now


def _source(family: socket.AddressFamily) -> str:
    """Where packets to anywhere leave from; nothing is sent."""
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((_ANYWHERE[family], 9))
        return str(probe.getsockname()[0])
    return ""
