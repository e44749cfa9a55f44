"""A task whose client wants no more of it: what was made by then is signed for and paid, and nothing else."""

from __future__ import annotations

from contextlib import aclosing

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from cactus_mesh.config import RouterConfig
from cactus_mesh.core.routing import STOP_MS
from cactus_mesh.core.serving import ServingPolicy
from cactus_mesh.errors import Cancelled, MeshError, ReceiptRejected
from cactus_mesh.events import TaskDone
from cactus_mesh.ports import EngineFinish
from cactus_mesh.testing.engine import FAKE_TEXT, FakeEngine
from tests.world import DEPOSIT, clock, identity, open_world

FIRST, SECOND = "orchestrator a", "orchestrator b"
TOKENS = len(FAKE_TEXT.split()) + 1
SETTLED_SECONDS = 60
"""Long after audit and settlement."""


class Deaf(FakeEngine):
    """Goes on whatever it is told."""

    async def _events(self, *arguments):
        *others, _stopped = arguments
        async for event in super()._events(*others, trio.Event()):
            yield event


class Lazy(FakeEngine):
    """Ends every answer after three tokens and says that it was told to."""

    async def _events(self, *arguments):
        async with aclosing(super()._events(*arguments)) as events:
            for _ in range(3):
                yield await anext(events)
        yield EngineFinish("cancelled", 1, 3)


async def deposit_of(world, client):
    return (await world.ledger.client(client.identity.address)).deposit


async def split_of(world, client, task_id):
    task = await world.ledger.task(client.identity.address, task_id)
    return None if task is None else task.split


async def begun(world, engine=None, *, tokens=1, escrow_above=10**9, **options):
    """A client with an answer that is under way, one token a second, *tokens* of which have come."""
    router = await world.router(config=RouterConfig(escrow_above=escrow_above))
    await world.orchestrator(FIRST, engine=engine or FakeEngine(delay_seconds=1.0))
    client = await world.client()
    await world.settle_down()
    answer = client.generate("Tell me of it", model="fake", **options)
    for _ in range(tokens):
        await anext(aiter(answer))
    return router, client, answer


async def test_who_cancels_gets_the_price_of_what_was_made_and_pays_just_that(autojump_clock):
    async with open_world() as world:
        _, client, answer = await begun(world, tokens=3)
        result = await answer.cancel()
        split = await client.paid(result)

        assert (result.finish, result.text, len(result.token_ids)) == ("cancelled", "A cactus keeps", 3)
        assert 0 < split.paid <= result.price < result.max_price
        assert client.spent_today() == result.price
        assert await deposit_of(world, client) == DEPOSIT - split.paid
        assert world.ledger.conserved


async def test_leaving_the_block_tells_the_price_later(autojump_clock):
    async with open_world() as world:
        _, client, answer = await begun(world)
        with client.watch() as events:
            async with answer:
                assert await anext(aiter(answer)) == " cactus"
            done = await events.receive()

        assert isinstance(done, TaskDone)
        assert done.result.finish == "cancelled"
        assert client.spent_today() == done.result.price


async def test_who_vanishes_one_token_before_the_end_has_paid_for_all_others(autojump_clock):
    async with open_world() as world:
        router, client, answer = await begun(world, tokens=TOKENS - 1)
        world.mesh.kill(client.identity.peer_id)
        await trio.sleep(SETTLED_SECONDS)

        split = await split_of(world, client, answer.task_id)
        assert split.orchestrator > 0
        assert await deposit_of(world, client) == DEPOSIT - split.paid
        assert router.running == router.unsettled == 0
        assert world.ledger.conserved


async def test_before_the_first_token_nothing_is_paid_and_the_work_stops(autojump_clock):
    async with open_world() as world:
        engine = FakeEngine(delay_seconds=5.0)
        _, client, answer = await begun(world, engine, tokens=0)
        await answer.accepted()
        with pytest.raises(Cancelled, match="after 0 tokens"):
            await answer.cancel()
        await trio.sleep(SETTLED_SECONDS)

        assert engine.running == 0
        assert await split_of(world, client, answer.task_id) is None
        assert await deposit_of(world, client) == DEPOSIT


async def test_what_nobody_had_taken_yet_just_ends(autojump_clock):
    async with open_world() as world:
        client = await world.client()
        answer = client.generate("go", model="fake")
        with pytest.raises(Cancelled, match="before anybody had taken it"):
            await answer.cancel()
        assert client.spent_today() == 0


async def test_after_its_end_a_task_cannot_be_cancelled(autojump_clock):
    async with open_world() as world:
        _, _, answer = await begun(world)
        result = await answer.wait()
        assert await answer.cancel() is result
        assert result.finish == "stop"


async def test_a_price_in_escrow_is_paid_in_part_and_the_rest_comes_back(autojump_clock):
    async with open_world() as world:
        _, client, answer = await begun(world, escrow_above=50_000, max_price=60_000, tokens=2)
        await trio.sleep(1.5)
        result = await answer.cancel()
        split = await client.paid(result)

        held = await world.ledger.client(client.identity.address)
        assert 0 < split.paid <= result.price < 60_000
        assert (held.escrowed, held.deposit) == (0, DEPOSIT - split.paid)
        assert world.ledger.conserved


