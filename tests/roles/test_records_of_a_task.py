"""What client, router and orchestrator each keep of a task, and whether anybody can check it afterwards."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
import trio

from cactus_mesh.core.proofs import examine, unpack
from cactus_mesh.core.serving import ServingPolicy
from cactus_mesh.errors import UnknownModel
from cactus_mesh.noting import Notes
from cactus_mesh.testing.engine import FAKE_TEXT, FakeEngine
from tests.world import clock, identity, open_world

if TYPE_CHECKING:
    from cactus_mesh.records import TaskRecord

PROMPT = "Tell me of the desert"


@dataclass
class Kept:
    """A recorder in memory."""

    keeps_receipts: bool = True
    records: list[TaskRecord] = field(default_factory=list)

    def note(self, record: TaskRecord) -> None:
        self.records.append(record)

    def by(self, role: str) -> list[TaskRecord]:
        return [each for each in self.records if each.role == role]

    def noting(self, world):
        world.notes = lambda me: Notes(self, me, world.ledger.chain, clock)
        return world


async def test_three_parties_keep_the_same_figures_of_a_task(autojump_clock):
    kept = Kept()
    async with open_world() as world:
        kept.noting(world)
        await world.router()
        await world.orchestrator()
        client = await world.client()
        await world.settle_down()
        result = await client.generate(PROMPT, model="fake").wait()
        split = await client.paid(result)
        await trio.sleep(2)

    (asked,), (routed,), (served,) = kept.by("client"), kept.by("router"), kept.by("orchestrator")
    for each in (asked, routed, served):
        assert (each.state, each.task_id, each.tokens, each.price) == (
            *("done", result.task_id, len(result.token_ids), result.price),
        )
        assert each.orchestrator == identity("orchestrator").peer_id
        assert each.client == identity("client").address
    assert (routed.paid, routed.fee, routed.to_orchestrator) == (split.paid, split.fee, split.orchestrator)
    assert asked.paid is None
    assert asked.first_token_ms is not None


async def test_each_party_s_documents_bear_the_task_out_and_hold_neither_prompt_nor_text(autojump_clock):
    kept = Kept()
    async with open_world() as world:
        kept.noting(world)
        await world.router()
        await world.orchestrator()
        client = await world.client()
        await world.settle_down()
        await client.paid(await client.generate(PROMPT, model="fake").wait())
        await trio.sleep(2)

    assert len(kept.records) == 3
    for each in kept.records:
        found = examine(unpack(each.proof))
        assert found.holds, [check for check in found.checks if check.holds is False]
        assert PROMPT.encode() not in each.proof
        assert FAKE_TEXT.encode() not in each.proof
    (asked,) = kept.by("client")
    assert None not in [check.holds for check in examine(unpack(asked.proof)).checks]


async def test_a_delegated_task_s_documents_name_who_did_the_work(autojump_clock):
    kept = Kept()
    async with open_world() as world:
        kept.noting(world)
        await world.router()
        policy = ServingPolicy(delegated_slots=4)
        await world.orchestrator("liable", engine=FakeEngine(slots=1, delay_seconds=2.0), policy=policy)
        await world.orchestrator("worker", stake=10**8)
        client = await world.client()
        await world.settle_down()
        first = client.generate("one", model="fake", max_price=10**7)
        await anext(first)
        result = await client.generate("two", model="fake", max_price=10**7).wait()
        await client.paid(result)
        await trio.sleep(2)

    assert result.delegate == identity("worker").peer_id
    records = [each for each in kept.records if each.task_id == result.task_id]
    assert sorted(each.role for each in records) == ["client", "orchestrator", "orchestrator", "router"]
    for each in records:
        assert each.delegate == result.delegate
        assert examine(unpack(each.proof)).holds, examine(unpack(each.proof)).checks


async def test_a_task_that_fails_is_kept_with_its_code(autojump_clock):
    kept = Kept()
    async with open_world() as world:
        kept.noting(world)
        await world.router()
        await world.orchestrator()
        client = await world.client()
        await world.settle_down()
        with pytest.raises(UnknownModel):
            await client.generate(PROMPT, model="none such").wait()

    (asked,) = kept.records
    assert (asked.state, asked.code, asked.price, asked.proof) == ("failed", UnknownModel.code, None, None)
    assert not asked.to_be_paid


async def test_receipts_are_kept_only_where_the_user_wants_them(autojump_clock):
    kept = Kept(keeps_receipts=False)
    async with open_world() as world:
        kept.noting(world)
        await world.router()
        await world.orchestrator()
        client = await world.client()
        await world.settle_down()
        await client.paid(await client.generate(PROMPT, model="fake").wait())
        await trio.sleep(2)

    assert [each.proof for each in kept.records] == [None] * 3
