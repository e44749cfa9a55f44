"""One task from a client's prompt to the ledger, through the real shells."""

from __future__ import annotations

import dataclasses

import pytest
import trio
from msgspec import structs

from cactus_mesh.answer import Ask
from cactus_mesh.config import ClientConfig, PriceConfig, RouterConfig
from cactus_mesh.core.serving import ServingPolicy
from cactus_mesh.core.settlement import SettlementClaim, TaskConsent
from cactus_mesh.errors import (
    Busy,
    DeadlinePassed,
    DuplicateTask,
    LedgerAborted,
    LedgerDown,
    NoFunds,
    NoRouter,
    NotStaked,
    OrchestratorLost,
    PriceTooLow,
    PromptTooLong,
    RouterNotAuthorised,
    UnknownModel,
)
from cactus_mesh.messages import Generate, Sampling, seal
from cactus_mesh.router import SUBMIT_METHOD
from cactus_mesh.testing.engine import FAKE_TEXT, FakeEngine
from tests.world import clock, identity, open_world

FIRST, SECOND = "orchestrator a", "orchestrator b"
LARGE_STAKE, SMALL_STAKE = 10**12, 10**8
SECONDS_PER_TOKEN = 1.0
PRICE_ABOVE_SMALL_STAKE = 10**7
"""A maximum price for which routers want more than the small stake, so that only the large one is asked."""


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
        assert 0 < split.paid <= SettlementClaim.from_bcs(answer.result.receipt.body.claim).price
        assert world.ledger.conserved


async def test_tokens_arrive_while_the_engine_still_works(autojump_clock):
    async with open_world() as world:
        await world.router()
        orchestrator = FakeEngine(delay_seconds=1.0)
        await world.orchestrator(engine=orchestrator)
        client = await world.client()
        await world.settle_down()

        answer = client.generate("go", model="fake")
        first = await anext(aiter(answer))

        assert first == "A"
        assert orchestrator.running == 1


async def test_a_client_hears_who_has_taken_its_task_before_the_first_token(autojump_clock):
    async with open_world() as world:
        await world.router()
        engine = FakeEngine(delay_seconds=5.0)
        await world.orchestrator(engine=engine)
        client = await world.client()
        await world.settle_down()

        answer = client.generate("go", model="fake")

        assert await answer.accepted() == identity("orchestrator").peer_id
        assert engine.running == 1


async def test_a_task_that_nobody_takes_says_so_to_whoever_waits_for_its_acceptance(autojump_clock):
    async with open_world() as world:
        client = await world.client()

        with pytest.raises(NoRouter):
            await client.generate("go", model="fake").accepted()


async def test_a_full_orchestrator_is_passed_over_for_the_next(autojump_clock):
    async with open_world() as world:
        await world.router()
        for name in (FIRST, SECOND):
            await world.orchestrator(name, engine=FakeEngine(slots=1, delay_seconds=1.0))
        client = await world.client()
        await world.settle_down()

        answers = [client.generate(f"task {n}", model="fake") for n in range(2)]
        results = [await answer.wait() for answer in answers]

        assert {r.orchestrator for r in results} == {identity(FIRST).peer_id, identity(SECOND).peer_id}


async def test_when_everybody_is_full_the_client_is_told_busy(autojump_clock):
    async with open_world() as world:
        await world.router()
        await world.orchestrator(engine=FakeEngine(slots=1, delay_seconds=1.0))
        client = await world.client()
        await world.settle_down()

        first = client.generate("one", model="fake")
        await anext(aiter(first))
        with pytest.raises(Busy):
            await client.generate("two", model="fake").wait()


async def test_an_orchestrator_lost_before_its_first_token_is_replaced_in_silence(autojump_clock):
    async with open_world() as world:
        await world.router()
        slow, quick = FakeEngine(delay_seconds=5.0), FakeEngine()
        await world.orchestrator(FIRST, engine=slow, stake=LARGE_STAKE)
        await world.orchestrator(SECOND, engine=quick, stake=SMALL_STAKE)
        client = await world.client()
        await world.settle_down()

        answer = client.generate("go", model="fake")
        await trio.sleep(1)
        assert slow.running == 1
        world.mesh.kill(identity(FIRST).peer_id)

        assert (await answer.wait()).orchestrator == identity(SECOND).peer_id


