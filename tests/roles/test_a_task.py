"""One task from a client's prompt to the ledger, through the real shells."""

from __future__ import annotations

from cactus_mesh.core.settlement import SettlementClaim
from cactus_mesh.testing.engine import FAKE_TEXT
from tests.world import identity, open_world


async def test_a_prompt_is_answered_verified_and_paid(autojump_clock):
    async with open_world() as world:
        await world.router()
        await world.orchestrator()
        client = await world.client()
        await world.settle_down()

        answer = client.generate("Tell me of the desert", model="fake")
        text = "".join([piece async for piece in answer])
        split = await client.paid(answer.result)

        assert text == FAKE_TEXT == answer.result.text
        assert answer.result.orchestrator == identity("orchestrator").peer_id
        assert answer.result.delegate is None
        assert split.paid <= SettlementClaim.from_bcs(answer.result.receipt.body.claim).price
        assert world.ledger.conserved
