"""Keeps a TCP port of the router mapped to ours, by whichever of PCP, NAT-PMP and UPnP the router knows.

Whether the mapped endpoint can really be reached is for others to find out: a router may claim anything.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import secrets
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn, Protocol

import trio

from cactus_mesh.net import pcp, upnp
from cactus_mesh.net.addresses import Scope, scope_of
from cactus_mesh.net.gateways import default_gateway
from cactus_mesh.net.pcp import Granted, MappingFailed, NoAnswer, OtherVersion

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

LIFETIME_SECONDS: Final = 3_600
"""Asked for: what is left behind when this machine loses its power goes within the hour."""
ASK_AGAIN_SECONDS: Final = 300.0
"""At most, until the router is asked again, so that one that has restarted, or has a new address, is found out soon."""
ASK_UPNP_AGAIN_SECONDS: Final = 1_200.0
"""Each time costs a process and two seconds of discovery."""
FIRST_PAUSE_SECONDS: Final = 60.0
MAX_PAUSE_SECONDS: Final = 1_800.0
"""Between two rounds that came to nothing: a router is replaced, or somebody allows mappings, once in a while."""
UPNP_SECONDS: Final = 15.0
"""For all of it: two seconds of discovery, then a few requests to routers that may take a second for each."""
GIVE_BACK_SECONDS: Final = 2.0
EPOCH_SLACK_SECONDS: Final = 30.0
"""By which a router's clock may be behind since it was asked last, and not have started again."""
_MAX_WORDS: Final = 200

log = logging.getLogger(__name__)


class Way(Protocol):
    """One protocol with one router.  *again_seconds* at most until it should be asked again."""

    name: str
    again_seconds: float

    async def ask(self, external: int) -> Granted:
        """A mapping, new or renewed, from *external* if that can be.  Raises `MappingFailed`."""
        ...

    async def end(self, external: int) -> None:
        """Give the mapping back.  Raises `MappingFailed`."""
        ...


async def keep_mapping(
    port: int,
    told: Callable[[str | None, str], None],
    *,
    gateway: Callable[[], Awaitable[str | None]] = default_gateway,
) -> NoReturn:
    """Keep TCP *port* of this machine mapped until cancelled, then give the mapping back.

    *told* hears each change: the external endpoint (``/ip4/…/tcp/…``) and how it was got, or None and why not.
    A round that fails takes up to twenty seconds, mostly under ten; the next follows after a minute or more.  On
    another network, cancel this and begin again.
    """
    pause = FIRST_PAUSE_SECONDS
    last = _Last(told)
    while True:
        failures: list[str] = []
        for way in ways(await gateway(), port):
            began = trio.current_time()
            failures.append(f"{way.name}: {await _hold(way, port, last)}")
            if trio.current_time() - began >= way.again_seconds:  # it had worked
                pause = FIRST_PAUSE_SECONDS
        last.tell(None, "; ".join(failures) or "this machine has no default route")
        await trio.sleep(pause)
        pause = min(2 * pause, MAX_PAUSE_SECONDS)


async def _hold(way: Way, port: int, last: _Last) -> str:
    """Get a mapping and renew it until that fails; why it did."""
    external = 0
    started: float | None = None
    try:
        while True:
            granted = await way.ask(external or port)
            external = granted.port
            last.tell(f"/ip4/{_usable(granted)}/tcp/{external}", f"mapped by {way.name}")
            started = _router_start(granted, started)
            await trio.sleep(min(granted.lifetime_seconds / 2, way.again_seconds))
    except MappingFailed as failure:
        return str(failure)
    finally:
        if external:
            with trio.move_on_after(GIVE_BACK_SECONDS, shield=True):
                await _give_back(way, external)


def _router_start(granted: Granted, before: float | None) -> float | None:
    """When the router began to count its mappings, which it has forgotten when that is later than *before*."""
    if granted.epoch is None:
        return None
    started = trio.current_time() - granted.epoch
    if before is not None and started > before + EPOCH_SLACK_SECONDS:
        log.info("the router had lost its mappings", extra={"endpoint": f"{granted.host}:{granted.port}"})
    return started


