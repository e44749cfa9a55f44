"""The fake ledger's own conveniences; that it keeps the rules is `test_port`'s."""

from __future__ import annotations

import pytest

from cactus_mesh.errors import LedgerDown
from cactus_mesh.testing.ledger import FakeLedger
from tests.ledger.world import CLIENT, COIN, ORCHESTRATOR, ROUTER, STRANGER


async def test_its_helpers_furnish_a_ledger() -> None:
    ledger = FakeLedger()
    ledger.authorise(ROUTER, max_budget=7)
    ledger.stake(ORCHESTRATOR)
    ledger.deposit_for(CLIENT, 5)
    ledger.deposit_for(STRANGER.public_key, 6)
    ledger.fund(ROUTER.address, 8)
    server, orchestrator = await ledger.server(ROUTER.address), await ledger.orchestrator(ORCHESTRATOR.address)
    client = await ledger.client(STRANGER.address)
    assert server is not None
    assert server.authorised(ledger.clock())
    assert orchestrator is not None
    assert orchestrator.stake == COIN
    assert client is not None
    assert client.deposit == 6
    assert await ledger.balance(ROUTER.address) == 8
    assert ledger.conserved


async def test_an_authorisation_can_be_changed_in_the_middle_of_a_test() -> None:
    ledger = FakeLedger(clock=lambda: 1_000.0)
    ledger.authorise(ROUTER)
    ledger.authorise(ROUTER, expires_at=1_001)
    server = await ledger.server(ROUTER.address)
    assert server is not None
    assert server.authorised(1_000)
    assert not server.authorised(1_001)


async def test_it_goes_down_and_comes_back_with_everything() -> None:
    ledger = FakeLedger()
    ledger.deposit_for(CLIENT, 5)
    ledger.down = True
    with pytest.raises(LedgerDown):
        await ledger.client(CLIENT.address)
    with pytest.raises(LedgerDown):
        await ledger.register_server(ROUTER)
    ledger.down = False
    assert await ledger.client(CLIENT.address) is not None
