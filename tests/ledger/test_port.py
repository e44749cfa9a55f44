"""What every implementation of the `Ledger` port does: the rules in memory, and the same over REST."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cactus_mesh.core.settlement import NOBODY
from cactus_mesh.errors import LedgerAborted, LedgerRejected, NoFunds, NotStaked, RouterNotAuthorised
from cactus_mesh.ledger.rules import codes
from cactus_mesh.ports import EscrowOrder, Settled
from tests.ledger.world import (
    CLIENT,
    COIN,
    DELEGATE,
    NOW,
    ORCHESTRATOR,
    OTHER_ROUTER,
    ROUTER,
    STRANGER,
    person,
    task_id,
)

if TYPE_CHECKING:
    from tests.ledger.stage import Stage


def _order(stage: Stage, number: int = 1, *, max_price: int = 10_000, done_in: int = 600) -> EscrowOrder:
    item = stage.item(number, consent={"max_price": max_price})
    now = int(stage.clock())
    return EscrowOrder(item.consent, item.consent_signature, ORCHESTRATOR.address, now + 60, now + done_in)


async def test_what_nobody_registered_is_absent(stage: Stage) -> None:
    nobody = person("nobody").address
    assert await stage.ledger.server(nobody) is None
    assert await stage.ledger.orchestrator(nobody) is None
    assert await stage.ledger.client(nobody) is None
    assert await stage.ledger.task(nobody, task_id(1)) is None
    assert await stage.ledger.balance(nobody) == 0


async def test_what_was_registered_can_be_seen_at_once(stage: Stage) -> None:
    server = await stage.ledger.server(ROUTER.address)
    assert server is not None
    assert (server.status, server.expires_at, server.max_budget) == ("authorised", NOW + 10**6, COIN)
    orchestrator = await stage.ledger.orchestrator(ORCHESTRATOR.address)
    assert orchestrator is not None
    assert (orchestrator.owner, orchestrator.stake) == (ORCHESTRATOR.address, COIN)
    client = await stage.ledger.client(CLIENT.address)
    assert client is not None
    assert (client.public_key, client.deposit, client.withdrawals) == (CLIENT.public_key, 10 * COIN, ())
    await stage.ledger.deposit(CLIENT, 5)
    client = await stage.ledger.client(CLIENT.address)
    assert client is not None
    assert client.deposit == 10 * COIN + 5


async def test_a_server_waits_for_its_authorisation_and_loses_it_when_revoked(stage: Stage) -> None:
    await stage.ledger.register_server(STRANGER)
    server = await stage.ledger.server(STRANGER.address)
    assert server is not None
    assert not server.authorised(stage.clock())
    await stage.ledger.revoke_server(stage.admin, ROUTER.address)
    with pytest.raises(RouterNotAuthorised, match="administrator"):
        await stage.ledger.settle(ROUTER, [stage.item()])


async def test_a_finished_task_is_paid_straight_from_the_deposit(stage: Stage) -> None:
    (settled,) = await stage.ledger.settle(ROUTER, [stage.item()])
    assert settled.split is not None
    assert settled.split.paid + settled.split.refund == 10_000
    task = await stage.ledger.task(CLIENT.address, task_id(1))
    assert task is not None
    assert (task.status, task.split, task.server) == ("completed", settled.split, ROUTER.address)
    assert await stage.conserved()


async def test_an_escrowed_task_is_completed(stage: Stage) -> None:
    await stage.ledger.create_task(ROUTER, _order(stage))
    task = await stage.ledger.task(CLIENT.address, task_id(1))
    assert task is not None
    assert (task.status, task.max_price, task.split) == ("created", 10_000, None)
    settled = await stage.ledger.complete_task(ROUTER, stage.item())
    assert settled.split is not None
    assert settled.split.paid > 0
    assert await stage.conserved()


async def test_pay_reaches_the_owner_and_the_delegates_owner(stage: Stage) -> None:
    before = await stage.ledger.balance(ORCHESTRATOR.address), await stage.ledger.balance(DELEGATE.address)
    shared = stage.item(claim={"delegate": DELEGATE.address, "delegate_bps": 5_000})
    (settled,) = await stage.ledger.settle(ROUTER, [shared])
    assert settled.split is not None
    assert await stage.ledger.balance(ORCHESTRATOR.address) == before[0] + settled.split.orchestrator
    assert await stage.ledger.balance(DELEGATE.address) == before[1] + settled.split.delegate
    assert settled.split.delegate > 0


async def test_a_failed_task_is_refunded(stage: Stage) -> None:
    await stage.ledger.create_task(ROUTER, _order(stage))
    await stage.ledger.fail_task(ROUTER, CLIENT.address, task_id(1))
    task = await stage.ledger.task(CLIENT.address, task_id(1))
    assert task is not None
    assert task.status == "failed"
    assert await stage.conserved()


async def test_an_escrowed_task_goes_on_with_another_orchestrator(stage: Stage) -> None:
    await stage.ledger.create_task(ROUTER, _order(stage))
    await stage.ledger.reassign_task(ROUTER, CLIENT.address, task_id(1), DELEGATE.address)
    task = await stage.ledger.task(CLIENT.address, task_id(1))
    assert task is not None
    assert (task.status, task.orchestrator) == ("created", DELEGATE.address)
    with pytest.raises(LedgerAborted) as again:
        await stage.ledger.reassign_task(ROUTER, CLIENT.address, task_id(1), DELEGATE.address)
    assert again.value.abort_code == codes.SAME_ORCHESTRATOR.number
    lost = await stage.ledger.orchestrator(ORCHESTRATOR.address)
    assert lost is not None
    assert lost.failed == 1
    assert await stage.conserved()


async def test_anybody_times_a_task_out_once_its_deadline_has_passed(stage: Stage) -> None:
    await stage.ledger.create_task(ROUTER, _order(stage, done_in=600))
    with pytest.raises(LedgerAborted) as early:
        await stage.ledger.timeout_task(STRANGER, CLIENT.address, task_id(1))
    assert early.value.abort_code == codes.TOO_EARLY.number
    stage.clock.seconds += 601
    await stage.ledger.timeout_task(STRANGER, CLIENT.address, task_id(1))
    task = await stage.ledger.task(CLIENT.address, task_id(1))
    assert task is not None
    assert task.status == "timed_out"


async def test_a_large_settlement_is_split_and_answers_in_order(stage: Stage) -> None:
    numbers = [*range(1, 60), 7, *range(60, 112)]
    settled = await stage.ledger.settle(ROUTER, [stage.item(number) for number in numbers])
    assert [each.task_id for each in settled] == [task_id(number) for number in numbers]
    assert [each.skipped for each in settled if each.split is None] == ["E_ALREADY_SETTLED"]
    assert await stage.conserved()


async def test_settling_again_changes_nothing_and_says_so(stage: Stage) -> None:
    await stage.ledger.settle(ROUTER, [stage.item(1)])
    again = await stage.ledger.settle(ROUTER, [stage.item(1), stage.item(2)])
    assert [each.settled_before for each in again] == [True, False]
    assert again[1].split is not None


async def test_an_empty_settlement_is_nothing(stage: Stage) -> None:
    assert await stage.ledger.settle(ROUTER, []) == []


async def test_a_bad_item_is_skipped_with_the_name_of_its_reason(stage: Stage) -> None:
    forged = stage.item(1, consent={"router": OTHER_ROUTER.address})
    assert await stage.ledger.settle(ROUTER, [forged]) == [Settled(task_id(1), None, "E_BAD_CONSENT_SIGNATURE")]


async def test_missing_money_is_named_so(stage: Stage) -> None:
    with pytest.raises(NoFunds, match="E_INSUFFICIENT_COINS"):
        await stage.ledger.deposit(CLIENT, 1_000 * COIN)
    with pytest.raises(NoFunds, match="E_INSUFFICIENT_DEPOSIT"):
        await stage.ledger.create_task(ROUTER, _order(stage, max_price=11 * COIN))


async def test_missing_stake_is_named_so(stage: Stage) -> None:
    with pytest.raises(NotStaked, match="min_stake"):
        await stage.ledger.register_orchestrator(STRANGER, STRANGER.public_key, 1)


async def test_any_other_refusal_carries_its_code_and_advice(stage: Stage) -> None:
    with pytest.raises(LedgerAborted, match=r"E_SERVER_EXISTS.*nothing to do") as refused:
        await stage.ledger.register_server(ROUTER)
    assert refused.value.abort_code == codes.SERVER_EXISTS.number


async def test_only_the_administrator_authorises(stage: Stage) -> None:
    with pytest.raises(LedgerAborted, match="E_NOT_ADMIN"):
        await stage.ledger.authorise_server(STRANGER, ROUTER.address, NOW + 1, 1)


@pytest.mark.parametrize("amount", [-1, 2**64])
async def test_an_impossible_amount_is_refused_before_it_is_sent(stage: Stage, amount: int) -> None:
    with pytest.raises(LedgerRejected, match="u64"):
        await stage.ledger.deposit(CLIENT, amount)


async def test_the_chain_tells_what_everybody_computes_with(stage: Stage) -> None:
    chain = stage.ledger.chain
    assert (chain.params.fee_bps, chain.min_stake) == (500, COIN)
    assert len(chain.contract) == 66
    assert chain.contract != NOBODY