async def _give_back(way: Way, external: int) -> None:
    try:
        await way.end(external)
    except MappingFailed as failure:
        log.debug("a mapping was not given back", extra={"router": way.name, "reason": str(failure)})


def _usable(granted: Granted) -> str:
    if scope_of(granted.host) is not Scope.GLOBAL:
        raise MappingFailed(
            f"the router's own address, {granted.host}, is not a public one: it stands behind another NAT, "
            "of a second router or of the provider"
        )
    return granted.host


class _Last:
    """Tells what has changed, and the log."""

    def __init__(self, told: Callable[[str | None, str], None]) -> None:
        self._told = told
        self._last: tuple[str | None, str] | None = None

    def tell(self, endpoint: str | None, detail: str) -> None:
        if (endpoint, detail) != self._last:
            self._last = (endpoint, detail)
            log.info("port mapping", extra={"endpoint": endpoint, "detail": detail})
            self._told(endpoint, detail)


# --- the ways --------------------------------------------------------------------------------------------------------


def ways(gateway: str | None, port: int) -> list[Way]:
    """In the order in which they should be tried: the quick ones first."""
    return [_Pcp(gateway, port), _Upnp(port)] if gateway else []


class _Pcp:
    """PCP, or NAT-PMP with a router that does not know PCP or ignores what it does not know."""

    again_seconds = ASK_AGAIN_SECONDS

    def __init__(self, gateway: str, port: int) -> None:
        self._gateway = gateway
        self._port = port
        self._nonce = secrets.token_bytes(12)
        self._older = False
        self.name = f"PCP from {gateway}"

    async def ask(self, external: int) -> Granted:
        if not self._older:
            try:
                return await pcp.ask_pcp(self._gateway, self._nonce, self._port, external, LIFETIME_SECONDS)
            except (OtherVersion, NoAnswer):
                granted = await pcp.ask_pmp(self._gateway, self._port, external, LIFETIME_SECONDS)
                self._older = True
                self.name = f"NAT-PMP from {self._gateway}"
                return granted
        return await pcp.ask_pmp(self._gateway, self._port, external, LIFETIME_SECONDS)

    async def end(self, external: int) -> None:
        if self._older:
            await pcp.end_pmp(self._gateway, self._port)
        else:
            await pcp.end_pcp(self._gateway, self._nonce, self._port)


class _Upnp:
    name = "UPnP"
    again_seconds = ASK_UPNP_AGAIN_SECONDS

    def __init__(self, port: int) -> None:
        self._port = port

    async def ask(self, external: int) -> Granted:
        answer = await _run_upnp("add", self._port, external)
        try:
            return Granted(
                str(ipaddress.IPv4Address(str(answer["host"]))), int(str(answer["port"])), LIFETIME_SECONDS, 0
            )
        except (KeyError, ValueError):
            raise MappingFailed("the router names no external address") from None

    async def end(self, external: int) -> None:
        await _run_upnp("remove", self._port, external)


async def _run_upnp(action: str, internal: int, external: int) -> dict[str, object]:
    numbers = map(str, (internal, external, LIFETIME_SECONDS))
    command = [sys.executable, "-P", str(Path(upnp.__file__)), action, *numbers]
    with trio.move_on_after(UPNP_SECONDS):
        try:
            done = await trio.run_process(command, capture_stdout=True, stderr=subprocess.DEVNULL, check=False)
            answer = json.loads(done.stdout)
        except (OSError, ValueError):
            raise MappingFailed("it broke off") from None
        if "error" in answer:
            raise MappingFailed(_printable(str(answer["error"])))
        return dict(answer)
    raise MappingFailed(f"not done within {UPNP_SECONDS:.0f} s")


def _printable(words: str) -> str:
    return "".join(character for character in words[:_MAX_WORDS] if character.isprintable())
