"""Log-probabilities on their way through the real shells: complete, in their places, and held against the receipt."""

from __future__ import annotations

import pytest
import trio
from msgspec import structs

from cactus_mesh.core.likelihoods import likelihood_of
from cactus_mesh.core.receipts import unpack_logprobs
from cactus_mesh.core.serving import ServingPolicy
from cactus_mesh.errors import BadParameters, ProtocolViolation, ReceiptRejected
from cactus_mesh.ports import EngineTokens
from cactus_mesh.routed import RoutedTask
from cactus_mesh.testing.engine import FAKE_TEXT, FakeEngine
from tests.world import DEPOSIT, identity, open_world

FIRST, SECOND = "orchestrator a", "orchestrator b"
LARGE_STAKE, SMALL_STAKE = 10**12, 10**8
DEAR = 10**7
"""A maximum price for which routers want more than the small stake."""
TOKENS = 16


class Changed(FakeEngine):
    """Gives other events than the fake would."""

    def __init__(self, change, **changes):
        super().__init__(**changes)
        self._change = change

    async def _events(self, *arguments):
        async for event in super()._events(*arguments):
            yield self._change(event) if isinstance(event, EngineTokens) else event


def colder(event):
    """As another machine would have it, in the receipt and beside it."""
    likely = tuple(likelihood_of(each.token_ids[:1], [-0.75], [(each.pieces[0], False)]) for each in event.likelihoods)
    return EngineTokens(event.token_ids, (-0.75,) * len(event.token_ids), event.text, likely)


def surer(event):
    """Signs other numbers than it streams."""
    return EngineTokens(event.token_ids, (-0.25,) * len(event.token_ids), event.text, event.likelihoods)


def silent(event):
    return EngineTokens(event.token_ids, event.logprobs, event.text)


def unasked(event):
    return EngineTokens(event.token_ids, event.logprobs, event.text, tuple(impossible_of(event.token_ids)))


def impossible_of(token_ids):
    for token in token_ids:
        yield likelihood_of([token, token, 1_001, 1_002], [-0.5, -0.5, -0.5, -0.5], [(b"x", False)] * 4)


async def asked(world, *engines, **options):
    """What comes of a task, asked of orchestrators from the largest stake to the smallest."""
    await world.router()
    for number, engine in enumerate(engines):
        await world.orchestrator(f"orchestrator {'ab'[number]}", engine=engine, stake=LARGE_STAKE >> 8 * number)
    client = await world.client()
    await world.settle_down()
    return client, client.generate("go", model="fake", **options)


@pytest.mark.parametrize("top", [0, 1, 20])
async def test_every_token_has_its_own_and_so_many_others(autojump_clock, top):
    async with open_world() as world:
        _, answer = await asked(world, FakeEngine(), top_logprobs=top)
        pieces = [piece async for piece in answer.pieces()]

        result = answer.result
        assert "".join(piece.text for piece in pieces) == FAKE_TEXT
        assert tuple(token for piece in pieces for token in piece.tokens) == result.logprobs
        assert tuple(token.token_id for token in result.logprobs) == result.token_ids
        assert tuple(token.logprob for token in result.logprobs) == unpack_logprobs(result.receipt.body.logprobs)
        assert {len(token.top) for token in result.logprobs} == {top}
        assert b"".join(token.data or b"" for token in result.logprobs) == FAKE_TEXT.encode()


async def test_who_does_not_ask_gets_none(autojump_clock):
    async with open_world() as world:
        _, answer = await asked(world, FakeEngine())
        pieces = [piece async for piece in answer.pieces()]
        assert answer.result.logprobs is None
        assert {piece.tokens for piece in pieces} == {()}


async def test_who_goes_on_for_a_lost_one_signs_for_all_and_the_places_go_on(autojump_clock):
    async with open_world() as world:
        _, answer = await asked(world, Changed(colder, fail_after=5), FakeEngine(), top_logprobs=2)
        tokens = [token async for piece in answer.pieces() for token in piece.tokens]

        assert (answer.result.continued_at, len(answer.result.logprobs)) == (5, TOKENS)
        assert [token.logprob for token in tokens] == [-0.75] * 5 + [-0.5] * (TOKENS - 5)
        assert {token.logprob for token in answer.result.logprobs} == {-0.5}  # as the receipt says
        assert [len(token.top) for token in answer.result.logprobs] == [0] * 5 + [2] * (TOKENS - 5)


