"""Audits through the real shells: who cheats is found, disputed and slashed; who does not is left alone."""

from __future__ import annotations

import dataclasses

import pytest
import trio

from cactus_mesh.core.draws import AuditPolicy, is_drawn
from cactus_mesh.core.exhibits import decode_evidence, evidence_hash, examine
from cactus_mesh.core.requests import Contract
from cactus_mesh.core.thresholds import Table
from cactus_mesh.messages import MOST_PLACES
from cactus_mesh.testing.engine import FAKE_MODEL, FAKE_TEXT, FakeEngine
from tests.world import FAKE_TABLE, clock, identity, open_world

CHEAT, HONEST, THIRD = "orchestrator a", "orchestrator b", "orchestrator c"
LARGE_STAKE, SMALL_STAKE = 10**12, 10**8
PRICE_ABOVE_SMALL_STAKE = 10**7
OTHER_TEXT = FAKE_TEXT.replace("cactus", "camel")


class Liar(FakeEngine):
    """Says of every answer that it is none of its model's."""

    async def replay(self, *arguments):
        honest = await super().replay(*arguments)
        return dataclasses.replace(honest, gaps=(5.0,) * len(honest.gaps))


class Grumbler(FakeEngine):
    """Finds a little fault with every answer."""

    async def replay(self, *arguments):
        honest = await super().replay(*arguments)
        return dataclasses.replace(honest, gaps=(0.5, *honest.gaps[1:]))


async def ask(client, count=1):
    """Only who has the large stake is asked at this price."""
    results = [
        await client.generate("go", model="fake", max_price=PRICE_ABOVE_SMALL_STAKE).wait() for _ in range(count)
    ]
    await trio.sleep(30)
    return results


async def stake_of(world, name):
    return (await world.ledger.orchestrator(identity(name).address)).stake


async def dispute_about(world, client, result):
    return await world.ledger.dispute(client.identity.address, result.task_id)


async def test_a_cheat_is_found_disputed_and_slashed_and_its_client_gets_its_money_back(autojump_clock):
    async with open_world() as world:
        await world.router()
        await world.orchestrator(CHEAT, engine=FakeEngine(OTHER_TEXT), stake=LARGE_STAKE)
        for name in (HONEST, THIRD):
            await world.orchestrator(name, stake=SMALL_STAKE)
        client = await world.client()
        world.ledger.fund(identity("router").address, 10**9)
        params = (await world.ledger.governance()).params
        await world.ledger.set_params(world.ledger.admin, {**params, "contest_seconds": 60})
        await world.settle_down()

        (result,) = await ask(client)
        dispute = await dispute_about(world, client, result)
        assert (dispute.status, dispute.orchestrator) == ("open", identity(CHEAT).address)
        await trio.sleep(90)
        await world.ledger.finalize_dispute(client.identity, client.identity.address, result.task_id)

        assert await stake_of(world, CHEAT) == LARGE_STAKE - params["max_slash"]
        assert (await world.ledger.client(client.identity.address)).deposit == 10**9
        assert world.ledger.conserved


async def test_a_routers_own_engine_finds_a_cheat_and_another_orchestrator_confirms_it(autojump_clock):
    async with open_world() as world:
        own, other = FakeEngine(), FakeEngine()
        router = await world.router(engine=own)
        await world.orchestrator(CHEAT, engine=FakeEngine(OTHER_TEXT), stake=LARGE_STAKE)
        await world.orchestrator(HONEST, engine=other, stake=SMALL_STAKE)
        client = await world.client()
        await world.settle_down()

        await ask(client)

        assert router.audits == {"auditing": 0, "audits_fail": 1}
        assert (own.replayed, other.replayed) == (1, 1)