async def test_an_orchestrator_lost_later_is_a_clear_error_and_nothing_is_paid(autojump_clock):
    async with open_world() as world:
        await world.router()
        await world.orchestrator(engine=FakeEngine(delay_seconds=1.0))
        client = await world.client()
        await world.settle_down()

        answer = client.generate("go", model="fake")
        await anext(aiter(answer))
        world.mesh.kill(identity("orchestrator").peer_id)

        with pytest.raises(OrchestratorLost, match=r"after 1 tokens .* nobody could go on"):
            await answer.wait()
        await trio.sleep(5)
        assert (await world.ledger.client(client.identity.address)).deposit == 10**9


async def test_an_orchestrator_lost_mid_stream_is_replaced_by_another_that_goes_on_and_is_paid(autojump_clock):
    async with open_world() as world:
        await world.router()
        await world.orchestrator(FIRST, engine=FakeEngine(delay_seconds=1.0), stake=LARGE_STAKE)
        await world.orchestrator(SECOND, engine=FakeEngine(delay_seconds=0.1), stake=SMALL_STAKE)
        client = await world.client()
        await world.settle_down()

        answer = client.generate("go", model="fake")
        pieces = [await anext(answer), await anext(answer)]
        world.mesh.kill(identity(FIRST).peer_id)
        pieces += [piece async for piece in answer]
        split = await client.paid(answer.result)

        assert "".join(pieces) == FAKE_TEXT
        assert (answer.result.orchestrator, answer.result.continued_at) == (identity(SECOND).peer_id, 2)
        assert await world.ledger.balance(identity(SECOND).address) == split.orchestrator > 0
        assert await world.ledger.balance(identity(FIRST).address) == 0
        assert world.ledger.conserved


async def test_an_engine_that_fails_mid_stream_is_replaced(autojump_clock):
    async with open_world() as world:
        await world.router()
        await world.orchestrator(FIRST, engine=FakeEngine(fail_after=5), stake=LARGE_STAKE)
        await world.orchestrator(SECOND, stake=SMALL_STAKE)
        client = await world.client()
        await world.settle_down()

        result = await client.generate("go", model="fake").wait()

        assert (result.text, result.continued_at) == (FAKE_TEXT, 5)


async def test_who_would_have_made_other_tokens_does_not_go_on_from_them(autojump_clock):
    async with open_world() as world:
        await world.router()
        await world.orchestrator(FIRST, engine=FakeEngine("A lie is told", fail_after=3), stake=LARGE_STAKE)
        await world.orchestrator(SECOND, stake=SMALL_STAKE)
        client = await world.client()
        await world.settle_down()

        with pytest.raises(OrchestratorLost, match="nobody could go on"):
            await client.generate("go", model="fake").wait()


async def test_a_delegate_lost_mid_stream_is_replaced_by_another_that_goes_on(autojump_clock):
    async with open_world() as world:
        await world.router()
        policy = ServingPolicy(delegated_slots=4)
        await world.orchestrator(FIRST, engine=FakeEngine(slots=1, delay_seconds=2.0), policy=policy)
        await world.orchestrator(SECOND, engine=FakeEngine(delay_seconds=1.0), stake=2 * SMALL_STAKE)
        await world.orchestrator("orchestrator c", stake=SMALL_STAKE)
        client = await world.client()
        await world.settle_down()

        first = client.generate("one", model="fake", max_price=PRICE_ABOVE_SMALL_STAKE)
        await anext(first)
        second = client.generate("two", model="fake", max_price=PRICE_ABOVE_SMALL_STAKE)
        await anext(second)
        world.mesh.kill(identity(SECOND).peer_id)
        result = await second.wait()

        assert (result.text, result.delegate) == (FAKE_TEXT, identity("orchestrator c").peer_id)
        assert (await client.paid(result)).delegate > 0


async def test_who_goes_on_for_a_lost_one_may_delegate_what_is_left(autojump_clock):
    async with open_world() as world:
        await world.router()
        policy = ServingPolicy(delegated_slots=4)
        for name in (FIRST, SECOND):
            await world.orchestrator(name, engine=FakeEngine(slots=1, delay_seconds=2.0), policy=policy)
        await world.orchestrator("orchestrator c", stake=SMALL_STAKE)
        client = await world.client()
        await world.settle_down()

        answer = client.generate("one", model="fake", max_price=PRICE_ABOVE_SMALL_STAKE)
        await anext(answer)
        blocking = client.generate("two", model="fake", max_price=PRICE_ABOVE_SMALL_STAKE)
        lost, other = await answer.accepted(), await blocking.accepted()
        assert lost != other
        world.mesh.kill(lost)
        result = await answer.wait()

        assert (result.text, bool(result.continued_at)) == (FAKE_TEXT, True)
        assert (result.orchestrator, result.delegate) == (other, identity("orchestrator c").peer_id)


