"""Neighbours that find each other by multicast, and machines that have only IPv6 between them."""

from __future__ import annotations

import pytest
import trio

from cactus_mesh.processes import ProcessFailed
from tests.nat.lab import FIND_SECONDS, open_lab
from tests.nat.routers import PORT


async def test_a_machine_that_was_told_of_nobody_joins_through_a_neighbour() -> None:
    async with open_lab(relays=1) as lab:
        office = lab.internet.site("preserving")
        router = await lab.node("router", "router", lab.internet.machine("first", office))
        newcomer = lab.internet.machine("second", office)
        worker = await lab.node("orchestrator", "orchestrator", newcomer, bootstrap=[])
        await lab.acquainted(router, "fake")
        peer = (await router.peers())[worker.peer_id]
        assert not peer["relayed"]
        assert f"/{newcomer.address}/" in peer["address"]
        assert lab.internet.strays() == {}
        with pytest.raises(ProcessFailed, match="no node of it answers on this LAN"):
            await lab.node("alone", "router", "changing", bootstrap=[])


async def test_two_machines_with_only_ip6_between_them_meet_directly() -> None:
    async with open_lab(relays=1) as lab:
        one, other = lab.internet.machine("one", "public"), lab.internet.machine("other", "public")
        for machine in (one, other):
            lab.internet.give_ip6(machine)
        lab.internet.part(one, other)
        listen = [f"/ip4/0.0.0.0/tcp/{PORT}", f"/ip6/::/tcp/{PORT}"]
        router = await lab.node("router", "router", one, listen=listen)
        worker = await lab.node("orchestrator", "orchestrator", other, listen=listen)
        await lab.acquainted(router, "fake")
        with trio.fail_after(FIND_SECONDS):
            while (peer := (await router.peers())[worker.peer_id])["relayed"]:  # noqa: ASYNC110 - as a user would
                await trio.sleep(0.1)
        assert peer["address"].startswith("/ip6/2001:db8:")