async def test_a_delegates_come_through_and_so_do_those_of_who_replaces_it(autojump_clock):
    async with open_world() as world:
        await world.router()
        policy = ServingPolicy(delegated_slots=4)
        await world.orchestrator(FIRST, engine=FakeEngine(slots=1, delay_seconds=2.0), policy=policy)
        await world.orchestrator(SECOND, engine=Changed(colder, delay_seconds=1.0), stake=2 * SMALL_STAKE)
        await world.orchestrator("orchestrator c", stake=SMALL_STAKE)
        client = await world.client()
        await world.settle_down()
        await anext(client.generate("one", model="fake", max_price=DEAR))
        answer = client.generate("two", model="fake", max_price=DEAR, top_logprobs=3)
        await anext(answer)
        world.mesh.kill(identity(SECOND).peer_id)

        result = await answer.wait()
        assert result.delegate == identity("orchestrator c").peer_id
        assert [token.logprob for token in result.logprobs] == [-0.5] * TOKENS


async def test_who_signs_other_numbers_than_it_streams_is_caught_by_name_and_not_paid(autojump_clock):
    async with open_world() as world:
        client, answer = await asked(world, Changed(surer), top_logprobs=2)
        with pytest.raises(ReceiptRejected, match=r"\(streamed_logprobs\)"):
            await answer.wait()
        await trio.sleep(60)
        assert (await world.ledger.client(client.identity.address)).deposit == DEPOSIT


@pytest.mark.parametrize(
    ("change", "options"),
    [(silent, {"top_logprobs": 0}), (unasked, {"top_logprobs": 3}), (unasked, {})],
    ids=["does not tell", "tells what cannot be", "tells what nobody asked"],
)
async def test_an_orchestrator_that_breaks_the_rules_is_replaced_at_its_first_token(autojump_clock, change, options):
    async with open_world() as world:
        _, answer = await asked(world, Changed(change), FakeEngine(), **options)
        result = await answer.wait()
        assert (result.text, result.orchestrator) == (FAKE_TEXT, identity(SECOND).peer_id)


async def test_what_was_wrong_is_told_where_nobody_else_is_left(autojump_clock):
    async with open_world() as world:
        _, answer = await asked(world, Changed(unasked), top_logprobs=3)
        with pytest.raises(ProtocolViolation, match="sent log-probabilities that sum to more than 1"):
            await answer.wait()


def other_numbers(chunk):
    likely = [likelihood_of(each.token_ids[:1], [-0.4], [(b"", False)]) for each in chunk.likelihoods]
    return structs.replace(chunk, likelihoods=likely)


@pytest.mark.parametrize(
    ("change", "error", "why"),
    [
        (other_numbers, ReceiptRejected, "streamed_logprobs"),
        (lambda chunk: structs.replace(chunk, likelihoods=[]), ProtocolViolation, "of 0 tokens with"),
        (
            lambda chunk: structs.replace(chunk, likelihoods=list(impossible_of(chunk.token_ids))),
            ProtocolViolation,
            "the router sent log-probabilities that sum to more than 1",
        ),
    ],
    ids=["others", "none", "impossible"],
)
async def test_a_router_that_changes_them_is_caught_by_the_client(autojump_clock, monkeypatch, change, error, why):
    passed_on = RoutedTask.forward

    async def forward(task, chunk, **more):
        await passed_on(task, change(chunk), **more)

    monkeypatch.setattr(RoutedTask, "forward", forward)
    async with open_world() as world:
        _, answer = await asked(world, FakeEngine(), top_logprobs=3)
        with pytest.raises(error, match=why):
            await answer.wait()


async def test_an_answer_that_is_cancelled_has_those_of_its_tokens(autojump_clock):
    async with open_world() as world:
        _, answer = await asked(world, FakeEngine(delay_seconds=1.0), top_logprobs=1)
        await anext(answer)
        result = await answer.cancel()
        assert result.finish == "cancelled"
        assert [token.token_id for token in result.logprobs] == list(result.token_ids)


async def test_an_audit_passes_an_answer_with_them_as_any_other(autojump_clock):
    async with open_world() as world:
        verifier = FakeEngine()
        client, answer = await asked(world, FakeEngine(), verifier, top_logprobs=20)
        result = await answer.wait()
        await client.paid(result)
        assert (result.audited, verifier.replayed) == (True, 1)


@pytest.mark.parametrize("bad", [-1, 21, True, "3", 1.5])
async def test_numbers_out_of_bounds_are_refused_before_anything_is_sent(autojump_clock, bad):
    async with open_world() as world:
        client = await world.client()
        with pytest.raises(BadParameters, match="top_logprobs must be a whole number, 0 to 20"):
            client.generate("go", model="fake", top_logprobs=bad)


async def test_texts_that_are_read_have_none(autojump_clock):
    async with open_world() as world:
        client = await world.client()
        for ask in (client.embed, client.classify):
            with pytest.raises(BadParameters, match="top_logprobs is for texts that are continued"):
                ask(["a"], model="fake", top_logprobs=0)
        with pytest.raises(BadParameters, match="leave it out to rerank"):
            client.rerank("a", ["b"], model="fake", top_logprobs=0)
