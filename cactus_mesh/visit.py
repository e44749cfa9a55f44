"""A short-lived peer that only looks at a network, and what it finds out about the ways there and back.

Decides whom to try and how long; the verdicts are `core.checkup_network`'s.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio

from cactus_mesh.adapters import DEFAULT_PORT, first_connection, open_mesh
from cactus_mesh.clock import wall_clock
from cactus_mesh.config import Home
from cactus_mesh.control import LONG_ANSWER_SECONDS, ask_node
from cactus_mesh.core.checkup_network import (
    Attempt,
    View,
    judge_bootstrap,
    judge_mapping,
    judge_nat,
    judge_punch,
    judge_reachability,
    judge_relay,
)
from cactus_mesh.errors import AddressMalformed, MeshError, PortInUse
from cactus_mesh.identity import Identity
from cactus_mesh.known import require_way_in, with_known_peers
from cactus_mesh.snapshot import network_snapshot, try_punch, whom

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from cactus_mesh.config import Config
    from cactus_mesh.core.checkup import Finding
    from cactus_mesh.net.network import MeshNetwork

MAX_ADDRESSES: Final = 8
"""Bootstrap addresses that are tried, each by a visitor of its own; nobody needs more."""
TCP_SECONDS: Final = 5.0
HELLO_SECONDS: Final = 11.0
JOIN_SECONDS: Final = 6.0
"""After which a visitor that nobody has answered stops waiting."""
SETTLE_SECONDS: Final = 10.0
"""From the first connection until the ladder is known, as far as it will be."""
FIND_SECONDS: Final = 8.0
LOOK_SECONDS: Final = 0.2
_NOWHERE: Final = Home(Path(os.devnull), Path(os.devnull))
ANY_PORT: Final = ("/ip4/0.0.0.0/tcp/0",)
"""A visitor listens, though nobody dials it: holes are punched from the port on which one listens."""
EMPTY: Final = View(0, "unknown", "unknown", None, (), (), (), {})


@asynccontextmanager
async def open_visitor(config: Config, home: Home, listen: Sequence[str] = ()) -> AsyncIterator[MeshNetwork]:
    """The network, for somebody who only looks at it: with a key of this moment, and leaving no trace in *home*.

    Raises as `open_client` does.
    """
    config = with_known_peers(config, home, wall_clock() / 1_000)
    require_way_in(config, home)
    with tempfile.TemporaryDirectory(prefix="cactus-mesh-") as folder:
        place = Home(home.config, Path(folder))
        if home.peers_file.exists():
            shutil.copyfile(home.peers_file, place.peers_file)
        async with open_mesh(Identity.generate(), config, place, ("client",), listen) as network:
            yield network


async def acquaint(network: MeshNetwork, target: str) -> None:
    """Wait until *target*, as in `snapshot.whom`, can be found: just after joining nobody has told of it yet.

    Raises `NoBootstrap` when nobody answers at all; that *target* is not found is for the ping itself to say.
    """
    await first_connection(network)
    peer, addresses = whom(target, [])
    with trio.move_on_after(FIND_SECONDS):
        while True:
            with suppress(MeshError):
                await network.connect(peer, addresses)
                return
            await trio.sleep(LOOK_SECONDS)


async def judge_ways(
    home: Home, config: Config, running: dict[str, Any] | None, seconds: float
) -> tuple[list[Finding], list[str], bool]:
    """The findings about the network; what peers said against our clock; and whether one took our hello.

    *running* is the status of the home's node; without one, a visitor looks for itself, on the same port.
    """
    config, problem = _with_list(home, config)
    attempts: dict[int, Attempt] = {}
    looked: tuple[View, dict[str, Any]] = (EMPTY, _UNTESTED)

    async def attempt(at: int, address: str) -> None:
        attempts[at] = Attempt(address, None, None, f"no answer within {seconds:.0f} s")
        attempts[at] = await _attempt(config, address)

    async def look() -> None:
        nonlocal looked
        looked = await (_ask_running(home, running) if running is not None else _look(home, config))

    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for at, address in enumerate(config.bootstrap[:MAX_ADDRESSES]):
                nursery.start_soon(attempt, at, address)
            nursery.start_soon(look)
    view, punched = looked
    tried = [attempts[at] for at in sorted(attempts)]
    findings = [
        judge_bootstrap(
            tried,
            problem,
            begins="bootstrap" in config.roles,
            remembered=_remembered(home.peers_file),
            connected=view.peers,
        ),
        judge_reachability(view),
        judge_nat(view),
        judge_mapping(view),
        judge_punch(view, punched["tested"], succeeded=punched["succeeded"]),
        judge_relay(view),
    ]
    refusals = [each.problem for each in tried if each.blames_a_clock]
    return findings, refusals, view.peers > 0 or any(each.rtt_ms is not None for each in tried)


_UNTESTED: Final = {"tested": "not tried: no peer was connected in time", "succeeded": None}


def _with_list(home: Home, config: Config) -> tuple[Config, MeshError | None]:
    try:
        return with_known_peers(config, home, wall_clock() / 1_000), None
    except MeshError as error:
        return config, error


def _remembered(path: Path) -> int:
    """How many peers the file of them holds, whatever state it is in."""
    with suppress(OSError, ValueError, TypeError, AttributeError):
        return len(json.loads(path.read_bytes())["peers"])
    return 0


# --- bootstrap addresses -----------------------------------------------------------------------------------------


async def _attempt(config: Config, text: str) -> Attempt:
    """Everything up to a ping, at this one address; where it stops is what is wrong."""
    from cactus_mesh.net.addresses import parse_address

    try:
        address = parse_address(text)
        if address.peer is None:
            raise AddressMalformed("it does not say who is there: add /p2p/ and its peer id")
    except AddressMalformed as error:
        return Attempt(text, None, None, str(error).partition("; ")[0], error.code)
    tcp_ms: float | None = None
    if address.relay is None:
        tcp_ms, problem = await _tcp(address.host, address.port)
        if tcp_ms is None:
            return Attempt(text, None, None, problem)
    alone = replace(config, bootstrap=(text,))
    try:
        with trio.fail_after(HELLO_SECONDS):
            async with open_visitor(alone, _NOWHERE) as visitor:
                found = await visitor.ping(address.peer, [text])
    except trio.TooSlowError:
        return Attempt(text, tcp_ms, None, f"no hello within {HELLO_SECONDS:.0f} s")
    except MeshError as error:
        return Attempt(text, tcp_ms, None, _reason(error, str(address)), error.code)
    return Attempt(text, tcp_ms, found.rtt_ms)


def _reason(error: MeshError, address: str) -> str:
    """Without the list of addresses tried, as there is only one."""
    return str(error).rpartition(f"{address}: ")[2].partition("; give both")[0]


async def _tcp(host: str, port: int) -> tuple[float | None, str]:
    began = trio.current_time()
    with trio.move_on_after(TCP_SECONDS):
        try:
            stream = await trio.open_tcp_stream(host, port)
        except OSError as error:
            cause: BaseException | None = error
            while cause is not None and not (isinstance(cause, OSError) and cause.strerror):
                group = cause.__cause__
                cause = group.exceptions[0] if isinstance(group, BaseExceptionGroup) else group
            words = str(getattr(cause, "strerror", None) or error).rpartition(": ")[2]
            return None, f"tcp: {words.lower()}"
        await stream.aclose()
        return (trio.current_time() - began) * 1_000, ""
    return None, f"tcp: no answer within {TCP_SECONDS:.0f} s"


# --- how others reach us -----------------------------------------------------------------------------------------


async def _ask_running(home: Home, status: dict[str, Any]) -> tuple[View, dict[str, Any]]:
    view = msgspec.convert(status, View)
    tested = _UNTESTED
    with suppress(MeshError):
        tested = await ask_node(home.control_file, "punch", seconds=LONG_ANSWER_SECONDS)
    return view, tested


async def _look(home: Home, config: Config) -> tuple[View, dict[str, Any]]:
    """What a node would find out in its first seconds; nothing where it would not even start."""
    listen = config.listen or (f"/ip4/0.0.0.0/tcp/{DEFAULT_PORT}",)
    with suppress(MeshError):
        try:
            return await _look_from(home, config, listen)
        except PortInUse:
            return await _look_from(home, config, ANY_PORT)
    return EMPTY, _UNTESTED


async def _look_from(home: Home, config: Config, listen: Sequence[str]) -> tuple[View, dict[str, Any]]:
    usable = replace(config, bootstrap=tuple(text for text in config.bootstrap if _names_a_peer(text)))
    async with open_visitor(usable, home, listen) as visitor:
        view = await _settled(visitor)
        tested = _UNTESTED
        if view.peers and view.reachability not in ("public", "mapped"):
            with trio.move_on_after(SETTLE_SECONDS):
                tested = await try_punch(visitor)
        return msgspec.convert(network_snapshot(visitor.status()), View), tested


def _names_a_peer(text: str) -> bool:
    from cactus_mesh.net.addresses import parse_address

    with suppress(AddressMalformed):
        return parse_address(text).peer is not None
    return False


async def _settled(visitor: MeshNetwork) -> View:
    """The view once nothing more is to be expected soon."""
    until = trio.current_time() + JOIN_SECONDS
    connected = False
    view = EMPTY
    while trio.current_time() < until and not _is_settled(view):
        await trio.sleep(LOOK_SECONDS)
        view = msgspec.convert(network_snapshot(visitor.status()), View)
        if view.peers and not connected:
            connected = True
            until = trio.current_time() + SETTLE_SECONDS
    return view


def _is_settled(view: View) -> bool:
    if view.reachability in ("public", "mapped"):
        return True
    trying = any(step.state == "trying" for step in view.steps)
    return view.reachability == "private" and view.nat != "unknown" and bool(view.relays) and not trying