async def test_the_evidence_convinces_whoever_reads_it(autojump_clock):
    async with open_world() as world:
        await world.router()
        await world.orchestrator(CHEAT, engine=FakeEngine(OTHER_TEXT), stake=LARGE_STAKE)
        for name in (HONEST, THIRD):
            await world.orchestrator(name, stake=SMALL_STAKE)
        client = await world.client()
        world.ledger.fund(identity("router").address, 10**9)
        await world.settle_down()
        (result,) = await ask(client)

        (case,) = world.dossiers["router"].of_task(result.task_id)
        shown = decode_evidence(case.evidence).exhibits[0]
        found = examine(shown, Contract(world.ledger.chain.chain_id, world.ledger.chain.contract), FAKE_TABLE)

        on_ledger = next(iter(world.ledger.state.disputes.values()))
        assert on_ledger.evidence_hash == evidence_hash(case.evidence)
        assert found.chain.liable == identity(CHEAT).public_key
        assert {each.verifier for each in found.opinions} == {identity(n).public_key for n in (HONEST, THIRD)}
        assert [each.judgement.failed for each in found.opinions] == [("replay_text",)] * 2


async def test_an_honest_orchestrator_passes_and_is_audited_less_and_less(autojump_clock):
    async with open_world(audits=AuditPolicy(newcomer_audits=5, floor=0.05)) as world:
        own = FakeEngine()
        router = await world.router(engine=own)
        await world.orchestrator(CHEAT, stake=LARGE_STAKE)
        client = await world.client()
        await world.settle_down()

        results = [await client.generate("go", model="fake").wait() for _ in range(60)]
        await trio.sleep(30)

        assert set(router.audits) == {"auditing", "audits_pass"}
        assert 5 <= own.replayed < 40
        assert results[-1].verdict.body.audit_ppm < results[0].verdict.body.audit_ppm == 1_000_000
        assert await stake_of(world, CHEAT) == LARGE_STAKE
        assert world.ledger.state.disputes == {}


async def test_a_lying_verifier_alone_slashes_nobody(autojump_clock):
    async with open_world() as world:
        router = await world.router(engine=Liar())
        await world.orchestrator(CHEAT, stake=LARGE_STAKE)
        await world.orchestrator(HONEST, stake=SMALL_STAKE)
        client = await world.client()
        await world.settle_down()

        (result,) = await ask(client)

        assert router.audits == {"auditing": 0, "audits_inconclusive": 1}
        assert await dispute_about(world, client, result) is None
        (case,) = world.dossiers["router"].of_task(result.task_id)
        assert (case.result, case.dispute) == ("inconclusive", "none")


async def test_a_fail_that_nobody_else_can_confirm_slashes_nobody(autojump_clock):
    async with open_world() as world:
        router = await world.router(engine=FakeEngine())
        await world.orchestrator(CHEAT, engine=FakeEngine(OTHER_TEXT), stake=LARGE_STAKE)
        client = await world.client()
        await world.settle_down()

        (result,) = await ask(client)

        assert router.audits == {"auditing": 0, "audits_inconclusive": 1}
        assert (await client.paid(result)).paid > 0
        assert await dispute_about(world, client, result) is None


async def test_another_machine_of_the_same_owner_is_no_judge(autojump_clock):
    async with open_world() as world:
        router = await world.router()
        await world.orchestrator(CHEAT, engine=FakeEngine(OTHER_TEXT), stake=LARGE_STAKE)
        accomplice = FakeEngine(OTHER_TEXT)
        await world.orchestrator(HONEST, engine=accomplice, stake=SMALL_STAKE)
        for worker in world.ledger.state.orchestrators.values():
            object.__setattr__(worker, "owner", identity(CHEAT).address)
        client = await world.client()
        await world.settle_down()

        await ask(client)

        assert (router.audits, accomplice.replayed) == ({"auditing": 0, "audits_inconclusive": 1}, 0)


