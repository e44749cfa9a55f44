"""Orchestrators' stakes: found by the operator's address, owned by an account that may be another, colder one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from cactus_mesh.core.settlement import OperatorConsent
from cactus_mesh.identity import PUBLIC_KEY_BYTES, PublicKey, address, verify
from cactus_mesh.ledger.rules import codes
from cactus_mesh.ledger.rules.codes import Abort, require
from cactus_mesh.ledger.rules.entry import Tx, entry, lock, release, require_running
from cactus_mesh.ledger.rules.events import (
    Event,
    OperatorChanged,
    OrchestratorRegistered,
    StakeAdded,
    StakeWithdrawn,
    UnstakeCancelled,
    UnstakeRequested,
)
from cactus_mesh.ledger.rules.state import MAX_PENDING, Due, Orchestrator, State, vault

if TYPE_CHECKING:
    from cactus_mesh.identity import Address


def orchestrator_of(state: State, operator: Address) -> Orchestrator:
    orchestrator = state.orchestrators.get(operator)
    if orchestrator is None:
        raise Abort(codes.NO_ORCHESTRATOR)
    return orchestrator


def liable_operator(state: State, operator: Address) -> Address:
    """The operator whose stake answers for what *operator* signed: itself, or whoever has replaced it since."""
    while operator in state.retired:
        operator = state.retired[operator]
    return operator


def _owned(state: State, tx: Tx, operator: Address) -> Orchestrator:
    orchestrator = orchestrator_of(state, operator)
    require(orchestrator.owner == tx.sender, codes.NOT_OWNER)
    return orchestrator


def _new_operator(state: State, tx: Tx, public_key: PublicKey, signature: bytes) -> Address:
    """The address of a key that may become an operator of the signer's: unused, and willing."""
    require(len(public_key) == PUBLIC_KEY_BYTES, codes.BAD_PUBLIC_KEY)
    operator = address(public_key)
    require(operator not in state.orchestrators and operator not in state.retired, codes.ORCHESTRATOR_EXISTS)
    if operator != tx.sender:  # else the signer has just shown that it holds the key
        consent = OperatorConsent(state.chain_id, state.contract, tx.sender, operator)
        require(verify(public_key, consent.to_bcs(), signature), codes.BAD_OPERATOR_SIGNATURE)
    return operator


@entry
def register_orchestrator(
    state: State, tx: Tx, public_key: PublicKey, operator_signature: bytes, stake: int
) -> list[Event]:
    """The signer owns the new stake.  An operator key that is not its own must have signed `OperatorConsent`, so that
    nobody can register (and thereby block) the key of somebody else."""
    require_running(state)
    operator = _new_operator(state, tx, public_key, operator_signature)
    require(stake >= state.params.min_stake, codes.STAKE_TOO_LOW)
    store = vault(state.contract, "stake", operator)
    lock(state, tx.sender, store, stake)
    state.orchestrators[operator] = Orchestrator(tx.sender, public_key, store, stake)
    return [OrchestratorRegistered(operator, tx.sender, public_key, stake)]


@entry
def add_stake(state: State, tx: Tx, operator: Address, amount: int) -> list[Event]:
    require_running(state)
    orchestrator = _owned(state, tx, operator)
    require(amount > 0, codes.ZERO_AMOUNT)
    lock(state, tx.sender, orchestrator.vault, amount)
    state.orchestrators[operator] = replace(orchestrator, stake=orchestrator.stake + amount)
    return [StakeAdded(operator, amount)]


@entry
def request_unstake(state: State, tx: Tx, operator: Address, amount: int) -> list[Event]:
    """Begin to unbond: the stake stops counting now, can be slashed all along, and leaves after unbonding_seconds."""
    orchestrator = _owned(state, tx, operator)
    require(amount > 0, codes.ZERO_AMOUNT)
    require(amount <= orchestrator.stake, codes.INSUFFICIENT_STAKE)
    require(len(orchestrator.unbonding) < MAX_PENDING, codes.TOO_MANY_UNBONDINGS)
    due = Due(amount, tx.now + state.params.unbonding_seconds)
    state.orchestrators[operator] = replace(
        orchestrator, stake=orchestrator.stake - amount, unbonding=(*orchestrator.unbonding, due)
    )
    return [UnstakeRequested(operator, amount, due.release_at)]


@entry
def cancel_unstake(state: State, tx: Tx, operator: Address) -> list[Event]:
    """Everything that is unbonding becomes active stake again."""
    orchestrator = _owned(state, tx, operator)
    require(len(orchestrator.unbonding) > 0, codes.NOTHING_UNBONDING)
    back = sum(due.amount for due in orchestrator.unbonding)
    state.orchestrators[operator] = replace(orchestrator, stake=orchestrator.stake + back, unbonding=())
    return [UnstakeCancelled(operator, back)]


@entry
def withdraw_stake(state: State, tx: Tx, operator: Address) -> list[Event]:
    """Pay the owner everything whose unbonding is over."""
    orchestrator = _owned(state, tx, operator)
    require(not orchestrator.frozen, codes.FROZEN)
    due = sum(entry.amount for entry in orchestrator.unbonding if entry.release_at <= tx.now)
    require(due > 0, codes.NO_STAKE_DUE)
    release(state, orchestrator.vault, orchestrator.owner, due)
    waiting = tuple(entry for entry in orchestrator.unbonding if entry.release_at > tx.now)
    state.orchestrators[operator] = replace(orchestrator, unbonding=waiting)
    return [StakeWithdrawn(operator, orchestrator.owner, due)]


@entry
def set_operator(
    state: State, tx: Tx, operator: Address, public_key: PublicKey, operator_signature: bytes
) -> list[Event]:
    """Replace the operator key, for instance after a theft.  Claims and tasks of the old key can't be paid any more,
    and the old key can never be registered again."""
    orchestrator = _owned(state, tx, operator)
    require(not orchestrator.frozen, codes.FROZEN)
    new = _new_operator(state, tx, public_key, operator_signature)
    state.orchestrators[new] = replace(orchestrator, public_key=public_key)
    del state.orchestrators[operator]
    state.retired[operator] = new
    return [OperatorChanged(operator, new, public_key)]