async def test_an_engine_that_fails_before_its_first_token_is_replaced(autojump_clock):
    async with open_world() as world:
        await world.router()
        await world.orchestrator(FIRST, engine=FakeEngine(fail_after=0), stake=LARGE_STAKE)
        await world.orchestrator(SECOND, stake=SMALL_STAKE)
        client = await world.client()
        await world.settle_down()

        result = await client.generate("go", model="fake").wait()

        assert result.orchestrator == identity(SECOND).peer_id


async def test_a_silent_orchestrator_is_given_up_and_replaced(autojump_clock):
    async with open_world() as world:
        await world.router()
        await world.orchestrator(FIRST, engine=FakeEngine(delay_seconds=1_000.0), stake=LARGE_STAKE)
        await world.orchestrator(SECOND, stake=SMALL_STAKE)
        client = await world.client()
        await world.settle_down()

        result = await client.generate("go", model="fake").wait()

        assert result.orchestrator == identity(SECOND).peer_id


async def test_a_full_orchestrator_delegates_and_stays_liable(autojump_clock):
    async with open_world() as world:
        await world.router()
        policy = ServingPolicy(delegated_slots=4, delegate_share_bps=7_500)
        await world.orchestrator(FIRST, engine=FakeEngine(slots=1, delay_seconds=1.0), policy=policy)
        await world.orchestrator(SECOND, stake=SMALL_STAKE)
        client = await world.client()
        await world.settle_down()

        first = client.generate("one", model="fake", max_price=PRICE_ABOVE_SMALL_STAKE)
        await anext(aiter(first))
        second = await client.generate("two", model="fake", max_price=PRICE_ABOVE_SMALL_STAKE).wait()
        split = await client.paid(second)

        assert second.orchestrator == identity(FIRST).peer_id
        assert second.delegate == identity(SECOND).peer_id
        assert split.delegate == (split.delegate + split.orchestrator) * 7_500 // 10_000
        assert world.ledger.conserved


async def test_a_delegate_lost_before_its_first_token_is_replaced_by_another(autojump_clock):
    async with open_world() as world:
        await world.router()
        policy = ServingPolicy(delegated_slots=4)
        await world.orchestrator(FIRST, engine=FakeEngine(slots=1, delay_seconds=2.0), policy=policy)
        await world.orchestrator(SECOND, engine=FakeEngine(delay_seconds=5.0), stake=2 * SMALL_STAKE)
        await world.orchestrator("orchestrator c", stake=SMALL_STAKE)
        client = await world.client()
        await world.settle_down()

        first = client.generate("one", model="fake", max_price=PRICE_ABOVE_SMALL_STAKE)
        await anext(aiter(first))
        second = client.generate("two", model="fake", max_price=PRICE_ABOVE_SMALL_STAKE)
        await trio.sleep(1)
        world.mesh.kill(identity(SECOND).peer_id)

        assert (await second.wait()).delegate == identity("orchestrator c").peer_id


async def test_leaving_the_block_stops_the_work_at_the_engine(autojump_clock):
    async with open_world() as world:
        await world.router()
        engine = FakeEngine(delay_seconds=1.0)
        await world.orchestrator(engine=engine)
        client = await world.client()
        await world.settle_down()

        async with client.generate("go", model="fake") as answer:
            await anext(aiter(answer))
            assert engine.running == 1
        await trio.sleep(0.1)

        assert engine.running == 0


async def test_dropping_an_answer_stops_the_work_too(autojump_clock):
    async with open_world() as world:
        await world.router()
        engine = FakeEngine(delay_seconds=1.0)
        await world.orchestrator(engine=engine)
        client = await world.client()
        await world.settle_down()

        async for _ in client.generate("go", model="fake"):
            break
        await trio.sleep(0.1)

        assert engine.running == 0


