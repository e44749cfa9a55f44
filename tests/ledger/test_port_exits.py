"""Money's ways out, whatever is behind the port: withdrawals, unbonding, who may order them, and the pause."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cactus_mesh.core.settlement import OperatorConsent
from cactus_mesh.errors import LedgerAborted, NoFunds, NotStaked
from cactus_mesh.ledger.rules import codes
from cactus_mesh.ports import Due
from tests.ledger.world import ADMIN, CLIENT, COIN, ORCHESTRATOR, STRANGER, person

if TYPE_CHECKING:
    from cactus_mesh.identity import Address, Identity
    from cactus_mesh.ports import ClientView, OrchestratorView
    from tests.ledger.stage import Stage

FEES = COIN // 100
"""More than the fees of any few transactions on the embedded ledger; in memory there are none."""


async def _client(stage: Stage) -> ClientView:
    client = await stage.ledger.client(CLIENT.address)
    assert client is not None
    return client


async def _orchestrator(stage: Stage, operator: Address = ORCHESTRATOR.address) -> OrchestratorView:
    orchestrator = await stage.ledger.orchestrator(operator)
    assert orchestrator is not None
    return orchestrator


def _agreement(stage: Stage, operator: Identity, owner: Identity) -> bytes:
    chain = stage.ledger.chain
    return operator.sign(OperatorConsent(chain.chain_id, chain.contract, owner.address, operator.address).to_bcs())


# --- a client's deposit --------------------------------------------------------------------------------------------


async def test_a_deposit_comes_back_after_its_wait(stage: Stage) -> None:
    wait = (await stage.ledger.governance()).params["withdrawal_seconds"]
    before, now = await stage.ledger.balance(CLIENT.address), int(stage.clock())
    await stage.ledger.request_withdrawal(CLIENT, 4 * COIN)
    client = await _client(stage)
    assert (client.deposit, client.withdrawals) == (6 * COIN, (Due(4 * COIN, now + wait),))
    with pytest.raises(LedgerAborted, match="E_NO_WITHDRAWAL_DUE"):
        await stage.ledger.withdraw(CLIENT)
    stage.clock.seconds += wait
    await stage.ledger.withdraw(CLIENT)
    assert (await _client(stage)).withdrawals == ()
    gained = await stage.ledger.balance(CLIENT.address) - before
    assert 4 * COIN - FEES < gained <= 4 * COIN
    assert await stage.conserved()


async def test_what_is_not_there_cannot_be_withdrawn(stage: Stage) -> None:
    with pytest.raises(NoFunds, match="E_INSUFFICIENT_DEPOSIT"):
        await stage.ledger.request_withdrawal(CLIENT, 10 * COIN + 1)
    with pytest.raises(NoFunds, match="E_NO_CLIENT"):
        await stage.ledger.request_withdrawal(STRANGER, 1)
    with pytest.raises(LedgerAborted, match="E_ZERO_AMOUNT"):
        await stage.ledger.request_withdrawal(CLIENT, 0)
    assert (await _client(stage)).withdrawals == ()


# --- a stake -------------------------------------------------------------------------------------------------------


async def test_added_stake_counts_at_once(stage: Stage) -> None:
    await stage.ledger.add_stake(ORCHESTRATOR, ORCHESTRATOR.address, 5)
    assert (await _orchestrator(stage)).stake == COIN + 5
    assert await stage.conserved()


async def test_stake_leaves_after_its_unbonding(stage: Stage) -> None:
    wait = (await stage.ledger.governance()).params["unbonding_seconds"]
    before, now = await stage.ledger.balance(ORCHESTRATOR.address), int(stage.clock())
    await stage.ledger.request_unstake(ORCHESTRATOR, ORCHESTRATOR.address, COIN // 2)
    orchestrator = await _orchestrator(stage)
    assert (orchestrator.stake, orchestrator.unbonding) == (COIN // 2, (Due(COIN // 2, now + wait),))
    with pytest.raises(LedgerAborted, match="E_NO_STAKE_DUE"):
        await stage.ledger.withdraw_stake(ORCHESTRATOR, ORCHESTRATOR.address)
    stage.clock.seconds += wait
    await stage.ledger.withdraw_stake(ORCHESTRATOR, ORCHESTRATOR.address)
    assert (await _orchestrator(stage)).unbonding == ()
    gained = await stage.ledger.balance(ORCHESTRATOR.address) - before
    assert COIN // 2 - FEES < gained <= COIN // 2
    assert await stage.conserved()


async def test_an_unbonding_can_be_taken_back(stage: Stage) -> None:
    for amount in (3, 4):
        await stage.ledger.request_unstake(ORCHESTRATOR, ORCHESTRATOR.address, amount)
    await stage.ledger.cancel_unstake(ORCHESTRATOR, ORCHESTRATOR.address)
    orchestrator = await _orchestrator(stage)
    assert (orchestrator.stake, orchestrator.unbonding) == (COIN, ())
    with pytest.raises(LedgerAborted, match="E_NOTHING_UNBONDING"):
        await stage.ledger.cancel_unstake(ORCHESTRATOR, ORCHESTRATOR.address)


async def test_only_the_owner_moves_a_stake_and_only_what_is_there(stage: Stage) -> None:
    ledger, operator = stage.ledger, ORCHESTRATOR.address
    for attempt in (
        ledger.add_stake(STRANGER, operator, 1),
        ledger.request_unstake(STRANGER, operator, 1),
        ledger.cancel_unstake(STRANGER, operator),
        ledger.withdraw_stake(STRANGER, operator),
        ledger.set_operator(STRANGER, operator, STRANGER.public_key),
    ):
        with pytest.raises(LedgerAborted, match="E_NOT_OWNER"):
            await attempt
    with pytest.raises(LedgerAborted, match="E_INSUFFICIENT_STAKE"):
        await ledger.request_unstake(ORCHESTRATOR, operator, COIN + 1)
    with pytest.raises(NotStaked, match="E_NO_ORCHESTRATOR"):
        await ledger.add_stake(STRANGER, STRANGER.address, 1)


# --- a hot operator key and its cold owner ---------------------------------------------------------------------------


async def test_an_operator_key_has_another_owner_if_it_agrees(stage: Stage) -> None:
    hot = person("hot operator")
    with pytest.raises(LedgerAborted, match="E_BAD_OPERATOR_SIGNATURE"):
        await stage.ledger.register_orchestrator(STRANGER, hot.public_key, COIN, _agreement(stage, hot, ORCHESTRATOR))
    await stage.ledger.register_orchestrator(STRANGER, hot.public_key, COIN, _agreement(stage, hot, STRANGER))
    orchestrator = await _orchestrator(stage, hot.address)
    assert (orchestrator.owner, orchestrator.public_key, orchestrator.stake) == (STRANGER.address, hot.public_key, COIN)
    await stage.fund(hot.address, COIN)
    with pytest.raises(LedgerAborted, match="E_NOT_OWNER"):
        await stage.ledger.request_unstake(hot, hot.address, 1)
    await stage.ledger.request_unstake(STRANGER, hot.address, 1)


async def test_a_stolen_operator_key_is_replaced_for_good(stage: Stage) -> None:
    fresh = person("fresh operator")
    agreed = _agreement(stage, fresh, ORCHESTRATOR)
    await stage.ledger.set_operator(ORCHESTRATOR, ORCHESTRATOR.address, fresh.public_key, agreed)
    assert await stage.ledger.orchestrator(ORCHESTRATOR.address) is None
    assert (await _orchestrator(stage, fresh.address)).stake == COIN
    with pytest.raises(LedgerAborted, match="E_ORCHESTRATOR_EXISTS"):
        await stage.ledger.register_orchestrator(ORCHESTRATOR, ORCHESTRATOR.public_key, COIN)


# --- the administrator ---------------------------------------------------------------------------------------------


async def test_a_pause_stops_what_begins_and_nothing_that_leaves(stage: Stage) -> None:
    await stage.ledger.set_paused(stage.admin, paused=True)
    assert (await stage.ledger.governance()).paused
    with pytest.raises(LedgerAborted) as refused:
        await stage.ledger.deposit(CLIENT, 1)
    assert refused.value.abort_code == codes.PAUSED.number
    await stage.ledger.request_withdrawal(CLIENT, 1)
    await stage.ledger.request_unstake(ORCHESTRATOR, ORCHESTRATOR.address, 1)
    stage.clock.seconds += 30 * 86_400
    await stage.ledger.withdraw(CLIENT)
    await stage.ledger.withdraw_stake(ORCHESTRATOR, ORCHESTRATOR.address)
    assert await stage.conserved()


async def test_the_office_passes_on_in_two_steps(stage: Stage) -> None:
    await stage.ledger.propose_admin(stage.admin, STRANGER.address)
    offices = await stage.ledger.governance()
    assert (offices.admin, offices.pending_admin) == (stage.admin.address, STRANGER.address)
    with pytest.raises(LedgerAborted, match="E_NOT_PENDING_ADMIN"):
        await stage.ledger.accept_admin(CLIENT)
    await stage.ledger.accept_admin(STRANGER)
    offices = await stage.ledger.governance()
    assert (offices.admin, offices.pending_admin) == (STRANGER.address, None)
    with pytest.raises(LedgerAborted, match="E_NOT_ADMIN"):
        await stage.ledger.set_paused(stage.admin, paused=True)


async def test_parameters_change_within_their_bounds(stage: Stage) -> None:
    params = (await stage.ledger.governance()).params
    await stage.ledger.set_params(stage.admin, params | {"fee_bps": 100})
    assert (await stage.ledger.governance()).params == params | {"fee_bps": 100}
    with pytest.raises(LedgerAborted, match="E_PARAM_OUT_OF_BOUNDS"):
        await stage.ledger.set_params(stage.admin, params | {"fee_bps": 2_001})
    await stage.ledger.set_treasury(stage.admin, ADMIN.address)
    await stage.ledger.set_arbiter(stage.admin, STRANGER.address)
    offices = await stage.ledger.governance()
    assert (offices.treasury, offices.arbiter) == (ADMIN.address, STRANGER.address)
