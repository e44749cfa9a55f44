"""Attacks on the only relay and bootstrap peer, each from one range of addresses: honest peers go on and come in."""

from __future__ import annotations

import json

import pytest
import trio

from tests.nat.lab import open_lab
from tests.nat.test_resilience import served_again, slower

UNDER_ATTACK_SECONDS = 5.0


@pytest.mark.parametrize("kinds", [("sockets", "hellos"), pytest.param(("slots", "addresses"), marks=slower)])
async def test_honest_peers_work_and_join_while_their_relay_is_attacked(kinds: tuple[str, ...]) -> None:
    async with open_lab(relays=1) as lab:
        await lab.node("orchestrator", "orchestrator", "random")
        router = await lab.node("router", "router", "preserving")
        client = await lab.node("client", "client", "random")
        await lab.acquainted(router, "fake")
        await served_again(client)
        (relay,) = lab.relays
        for kind in kinds:
            chain = json.dumps({key: lab.chain[key] for key in ("chain_id", "contract")})
            machine = lab.internet.machine(kind, "public")
            await lab.spawn(kind, machine, kind, lab.address(relay), chain, module="tests.nat.attack")
        await trio.sleep(UNDER_ATTACK_SECONDS)
        await served_again(client)
        newcomer = await lab.node("newcomer", "client", "changing")
        await served_again(newcomer)
        hidden = await lab.node("hidden", "orchestrator", "random", {"model": "hidden"})
        await lab.acquainted(router, "hidden")
        await served_again(newcomer, "hidden")
        assert hidden.facts["peer_id"]
        print(f"the relay: {relay.memory_bytes() >> 20} MiB, {relay.sockets()} sockets")
        assert relay.sockets() < 400