async def test_a_delegate_is_told_to_stop_too_and_has_its_share(autojump_clock):
    async with open_world() as world:
        await world.router()
        busy, helper = FakeEngine(slots=1, delay_seconds=100.0), FakeEngine(delay_seconds=1.0)
        await world.orchestrator(FIRST, engine=busy, stake=10**12, policy=ServingPolicy(delegated_slots=1))
        await world.orchestrator(SECOND, engine=helper, stake=10**8)
        client = await world.client()
        await world.settle_down()
        held = client.generate("first", model="fake", max_price=10**7)
        await held.accepted()
        answer = client.generate("go", model="fake", max_price=10**7)
        await anext(aiter(answer))
        result = await answer.cancel()
        split = await client.paid(result)

        assert (result.finish, result.delegate) == ("cancelled", identity(SECOND).peer_id)
        assert min(split.orchestrator, split.delegate) > 0


async def test_an_audit_bears_out_an_answer_that_was_cut_short(autojump_clock):
    async with open_world() as world:
        await world.orchestrator(SECOND, stake=10**8)
        router, client, answer = await begun(world, tokens=2, max_price=10**7)
        result = await answer.cancel()
        await trio.sleep(SETTLED_SECONDS)

        assert result.audited
        assert router.audits["audits_pass"] == 1
        assert await split_of(world, client, answer.task_id) is not None


async def test_who_ends_early_without_being_told_to_is_not_paid(autojump_clock):
    async with open_world() as world:
        _, client, answer = await begun(world, Lazy(delay_seconds=1.0))
        with pytest.raises(ReceiptRejected, match="finish"):
            await answer.wait()
        await trio.sleep(SETTLED_SECONDS)
        assert await deposit_of(world, client) == DEPOSIT


async def test_a_client_sees_that_its_router_cut_it_short(autojump_clock):
    async with open_world() as world:
        router, _, answer = await begun(world)
        for running in set(router._running.values()):
            running.stop.ask()
        with pytest.raises(ReceiptRejected, match="finish"):
            await answer.wait()


async def test_an_orchestrator_that_does_not_hear_is_given_up_and_not_paid(autojump_clock):
    async with open_world() as world:
        router, client, answer = await begun(world, Deaf(delay_seconds=1.0))
        began = clock()
        with pytest.raises(Cancelled, match="tokens; nothing is paid"):
            await answer.cancel()
        assert clock() - began == pytest.approx(STOP_MS, abs=100)
        await trio.sleep(SETTLED_SECONDS)
        assert router.running == 0
        assert await deposit_of(world, client) == DEPOSIT


async def test_an_answer_that_was_finished_when_the_word_came_is_paid_as_a_whole(autojump_clock):
    async with open_world() as world:
        world.mesh.latency_seconds = 0.4
        _, client, answer = await begun(world, FakeEngine(delay_seconds=0.05))
        result = await answer.cancel()

        assert (result.finish, result.text) == ("stop", FAKE_TEXT)
        assert (await client.paid(result)).paid <= result.price == client.spent_today()


async def test_who_reads_nothing_can_leave(autojump_clock):
    async with open_world() as world:
        engine = FakeEngine("word " * 1_000)
        _, client, answer = await begun(world, engine, tokens=0, max_tokens=900)
        await trio.sleep(5)  # by now everybody waits for the reader
        result = await answer.cancel()
        await trio.sleep(SETTLED_SECONDS)

        assert len(result.token_ids) == 900
        assert (await split_of(world, client, answer.task_id)).paid <= result.price


async def test_a_reader_beside_whom_another_cancels_comes_to_the_end(autojump_clock):
    async with open_world() as world:
        _, _, answer = await begun(world)
        read = []

        async def reader():
            read.extend([piece async for piece in answer])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(reader)
            await trio.sleep(2.5)
            result = await answer.cancel()
        assert result.text == "A cactus keeps"
        assert read == [" cactus", " keeps"]


@settings(max_examples=25, deadline=None)
@given(
    after=st.floats(0.0, TOKENS + 2.0),
    how=st.sampled_from(["cancel", "close", "vanish"]),
    escrow_above=st.sampled_from([0, 10**9]),
    latency=st.sampled_from([0.0, 0.05]),
)
def test_whenever_a_client_leaves_no_coin_is_minted_or_lost(after, how, escrow_above, latency):
    async def scenario():
        async with open_world() as world:
            world.mesh.latency_seconds = latency
            router, client, answer = await begun(world, tokens=0, escrow_above=escrow_above)
            await trio.sleep(after)
            had = answer._job.pieces.statistics().current_buffer_used if how == "vanish" else 0
            await leave(world, client, answer, how)
            await trio.sleep(SETTLED_SECONDS)
            split = await split_of(world, client, answer.task_id)
            account = await world.ledger.client(client.identity.address)
            assert account.escrowed == router.running == router.unsettled == 0
            assert account.deposit == DEPOSIT - (0 if split is None else split.paid)
            assert world.ledger.conserved
            assert split is not None or had == 0, "who has had a token pays"

    trio.run(scenario, clock=MockClock(autojump_threshold=0))


async def leave(world, client, answer, how):
    if how == "vanish":
        world.mesh.kill(client.identity.peer_id)
    elif how == "close":
        await answer.__aexit__(None, None, None)
    else:
        try:
            result = await answer.cancel()
        except MeshError:
            return
        assert client.spent_today() == result.price
