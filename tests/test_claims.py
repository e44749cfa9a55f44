"""A running node brings its own money back: once, soon, logged, and nothing that its key may not sign for."""

from __future__ import annotations

import logging

import pytest
import trio

from cactus_mesh.book import open_book
from cactus_mesh.claims import MAX_REFUSALS, Claimer, survey
from cactus_mesh.config import ClaimsConfig
from cactus_mesh.core.holdings import TaskName, claims, holdings
from cactus_mesh.core.settlement import OperatorConsent
from cactus_mesh.ports import EscrowOrder
from cactus_mesh.testing.ledger import FakeLedger
from tests.ledger.world import claim_for, consent_for, signed
from tests.world import EPOCH_SECONDS, clock, identity, seconds

COIN = 10**8
DAY = 86_400
CLIENT, ROUTER, NODE, OWNER = map(identity, ("client", "router", "node", "owner"))


@pytest.fixture
async def ledger(autojump_clock):
    fake = FakeLedger(clock=seconds)
    fake.authorise(ROUTER)
    fake.stake(NODE, 5 * COIN)
    fake.deposit_for(CLIENT, 10 * COIN)
    return fake


@pytest.fixture
def book():
    with open_book(None) as book:
        yield book


def claimer(ledger, book, who, **config):
    return Claimer(who, ledger, book, ClaimsConfig(**config), clock)


async def in_escrow(ledger, number=1, price=COIN):
    """A task of CLIENT's at ROUTER, assigned to NODE, with a minute's time."""
    now = int(seconds())
    names = {"client": CLIENT.address, "router": ROUTER.address}
    consent = consent_for(number, **names, max_price=price, expires_at=now + 1_200)
    settlement = signed(
        consent, claim_for(number, **names, orchestrator=NODE.address), client=CLIENT, orchestrator=NODE
    )
    await ledger.create_task(
        ROUTER, EscrowOrder(consent, settlement.consent_signature, NODE.address, now + 30, now + 60)
    )
    return settlement


def claimed(caplog):
    return [(record.what, record.octas) for record in caplog.records if record.getMessage() == "claimed"]


async def test_withdrawals_and_unbonded_stake_come_back_within_a_minute_of_their_date(
    ledger, book, autojump_clock, caplog
):
    caplog.set_level(logging.INFO, "cactus_mesh")  # commands in other tests may have set it
    await ledger.request_unstake(NODE, NODE.address, 2 * COIN)
    await ledger.request_unstake(NODE, NODE.address, COIN)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(claimer(ledger, book, NODE).run)
        await trio.sleep(7 * DAY - 1)
        assert ledger.state.coins[NODE.address] == 0
        await trio.sleep(62)
        assert ledger.state.coins[NODE.address] == 3 * COIN
        await trio.sleep(DAY)
        nursery.cancel_scope.cancel()
    assert claimed(caplog) == [("unbonded stake", 3 * COIN)]
    assert ledger.conserved


async def test_a_clients_withdrawal_and_dead_escrow_come_back(ledger, book, autojump_clock, caplog):
    caplog.set_level(logging.INFO, "cactus_mesh")  # commands in other tests may have set it
    settlement = await in_escrow(ledger)
    book.asked(CLIENT.address, settlement.consent.task_id, settlement.consent.expires_at)
    await ledger.request_withdrawal(CLIENT, 2 * COIN)
    mine = claimer(ledger, book, CLIENT)
    await mine.round()
    assert mine.claimed == 0
    await trio.sleep(61)
    await mine.round()
    assert (mine.claimed, (await ledger.client(CLIENT.address)).escrowed) == (COIN, 0)
    await trio.sleep(3_600)
    await mine.round()
    assert mine.claimed == 3 * COIN
    assert len(claimed(caplog)) == 2
    assert book.tasks(CLIENT.address, limit=9) == []