async def test_a_cheat_too_subtle_for_one_answer_is_suspected_confirmed_and_disputed(autojump_clock):
    """One token in a hundred: no single answer of sixteen is enough."""
    async with open_world() as world:
        router = await world.router(engine=FakeEngine())
        await world.orchestrator(CHEAT, engine=FakeEngine(slip_every=100), stake=LARGE_STAKE)
        await world.orchestrator(HONEST, stake=SMALL_STAKE)
        client = await world.client()
        world.ledger.fund(identity("router").address, 10**9)
        await world.settle_down()

        await ask(client, 30)

        assert router.audits["audits_fail"] == 1
        assert 1 <= router.audits["audits_inconclusive"] <= 5
        assert len(world.ledger.state.disputes) == 1
        (case, *_) = [each for each in world.dossiers["router"].cases(9) if each.result == "fail"]
        assert case.failed == ("replay_record",)
        assert len(decode_evidence(case.evidence).exhibits) >= 2


async def test_a_verifier_that_always_finds_a_little_fault_slashes_nobody(autojump_clock):
    async with open_world() as world:
        router = await world.router(engine=Grumbler())
        await world.orchestrator(CHEAT, stake=LARGE_STAKE)
        await world.orchestrator(HONEST, stake=SMALL_STAKE)
        client = await world.client()
        await world.settle_down()

        await ask(client, 10)

        assert router.audits == {"auditing": 0, "audits_inconclusive": 10}
        assert world.ledger.state.disputes == {}


async def test_without_thresholds_for_its_model_nobody_is_suspected_of_rounding(autojump_clock):
    async with open_world(table=Table()) as world:
        router = await world.router(engine=FakeEngine())
        await world.orchestrator(CHEAT, engine=FakeEngine(slip_every=3), stake=LARGE_STAKE)
        await world.orchestrator(HONEST, stake=SMALL_STAKE)
        client = await world.client()
        await world.settle_down()

        await ask(client, 10)

        assert router.audits == {"auditing": 0, "audits_inconclusive": 10}
        assert world.ledger.state.disputes == {}


async def test_an_audit_never_holds_up_the_stream_and_payment_only_for_so_long(autojump_clock):
    async with open_world(audits=AuditPolicy(pay_within_seconds=20.0)) as world:
        router = await world.router(engine=FakeEngine(delay_seconds=100.0))
        await world.orchestrator(CHEAT, stake=LARGE_STAKE)
        client = await world.client()
        await world.settle_down()

        with trio.fail_after(1):
            result = await client.generate("go", model="fake").wait()
        await trio.sleep(15)
        assert await world.ledger.task(client.identity.address, result.task_id) is None
        await trio.sleep(10)
        assert (await world.ledger.task(client.identity.address, result.task_id)).status == "completed"
        assert router.audits == {"auditing": 1}
        await trio.sleep(100)
        assert router.audits == {"auditing": 0, "audits_pass": 1}


async def test_a_router_that_shuts_down_in_an_audit_pays_what_it_has_delivered(autojump_clock):
    async with open_world() as world:
        await world.orchestrator(CHEAT, stake=LARGE_STAKE)
        client = await world.client()
        async with world.router_role(engine=FakeEngine(delay_seconds=100.0)):
            await world.settle_down()
            result = await client.generate("go", model="fake").wait()

        assert (await world.ledger.task(client.identity.address, result.task_id)).status == "completed"


async def test_a_dispute_waits_until_the_router_can_afford_its_bond(autojump_clock):
    async with open_world() as world:
        await world.router(engine=FakeEngine())
        await world.orchestrator(CHEAT, engine=FakeEngine(OTHER_TEXT), stake=LARGE_STAKE)
        await world.orchestrator(HONEST, stake=SMALL_STAKE)
        client = await world.client()
        await world.settle_down()
        (result,) = await ask(client)
        assert await dispute_about(world, client, result) is None

        world.ledger.fund(identity("router").address, 10**9)
        await trio.sleep(30)

        assert (await dispute_about(world, client, result)).status == "open"


async def test_a_client_can_tell_whether_its_task_was_drawn_and_that_nobody_chose(autojump_clock):
    async with open_world() as world:
        await world.router(engine=FakeEngine())
        await world.orchestrator(CHEAT, stake=LARGE_STAKE)
        client = await world.client()
        await world.settle_down()

        (result,) = await ask(client)

        verdict = result.verdict.body
        assert result.audited
        assert is_drawn(verdict.draw_secret, result.receipt.digest, verdict.audit_ppm)
        assert not verdict.replayed


