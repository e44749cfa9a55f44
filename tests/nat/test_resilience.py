"""What happens to a mesh of private peers when its relays, links, addresses and processes fail.

CI runs some of them; CACTUS_NAT=all adds the rest, with outages of a minute.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
import trio

from cactus_mesh import errors
from tests.nat.lab import OrderFailed, open_lab

if TYPE_CHECKING:
    from tests.nat.lab import Lab, Process

EVERYTHING = os.environ.get("CACTUS_NAT") == "all"
OUTAGE_SECONDS = 60.0 if EVERYTHING else 16.0
NOTICED_SECONDS = 20.0
BACK_SECONDS = 30.0
LONG = " ".join(f"word{number}" for number in range(100))
SLOW = {"text": LONG, "delay_seconds": 0.05}
IDLE_SHARE = 0.05
"""Of a core, that a peer may take while it has lost its relay."""
CODES = {kind.code for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "code")}


slower = pytest.mark.skipif(not EVERYTHING, reason="one of the slower tests behind NATs; CACTUS_NAT=all runs it")


async def outcome(client: Process, model: str = "fake", **others: Any) -> str:
    """``done`` or the code of the error."""
    try:
        await client.do("ask", model=model, **others)
    except OrderFailed as error:
        return error.code
    return "done"


async def served_again(client: Process, model: str = "fake") -> None:
    """Wait until a task is done again.  Raises trio.TooSlowError with what hindered it last."""
    hindered = ""
    try:
        with trio.fail_after(BACK_SECONDS):
            while (hindered := await outcome(client, model, deadline=20.0)) != "done":
                assert hindered in CODES
    except trio.TooSlowError:
        pytest.fail(f"no task was done within {BACK_SECONDS:.0f} s, last: {hindered}")


async def until_seen(process: Process, other: Process, seconds: float, *, seen: bool = True) -> float:
    began = trio.current_time()
    with trio.fail_after(seconds):
        while (other.peer_id in await process.peers()) is not seen:  # noqa: ASYNC110 - as a user would
            await trio.sleep(0.1)
    return trio.current_time() - began


def relay_of(lab: Lab, peer: dict[str, Any]) -> Process:
    """The one that carries the connection to *peer*."""
    assert peer["relayed"], "this connection needs no relay"
    return next(relay for relay in lab.relays if f"/p2p/{relay.peer_id}/p2p-circuit" in peer["address"])


async def test_a_relay_is_killed_in_the_middle_of_a_stream() -> None:
    async with open_lab(relays=3) as lab:
        worker = await lab.node("orchestrator", "orchestrator", "random", SLOW)
        router = await lab.node("router", "router", "random")
        client = await lab.node("client", "client", "random")
        await lab.acquainted(router, "fake")
        await served_again(client)
        before = client.pieces
        ends: list[str] = []

        async def ask() -> None:
            ends.append(await outcome(client))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            while client.pieces < before + 10:  # noqa: ASYNC110 - the stream is under way
                await trio.sleep(0.02)
            relay = relay_of(lab, (await router.peers())[worker.peer_id])
            busy, began = worker.cpu_seconds(), trio.current_time()
            await relay.kill()
        assert ends[0] in {"done", *CODES}
        await served_again(client)
        await trio.sleep(max(0.0, began + 10 - trio.current_time()))
        share = (worker.cpu_seconds() - busy) / (trio.current_time() - began)
        print(f"the stream ended with {ends[0]}; {share:.3f} of a core meanwhile")
        assert share < IDLE_SHARE
        assert len(lab.processes["orchestrator"].log) < 200_000


@slower
async def test_the_bootstrap_peer_is_restarted_and_everybody_is_there_again() -> None:
    async with open_lab(relays=1) as lab:
        await lab.node("orchestrator", "orchestrator", "preserving")
        router = await lab.node("router", "router", "public")
        client = await lab.node("client", "client", "changing")
        await lab.acquainted(router, "fake")
        await served_again(client)
        (first,) = lab.relays
        await first.kill()
        assert await outcome(client) == "done"
        again = await lab.restart(first)
        for process in (router, client, lab.processes["orchestrator"]):
            await until_seen(process, again, BACK_SECONDS)
        newcomer = await lab.node("newcomer", "client", "random")
        await served_again(newcomer)


@pytest.mark.parametrize("how", [pytest.param("cut", marks=slower), "stopped"])
async def test_a_peer_that_is_gone_for_a_while_is_routed_around_and_taken_back(how: str) -> None:
    async with open_lab(relays=2) as lab:
        gone = await lab.node("gone", "orchestrator", "preserving")
        await lab.node("stays", "orchestrator", "changing", {"model": "other"})
        router = await lab.node("router", "router", "double")
        client = await lab.node("client", "client", "firewall")
        await lab.acquainted(router, "fake", "other")
        await served_again(client)

        began = trio.current_time()
        if how == "cut":
            lab.internet.cut(gone.machine.site)
        else:
            gone.pause()
        noticed = await until_seen(router, gone, NOTICED_SECONDS, seen=False)
        assert await outcome(client, "other") == "done"
        await trio.sleep(max(0.0, began + OUTAGE_SECONDS - trio.current_time()))
        lab.internet.restore(gone.machine.site)
        gone.resume()
        came_back = trio.current_time()
        await served_again(client)
        print(f"{how}: noticed after {noticed:.1f} s, back after {trio.current_time() - came_back:.1f} s")


@slower
async def test_a_machine_that_moves_to_another_network_is_found_there() -> None:
    async with open_lab(relays=2) as lab:
        laptop = await lab.node("laptop", "orchestrator", "preserving")
        router = await lab.node("router", "router", "firewall")
        client = await lab.node("client", "client", "random")
        await lab.acquainted(router, "fake")
        await served_again(client)
        lab.internet.move(laptop.machine, "changing")
        began = trio.current_time()
        await served_again(client)
        print(f"moved: served again after {trio.current_time() - began:.1f} s")


@slower
async def test_thirty_peers_that_join_at_once_through_one_bootstrap_peer_all_find_a_router() -> None:
    async with open_lab(relays=1) as lab:
        await lab.node("orchestrator", "orchestrator", "preserving", {"slots": 64})
        router = await lab.node("router", "router", "public")
        await lab.acquainted(router, "fake")
        crowds = [await lab.crowd(f"crowd-{kind}", kind, 10) for kind in ("public", "changing", "random")]
        found: list[float | str] = []

        async def join(crowd: Process) -> None:
            found.extend(await crowd.do("join", model="fake", first=0, count=10, patience=BACK_SECONDS))

        async with trio.open_nursery() as nursery:
            for crowd in crowds:
                nursery.start_soon(join, crowd)
        failed = [each for each in found if isinstance(each, str)]
        assert failed == []
        assert len(found) == 30
        print(f"thirty joined and had an answer's first piece after at most {max(map(float, found)):.1f} s")