async def test_a_client_that_vanishes_stops_the_work_at_a_delegate(autojump_clock):
    async with open_world() as world:
        await world.router()
        engine = FakeEngine(delay_seconds=1.0)
        first = FakeEngine(slots=1, delay_seconds=1.0)
        await world.orchestrator(FIRST, engine=first, policy=ServingPolicy(delegated_slots=1))
        await world.orchestrator(SECOND, engine=engine, stake=SMALL_STAKE)
        client = await world.client()
        await world.settle_down()

        held = [client.generate(f"{n}", model="fake", max_price=PRICE_ABOVE_SMALL_STAKE) for n in range(2)]
        for answer in held:
            await anext(aiter(answer))
        assert (first.running, engine.running) == (1, 1)
        world.mesh.kill(client.identity.peer_id)
        await trio.sleep(2 * SECONDS_PER_TOKEN)  # and for the audit of what was made

        assert (first.running, engine.running) == (0, 0)


async def test_a_client_refuses_a_router_that_the_ledger_does_not_authorise(autojump_clock):
    async with open_world() as world:
        await world.router(authorised=False)
        await world.orchestrator()
        client = await world.client()
        await world.settle_down()

        with pytest.raises(RouterNotAuthorised, match="not authorised on the ledger"):
            await client.generate("go", model="fake").wait()


async def test_an_orchestrator_refuses_the_orders_of_a_router_that_was_revoked(autojump_clock):
    async with open_world() as world:
        router = await world.router()
        engine = FakeEngine()
        await world.orchestrator(engine=engine)
        client = await world.client()
        await world.settle_down()
        router._refuse_unauthorised = trio.lowlevel.checkpoint  # a router that does not care
        await client.generate("while authorised", model="fake").wait()
        world.ledger.run(world.ledger.admin, "revoke_server", router.identity.address)

        with pytest.raises(RouterNotAuthorised, match="revoked"):
            await client.generate("after", model="fake").wait()
        assert engine.started == 1


async def test_a_task_that_was_done_is_not_done_again_for_the_same_money(autojump_clock):
    async with open_world() as world:
        router = await world.router()
        engine = FakeEngine()
        await world.orchestrator(engine=engine)
        client = await world.client()
        await world.settle_down()
        work, sampling = Generate("go"), Sampling(max_tokens=16)
        ask = Ask(bytes(16), "fake", None, work, sampling, 20_000, clock() + 60_000)

        async def submit() -> int:
            raw = client._request(ask, router.identity.public_key).raw  # signed anew, with the same task id
            async with client.network.call(router.identity.peer_id, SUBMIT_METHOD, raw) as reply:
                return len([item async for item in reply])

        assert await submit() >= 3
        with pytest.raises(DuplicateTask):
            await submit()
        assert engine.started == 1


async def test_a_consents_nonce_buys_one_answer(autojump_clock):
    async with open_world() as world:
        router = await world.router()
        engine = FakeEngine()
        await world.orchestrator(engine=engine)
        client = await world.client()
        await world.settle_down()

        async def submit(task_id: bytes) -> int:
            ask = Ask(task_id, "fake", None, Generate("go"), Sampling(max_tokens=16), 20_000, clock() + 60_000)
            honest = client._request(ask, router.identity.public_key).body
            consent = dataclasses.replace(TaskConsent.from_bcs(honest.consent), nonce=7).to_bcs()
            body = structs.replace(honest, consent=consent, consent_signature=client.identity.sign(consent))
            me, to = client.identity, router.identity.public_key
            raw = seal(body, me, now_ms=clock(), valid_ms=60_000, recipient=to).raw
            async with client.network.call(router.identity.peer_id, SUBMIT_METHOD, raw) as reply:
                return len([item async for item in reply])

        assert await submit(b"a" * 16) >= 3
        with pytest.raises(DuplicateTask):
            await submit(b"b" * 16)
        assert engine.started == 1


async def test_five_that_always_say_busy_do_not_stop_a_task(autojump_clock):
    async with open_world() as world:
        router = await world.router()
        for number in range(6):
            liar = await world.orchestrator(f"liar {number}", stake=LARGE_STAKE)
            liar._slots._limit["engine"] = 0  # advertises room for 64 and takes nobody
        await world.orchestrator(SECOND, stake=SMALL_STAKE)
        client = await world.client()
        await world.settle_down()

        result = await client.generate("go", model="fake").wait()

        assert result.orchestrator == identity(SECOND).peer_id
        refused = router.directory.index.of_peer(identity("liar 0").public_key)
        assert all(candidate.busy >= candidate.slots for candidate in refused)