@pytest.mark.parametrize("fraud", ["another secret", "no audits"])
async def test_a_client_refuses_a_router_that_does_not_draw_fairly(autojump_clock, monkeypatch, fraud):
    from cactus_mesh import router as module
    from cactus_mesh.errors import ReceiptRejected

    honest = module.verdict_on
    changes = (bytes(32), 1_000_000) if fraud == "another secret" else None
    monkeypatch.setattr(
        module,
        "verdict_on",
        lambda receipt, failed, secret, ppm: honest(receipt, failed, *(changes or (secret, 0))),
    )
    async with open_world() as world:
        await world.router()
        await world.orchestrator(CHEAT, stake=LARGE_STAKE)
        client = await world.client()
        await world.settle_down()

        with pytest.raises(ReceiptRejected, match="audit"):
            await client.generate("go", model="fake").wait()


async def test_nobody_but_an_authorised_router_has_anything_audited(autojump_clock):
    from cactus_mesh.core.draws import nonce_of
    from cactus_mesh.errors import RouterNotAuthorised
    from cactus_mesh.messages import Audit, Generate, Sampling, seal
    from cactus_mesh.testing.engine import FAKE_MODEL
    from cactus_mesh.verifying import AUDIT_METHOD

    async with open_world() as world:
        engine = FakeEngine()
        await world.orchestrator(HONEST, engine=engine)
        client = await world.client()
        audit = Audit(FAKE_MODEL.digest, "float32", Generate("go"), Sampling(max_tokens=4), bytes(32), [1, 2])
        to = identity(HONEST)
        sealed = seal(audit, client.identity, now_ms=clock(), valid_ms=60_000, recipient=to.public_key)

        with pytest.raises(RouterNotAuthorised):
            await client.network.ask(to.peer_id, AUDIT_METHOD, sealed.raw)
        assert engine.replayed == 0
        assert len(nonce_of(bytes(32))) == 16


# --- texts that are read whole ---------------------------------------------------------------------------------------

CLASSIFIER = dataclasses.replace(FAKE_MODEL, kinds=("classify",))
TEXTS = [f"text {number}" for number in range(20)]


def labels_of(number):
    return f'{{"no": {1 - number:.9g}, "yes": {number:.9g}}}'


def reader(*numbers):
    """Says of each text in turn that it is *numbers* likely."""
    said = [labels_of(numbers[place % len(numbers)]) for place in range(len(TEXTS))]
    return FakeEngine(f"[{', '.join(said)}]", model=CLASSIFIER)


async def classify(client, count=1):
    results = [
        await client.classify(TEXTS, model="fake", max_price=PRICE_ABOVE_SMALL_STAKE).wait() for _ in range(count)
    ]
    await trio.sleep(30)
    return results


@pytest.mark.parametrize("own", [True, False], ids=["own engine", "another orchestrator"])
async def test_who_makes_up_what_texts_say_is_found_confirmed_and_disputed(autojump_clock, own):
    async with open_world() as world:
        router = await world.router(engine=reader(0.25) if own else None)
        await world.orchestrator(CHEAT, engine=reader(0.75), stake=LARGE_STAKE)
        for name in (HONEST, THIRD):
            await world.orchestrator(name, engine=reader(0.25), stake=SMALL_STAKE)
        client = await world.client()
        world.ledger.fund(identity("router").address, 10**9)
        await world.settle_down()

        (result,) = await classify(client)

        assert router.audits == {"auditing": 0, "audits_fail": 1}
        assert (await dispute_about(world, client, result)).status == "open"
        (case,) = world.dossiers["router"].of_task(result.task_id)
        (shown,) = decode_evidence(case.evidence).exhibits
        found = examine(shown, Contract(world.ledger.chain.chain_id, world.ledger.chain.contract), FAKE_TABLE)
        assert shown.text == result.text
        assert [each.judgement.failed for each in found.opinions] == [("replay_texts",)] * 2
        assert 1 <= found.opinions[0].comparison.tokens <= MOST_PLACES