async def test_a_key_claims_nothing_of_an_owner_who_is_somebody_else_but_says_so(ledger, book, autojump_clock):
    ledger.fund(OWNER.address, 5 * COIN)
    hot = identity("hot")
    consent = OperatorConsent(ledger.chain.chain_id, ledger.chain.contract, OWNER.address, hot.address)
    await ledger.register_orchestrator(OWNER, hot.public_key, 5 * COIN, hot.sign(consent.to_bcs()))
    await ledger.request_unstake(OWNER, hot.address, 2 * COIN)
    await trio.sleep(7 * DAY)
    operator = claimer(ledger, book, hot)
    await operator.round()
    (line,) = operator.to_do
    assert f"cactus-mesh claim --operator {hot.peer_id} --owner-key FILE" in line
    assert operator.claimed == 0

    owner = claimer(ledger, book, OWNER)
    await owner.round()
    assert owner.claimed == 0  # nobody has told this home of the stake
    book.staked(OWNER.address, hot.address)
    await owner.round()
    assert owner.claimed == 2 * COIN


async def test_a_refused_claim_is_tried_a_few_times_and_told_once(ledger, book, autojump_clock, caplog, monkeypatch):
    await ledger.request_withdrawal(CLIENT, 2 * COIN)
    await trio.sleep(3_600)
    tries = []

    async def refuse(signer):
        tries.append(signer)
        ledger.run(CLIENT, "request_withdrawal", 0)

    monkeypatch.setattr(ledger, "withdraw", refuse)
    mine = claimer(ledger, book, CLIENT)
    for _ in range(3 * MAX_REFUSALS):
        await mine.round()
    assert len(tries) == MAX_REFUSALS
    (record,) = [record for record in caplog.records if record.getMessage() == "cannot claim"]
    assert (record.octas, record.levelname) == (2 * COIN, "WARNING")


async def test_a_ledger_that_is_down_is_told_once_and_asked_again(ledger, book, autojump_clock, caplog):
    await ledger.request_withdrawal(CLIENT, 2 * COIN)
    await trio.sleep(3_600)
    ledger.down = True
    mine = claimer(ledger, book, CLIENT)
    for _ in range(5):
        await mine.round()
    assert len(caplog.records) == 1
    ledger.down = False
    await mine.round()
    assert mine.claimed == 2 * COIN


async def test_what_is_not_worth_its_fee_is_left_to_the_command_line(ledger, book, autojump_clock):
    await ledger.request_withdrawal(CLIENT, 500)
    await trio.sleep(3_600)
    mine = claimer(ledger, book, CLIENT, least=501)
    await mine.round()
    assert mine.claimed == 0
    standing = await survey(ledger, book, CLIENT.address, seconds())
    assert [claim.amount for claim in claims(standing, seconds())] == [500]


async def test_a_node_finds_the_dispute_that_froze_its_stake_among_what_it_did(ledger, book, autojump_clock, caplog):
    done = [await in_escrow(ledger, number) for number in range(5)]
    for settlement in done:
        await ledger.complete_task(ROUTER, settlement)
        book.served(NODE.address, TaskName(CLIENT.address, settlement.consent.task_id), EPOCH_SECONDS + 9 * DAY)
    ledger.fund(CLIENT.address, COIN)
    doubted = done[2].consent.task_id
    await ledger.open_dispute(CLIENT, CLIENT.address, doubted, bytes(32))
    mine = claimer(ledger, book, NODE)
    for _ in range(3):
        await mine.round()
    (record,) = caplog.records
    assert (record.task, record.client) == (doubted.hex(), CLIENT.address)
    assert "dispute contest" in mine.to_do[0]

    book.disputed(CLIENT.address, TaskName(CLIENT.address, doubted))
    await trio.sleep(DAY + 1)
    opener = claimer(ledger, book, CLIENT)
    await opener.round()
    assert opener.claimed == ledger.state.params.dispute_bond
    assert (await ledger.dispute(CLIENT.address, doubted)).status == "upheld"
    assert book.disputes(CLIENT.address) == [TaskName(CLIENT.address, doubted)]
    await opener.round()
    assert book.disputes(CLIENT.address) == []


async def test_every_octa_of_an_account_is_in_its_lines(ledger, book, autojump_clock):
    settlement = await in_escrow(ledger)
    await in_escrow(ledger, 2, price=7)
    book.asked(CLIENT.address, settlement.consent.task_id, settlement.consent.expires_at)
    await ledger.request_withdrawal(CLIENT, 2 * COIN)
    await ledger.request_unstake(NODE, NODE.address, COIN)
    for who, everything in ((CLIENT, 10 * COIN), (NODE, 5 * COIN)):
        standing = await survey(ledger, book, who.address, seconds())
        assert sum(line.amount for line in holdings(standing, seconds()) if line.own) == everything
        assert all(line.why for line in holdings(standing, seconds()))