async def test_a_client_without_a_deposit_is_told_how_to_make_one(autojump_clock):
    async with open_world() as world:
        await world.router()
        await world.orchestrator()
        client = await world.client(deposit=0)
        await world.settle_down()

        with pytest.raises(NoFunds, match="cactus-mesh deposit"):
            await client.generate("go", model="fake").wait()


async def test_running_tasks_count_against_the_deposit(autojump_clock):
    async with open_world() as world:
        await world.router()
        await world.orchestrator(engine=FakeEngine(delay_seconds=1.0))
        client = await world.client(deposit=150_000)
        await world.settle_down()

        first = client.generate("one", model="fake", max_price=100_000)
        await anext(aiter(first))
        with pytest.raises(NoFunds, match="100000 of them promised"):
            await client.generate("two", model="fake", max_price=100_000).wait()
        await client.paid(await first.wait())
        await trio.sleep(2)
        await client.generate("three", model="fake", max_price=100_000).wait()


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"model": "gpt-9"}, UnknownModel, "offered here: fake"),
        ({"prompt": "word " * 5_000}, PromptTooLong, "4096"),
        ({"max_tokens": 5_000}, PromptTooLong, "4096"),
        ({"max_price": 100}, PriceTooLow, "raise the maximum price"),
        ({"max_price": 10**9}, NotStaked, "lower the maximum price"),
    ],
)
async def test_what_cannot_be_done_is_refused_by_name(autojump_clock, changes, error, says):
    async with open_world() as world:
        await world.router()
        await world.orchestrator()
        client = await world.client()
        await world.settle_down()

        wanted = {"prompt": "go", "model": "fake", **changes}
        with pytest.raises(error, match=says):
            await client.generate(wanted.pop("prompt"), **wanted).wait()


async def test_a_deadline_ends_the_task_everywhere(autojump_clock):
    async with open_world() as world:
        await world.router()
        engine = FakeEngine(delay_seconds=1.0)
        await world.orchestrator(engine=engine)
        client = await world.client()
        await world.settle_down()

        with pytest.raises(DeadlinePassed, match="ask again with a later"):
            await client.generate("go", model="fake", deadline_seconds=5.0).wait()
        await trio.sleep(0.1)
        assert engine.running == 0


async def test_without_a_router_the_client_is_told_what_is_missing(autojump_clock):
    async with open_world() as world:
        client = await world.client()

        with pytest.raises(NoRouter, match="not connected to any peer"):
            await client.generate("go", model="fake").wait()


async def test_whoever_asks_with_the_key_of_the_only_router_is_told_so(autojump_clock):
    async with open_world() as world:
        world.ledger.authorise(identity("router"))
        world.mesh.join(identity("somebody"))
        client = await world.client("router")
        await client.network.connect(identity("somebody").peer_id)
        with pytest.raises(NoRouter, match=r"this home's key.*run --role router --gateway"):
            await client.generate("go", model="fake").wait()


async def test_settlement_waits_until_a_lapsed_authorisation_is_renewed(autojump_clock):
    async with open_world() as world:
        await world.router()
        await world.orchestrator(engine=FakeEngine(delay_seconds=1.0))
        client = await world.client()
        await world.settle_down()
        world.ledger.authorise(identity("router"), expires_at=int(world.ledger.clock()) + 1)
        result = await client.generate("go", model="fake").wait()
        await trio.sleep(30)

        assert await world.ledger.task(identity("client").address, result.task_id) is None
        world.ledger.authorise(identity("router"))
        assert (await client.paid(result)).paid > 0


async def test_settlement_waits_for_a_ledger_that_is_down_and_pays_once(autojump_clock):
    async with open_world() as world:
        await world.router()
        await world.orchestrator()
        client = await world.client()
        await world.settle_down()

        result = await client.generate("go", model="fake").wait()
        world.ledger.down = True
        await trio.sleep(60)
        with pytest.raises(LedgerDown):
            await client.paid(result)
        world.ledger.down = False

        split = await client.paid(result)
        assert (await world.ledger.client(client.identity.address)).deposit == 10**9 - split.paid


