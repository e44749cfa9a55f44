"""Which router this machine sends to what is not on its own network, by what each system has to say about that."""

from __future__ import annotations

import ipaddress
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Final

import trio

_LINUX_ROUTES: Final = Path("/proc/net/route")
_COMMAND_SECONDS: Final = 3.0
_GATEWAY_FLAG: Final = 2
_ANYWHERE: Final = ("203.0.113.1", 9)
"""An address of no one's network: a datagram socket connected to it sends nothing, but knows where it would leave."""


async def default_gateway() -> str | None:
    """The IPv4 address of the router, or the likeliest one; None without a network."""
    if _LINUX_ROUTES.exists():
        return gateway_in_linux_routes(await trio.Path(_LINUX_ROUTES).read_text(errors="replace"))
    if sys.platform == "win32":
        found = gateway_in_windows_routes(await _output("route", "print", "-4", "0.0.0.0"))  # noqa: S104
    else:
        found = gateway_in_bsd_route(await _output("route", "-n", "get", "default"))
    return found or likely_gateway(own_address())


def gateway_in_linux_routes(text: str) -> str | None:
    """The default route of the smallest metric.  Addresses are there as numbers in this machine's byte order."""
    found = []
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) < 8 or fields[1] != "00000000" or fields[7] != "00000000":
            continue
        if int(fields[3], 16) & _GATEWAY_FLAG:
            address = socket.inet_ntoa(int(fields[2], 16).to_bytes(4, sys.byteorder))
            found.append((int(fields[6]), address))
    return min(found)[1] if found else None


def gateway_in_bsd_route(text: str) -> str | None:
    """In what macOS and the BSDs answer to ``route -n get default``."""
    match = re.search(r"^\s*gateway:\s*([0-9.]+)\s*$", text, re.MULTILINE)
    return _address(match[1]) if match else None


def gateway_in_windows_routes(text: str) -> str | None:
    """In what Windows answers to ``route print``: the default route of the smallest metric, in any language."""
    pattern = r"^\s*0\.0\.0\.0\s+0\.0\.0\.0\s+([0-9.]+)\s+[0-9.]+\s+(\d+)\s*$"
    found = [(int(metric), _address(at)) for at, metric in re.findall(pattern, text, re.MULTILINE)]
    return min(found)[1] if found else None


def likely_gateway(own: str | None) -> str | None:
    """The first address of a private network of 256: where nearly all routers of homes are."""
    if own is None or not ipaddress.ip_address(own).is_private:
        return None
    return str(ipaddress.ip_network(f"{own}/24", strict=False)[1])


def own_address() -> str | None:
    """The IPv4 address from which this machine sends to the world."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(_ANYWHERE)
        except OSError:
            return None
        return str(sock.getsockname()[0])


def _address(text: str) -> str | None:
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        return None


async def _output(*command: str) -> str:
    """What a short command of the system prints; nothing when there is none, or it hangs."""
    with trio.move_on_after(_COMMAND_SECONDS):
        try:
            done = await trio.run_process(command, capture_stdout=True, stderr=subprocess.DEVNULL, check=False)
        except OSError:
            return ""
        return bytes(done.stdout).decode(errors="replace")
    return ""
