"""A port mapping by UPnP, in a process of its own: ``python upnp.py add|remove INTERNAL EXTERNAL LEASE``.

The library blocks, and reads whatever any machine of the local network sends it, without end: the process that runs
this is ended when it takes too long, and may not use much memory.  It prints one line of JSON.
"""

from __future__ import annotations

import contextlib
import json
import sys

DISCOVERY_MS = 1_000
"""For each of four kinds of router that the library asks for, until one answers."""
REMOVAL_DISCOVERY_MS = 250
"""The router answered before, and the program wants to end."""
MAX_MEMORY_BYTES = 512 << 20
OTHER_PORTS = 3
"""Tried when the wanted one is taken."""
DESCRIPTION = "cactus-mesh"


def main(action: str, internal: int, external: int, lease_seconds: int) -> dict[str, object]:
    import miniupnpc  # compiled; only needed here

    router = miniupnpc.UPnP()
    router.discoverdelay = REMOVAL_DISCOVERY_MS if action == "remove" else DISCOVERY_MS
    try:
        router.discover()
        router.selectigd()
    except Exception as error:  # the library raises this class itself, "Success" when nobody answered
        return {
            "error": "no router offers it" if str(error) in ("Success", "No UPnP device discovered") else str(error)
        }
    if action == "remove":
        router.deleteportmapping(external, "TCP")
        return {}
    return {"port": _add(router, internal, external, lease_seconds), "host": router.externalipaddress()}


def _add(router, internal: int, external: int, lease_seconds: int) -> int:  # type: ignore[no-untyped-def] # compiled
    """The external port.  Some routers only know mappings for ever, some never share a port number."""
    failure: Exception | None = None
    for port in range(external, min(external + 1 + OTHER_PORTS, 65_536)):
        for lease in (lease_seconds, 0):
            try:
                router.addportmapping(port, "TCP", router.lanaddr, internal, DESCRIPTION, "", lease)
            except Exception as error:  # the library raises this class itself
                failure = error
                if "Permanent" not in str(error):
                    break
            else:
                return port
    assert failure is not None
    raise failure


def _limit_memory() -> None:
    with contextlib.suppress(ImportError, OSError, ValueError):  # Windows has no such limit
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))


if __name__ == "__main__":
    _limit_memory()
    try:
        answer = main(sys.argv[1], *map(int, sys.argv[2:5]))
    except Exception as error:  # whatever it was, the other process is told in words
        answer = {"error": str(error) or type(error).__name__}
    print(json.dumps(answer))