async def test_an_expensive_task_is_held_in_escrow_and_the_rest_comes_back(autojump_clock):
    async with open_world() as world:
        await world.router(config=RouterConfig(escrow_above=50_000))
        await world.orchestrator(engine=FakeEngine(delay_seconds=1.0))
        client = await world.client()
        await world.settle_down()

        answer = client.generate("go", model="fake", max_price=60_000)
        await anext(aiter(answer))
        await trio.sleep(0.5)
        assert (await world.ledger.client(client.identity.address)).deposit == 10**9 - 60_000
        split = await client.paid(await answer.wait())

        assert split.paid + split.refund == 60_000
        assert (await world.ledger.client(client.identity.address)).deposit == 10**9 - split.paid
        assert world.ledger.conserved


async def test_a_failed_task_in_escrow_is_refunded(autojump_clock):
    async with open_world() as world:
        await world.router(config=RouterConfig(escrow_above=50_000))
        await world.orchestrator(engine=FakeEngine(delay_seconds=1.0, fail_after=3))
        client = await world.client()
        await world.settle_down()

        with pytest.raises(OrchestratorLost):
            await client.generate("go", model="fake", max_price=60_000).wait()
        await trio.sleep(5)

        assert (await world.ledger.client(client.identity.address)).deposit == 10**9


async def begun_in_escrow(world, first, second):
    """A router, two orchestrators with these engines of which the first is asked first, and a dear answer begun."""
    await world.router(config=RouterConfig(escrow_above=50_000))
    await world.orchestrator(FIRST, engine=first, stake=LARGE_STAKE)
    await world.orchestrator(SECOND, engine=second, stake=SMALL_STAKE)
    client = await world.client()
    await world.settle_down()
    answer = client.generate("go", model="fake", max_price=60_000)
    return client, answer, [await anext(answer)]


async def test_a_lost_orchestrators_escrow_is_for_the_one_that_goes_on(autojump_clock):
    async with open_world() as world:
        client, answer, pieces = await begun_in_escrow(world, FakeEngine(delay_seconds=1.0), FakeEngine())
        await trio.sleep(0.5)
        world.mesh.kill(identity(FIRST).peer_id)
        pieces += [piece async for piece in answer]
        split = await client.paid(answer.result)

        assert ("".join(pieces), answer.result.orchestrator) == (FAKE_TEXT, identity(SECOND).peer_id)
        assert await world.ledger.balance(identity(SECOND).address) == split.orchestrator > 0
        assert (await world.ledger.client(client.identity.address)).deposit == 10**9 - split.paid
        records = [await world.ledger.orchestrator(identity(name).address) for name in (FIRST, SECOND)]
        assert [(each.completed, each.failed) for each in records] == [(0, 1), (1, 0)]
        assert world.ledger.conserved


async def test_an_escrow_follows_a_task_that_moves_before_the_ledger_has_answered(autojump_clock):
    async with open_world() as world:
        engines = FakeEngine(fail_after=2), FakeEngine()
        client, answer, _ = await begun_in_escrow(world, *engines)
        split = await client.paid(await answer.wait())

        assert answer.result.continued_at == 2
        assert await world.ledger.balance(identity(SECOND).address) == split.orchestrator > 0


@pytest.mark.parametrize("why", [LedgerDown("gone"), LedgerAborted("frozen", 29)], ids=["silent", "refused"])
async def test_an_escrow_that_the_ledger_does_not_move_comes_back(autojump_clock, monkeypatch, why):
    async def refuse(*_):
        raise why

    async with open_world() as world:
        monkeypatch.setattr(world.ledger, "reassign_task", refuse)
        client, answer, _ = await begun_in_escrow(world, FakeEngine(fail_after=2), FakeEngine(delay_seconds=1.0))
        with pytest.raises(type(why)):
            await answer.wait()
        await trio.sleep(60)

        account = await world.ledger.client(client.identity.address)
        assert (account.deposit, account.escrowed) == (10**9, 0)


async def test_the_cheaper_of_two_equals_is_asked(autojump_clock):
    async with open_world() as world:
        await world.router()
        dear = PriceConfig(base=10_000, input_per_1k=50_000, output_per_1k=50_000)
        await world.orchestrator(FIRST, price=dear)
        await world.orchestrator(SECOND)
        client = await world.client(config=ClientConfig(max_price=100_000))
        await world.settle_down()

        result = await client.generate("go", model="fake").wait()

        assert result.orchestrator == identity(SECOND).peer_id