async def test_who_reads_honestly_passes(autojump_clock):
    async with open_world() as world:
        router = await world.router(engine=reader(0.25))
        await world.orchestrator(CHEAT, engine=reader(0.25), stake=LARGE_STAKE)
        client = await world.client()
        await world.settle_down()

        await classify(client, 3)

        assert router.audits == {"auditing": 0, "audits_pass": 3}


async def test_who_makes_up_only_some_texts_is_found_after_a_while(autojump_clock):
    """One text of twenty: eight lots find it in a third of the audits, and a text that is far off fails at once."""
    async with open_world() as world:
        router = await world.router(engine=reader(0.25))
        await world.orchestrator(CHEAT, engine=reader(*[0.25] * 19, 0.9375), stake=LARGE_STAKE)
        await world.orchestrator(HONEST, engine=reader(0.25), stake=SMALL_STAKE)
        client = await world.client()
        await world.settle_down()

        await classify(client, 25)

        assert router.audits["audits_fail"] >= 1
        assert router.audits["audits_pass"] >= 1


async def test_texts_that_are_each_a_little_off_add_up_to_a_suspicion(autojump_clock):
    """One text in each answer is off by more than rounding and less than fails alone."""
    async with open_world() as world:
        router = await world.router(engine=reader(0.25))
        await world.orchestrator(CHEAT, engine=reader(*[0.25] * 19, 0.265625), stake=LARGE_STAKE)
        await world.orchestrator(HONEST, engine=reader(0.25), stake=SMALL_STAKE)
        client = await world.client()
        world.ledger.fund(identity("router").address, 10**9)
        await world.settle_down()

        await classify(client, 25)

        cases = [case for case in world.dossiers["router"].cases(99) if case.result == "fail"]
        assert cases[0].failed == ("replay_record",)
        assert all(exhibit.text for exhibit in decode_evidence(cases[0].evidence).exhibits)
        assert router.audits["audits_inconclusive"] >= 2


async def test_a_lying_verifier_of_texts_alone_slashes_nobody(autojump_clock):
    async with open_world() as world:
        router = await world.router(engine=reader(0.75))
        await world.orchestrator(CHEAT, engine=reader(0.25), stake=LARGE_STAKE)
        await world.orchestrator(HONEST, engine=reader(0.25), stake=SMALL_STAKE)
        client = await world.client()
        await world.settle_down()

        (result,) = await classify(client)

        assert router.audits == {"auditing": 0, "audits_inconclusive": 1}
        assert await dispute_about(world, client, result) is None


async def test_an_answer_that_is_not_written_like_all_others_is_not_paid(autojump_clock):
    from cactus_mesh.errors import ReceiptRejected

    async with open_world() as world:
        router = await world.router(engine=reader(0.25))
        padded = FakeEngine(f"[{', '.join([labels_of(0.25).replace(': ', ':  ')] * len(TEXTS))}]", model=CLASSIFIER)
        await world.orchestrator(CHEAT, engine=padded, stake=LARGE_STAKE)
        client = await world.client()
        await world.settle_down()

        with pytest.raises(ReceiptRejected, match="form"):
            await client.classify(TEXTS, model="fake").wait()
        assert router.unsettled == 0


async def test_only_so_much_text_waits_to_be_audited(autojump_clock, monkeypatch):
    from cactus_mesh import auditing

    monkeypatch.setattr(auditing, "MAX_WAITING_CHARACTERS", 1_500)
    async with open_world() as world:
        slow = reader(0.25)
        slow._delay_seconds = 100.0
        router = await world.router(engine=slow)
        await world.orchestrator(CHEAT, engine=reader(0.25), stake=LARGE_STAKE)
        client = await world.client()
        await world.settle_down()

        results = await classify(client, 3)

        assert router.audits == {"auditing": 2, "audits_missed": 1}
        assert (await client.paid(results[-1])).paid > 0