async def test_an_orchestrator_without_a_stake_is_never_asked(autojump_clock):
    async with open_world() as world:
        router = await world.router()
        await world.orchestrator(FIRST, stake=0)
        await world.orchestrator(SECOND)
        await world.settle_down()

        assert router.directory.index.of_peer(identity(FIRST).public_key) == ()
        assert router.directory.index.of_peer(identity(SECOND).public_key) != ()


async def test_a_silent_peers_lease_ends(autojump_clock):
    async with open_world() as world:
        router = await world.router()
        await world.orchestrator()
        await world.settle_down()
        world.mesh.partition(router.identity.peer_id, identity("orchestrator").peer_id)
        await trio.sleep(30)

        assert router.directory.index.models() == []


async def test_a_living_peer_whose_gossip_is_lost_is_asked_for_its_advert(autojump_clock, monkeypatch):
    async with open_world() as world:
        router = await world.router()
        await world.orchestrator()
        await world.settle_down()
        monkeypatch.setattr(world.mesh, "_spread", lambda publisher, gossip: None)
        for _ in range(60):
            await trio.sleep(1)
            assert router.directory.index.models() != []


async def test_a_router_that_shuts_down_lets_its_tasks_end_and_settles_them(autojump_clock):
    async with open_world() as world:
        await world.orchestrator(engine=FakeEngine(delay_seconds=0.5))
        client = await world.client()
        async with world.router_role():
            await world.settle_down()
            answer = client.generate("go", model="fake")
            await anext(aiter(answer))

        assert (await world.ledger.task(client.identity.address, answer.result.task_id)).split is not None


async def test_a_router_that_comes_back_settles_what_it_left_and_does_no_task_twice(autojump_clock):
    async with open_world() as world:
        engine = FakeEngine()
        await world.orchestrator(engine=engine)
        client = await world.client()
        ask = Ask(bytes(16), "fake", None, Generate("go"), Sampling(max_tokens=16), 20_000, clock() + 600_000)

        async def submit() -> None:
            router = identity("router")
            raw = client._request(ask, router.public_key).raw
            async with client.network.call(router.peer_id, SUBMIT_METHOD, raw) as reply:
                async for _ in reply:
                    pass

        async with world.router_role():
            await world.settle_down()
            await submit()
            world.ledger.down = True
        world.mesh.kill(identity("router").peer_id)
        world.ledger.down = False
        assert await world.ledger.task(client.identity.address, bytes(16)) is None

        async with world.router_role():
            await world.settle_down()
            assert (await world.ledger.task(client.identity.address, bytes(16))).split is not None
            with pytest.raises(DuplicateTask):
                await submit()
        assert engine.started == 1
        assert world.ledger.conserved


async def test_an_escrow_that_a_router_left_behind_comes_back_to_the_client(autojump_clock):
    async with open_world() as world:
        await world.orchestrator(engine=FakeEngine(delay_seconds=5.0))
        client = await world.client()
        async with world.router_role(config=RouterConfig(escrow_above=50_000)):
            await world.settle_down()
            answer = client.generate("go", model="fake", max_price=60_000)
            await anext(aiter(answer))
            await trio.sleep(1)
            assert (await world.ledger.client(client.identity.address)).deposit == 10**9 - 60_000
            world.ledger.down = True
        world.mesh.kill(identity("router").peer_id)
        world.ledger.down = False

        async with world.router_role():
            await world.settle_down()
        assert (await world.ledger.client(client.identity.address)).deposit == 10**9


async def test_an_escrow_of_a_router_that_may_not_act_any_more_comes_back_after_its_deadline(autojump_clock):
    async with open_world() as world:
        await world.orchestrator(engine=FakeEngine(delay_seconds=5.0))
        client = await world.client()
        await world.router(config=RouterConfig(escrow_above=50_000))
        await world.settle_down()
        answer = client.generate("go", model="fake", max_price=60_000, deadline_seconds=30)
        await anext(aiter(answer))
        await trio.sleep(1)
        assert (await world.ledger.client(client.identity.address)).escrowed == 60_000
        world.ledger.run(world.ledger.admin, "revoke_server", identity("router").address)
        await trio.sleep(600)
        assert (await world.ledger.client(client.identity.address)).escrowed == 60_000
        await trio.sleep(1_000)
        view = await world.ledger.client(client.identity.address)
        assert (view.escrowed, view.deposit) == (0, 10**9)
        assert world.ledger.conserved
