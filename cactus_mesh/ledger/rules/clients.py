"""Clients' money: deposited for anybody by anybody, promised by signature, withdrawn after a wait."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from cactus_mesh.identity import PUBLIC_KEY_BYTES, PublicKey, address
from cactus_mesh.ledger.rules import codes
from cactus_mesh.ledger.rules.codes import Abort, require
from cactus_mesh.ledger.rules.entry import Tx, entry, lock, release, require_running
from cactus_mesh.ledger.rules.events import ClientRegistered, Deposited, Event, WithdrawalRequested, Withdrawn
from cactus_mesh.ledger.rules.state import MAX_PENDING, Client, Due, State, vault

if TYPE_CHECKING:
    from cactus_mesh.identity import Address


def client_of(state: State, account: Address) -> Client:
    client = state.clients.get(account)
    if client is None:
        raise Abort(codes.NO_CLIENT)
    return client


@entry
def register_client(state: State, tx: Tx, public_key: PublicKey) -> list[Event]:
    """Name the key that signs the signer's consents.  May be repeated to replace it; old consents then fail."""
    require_running(state)
    require(len(public_key) == PUBLIC_KEY_BYTES, codes.BAD_PUBLIC_KEY)
    known = state.clients.get(tx.sender) or Client(public_key, vault(state.contract, "client", tx.sender))
    state.clients[tx.sender] = replace(known, public_key=public_key)
    return [ClientRegistered(tx.sender, public_key)]


@entry
def deposit(state: State, tx: Tx, public_key: PublicKey, amount: int) -> list[Event]:
    """Add the signer's coins to the deposit of the client whose account address *public_key* makes.

    The signer may be that client or anybody else.  A first deposit registers the client under that key, which needs no
    signature of its own because nobody else's key makes the same address.
    """
    require_running(state)
    require(len(public_key) == PUBLIC_KEY_BYTES, codes.BAD_PUBLIC_KEY)
    require(amount > 0, codes.ZERO_AMOUNT)
    account = address(public_key)
    known = state.clients.get(account)
    client = known or Client(public_key, vault(state.contract, "client", account))
    lock(state, tx.sender, client.vault, amount)
    state.clients[account] = replace(client, deposit=client.deposit + amount)
    registered: list[Event] = [] if known else [ClientRegistered(account, public_key)]
    return [*registered, Deposited(account, tx.sender, amount)]


@entry
def request_withdrawal(state: State, tx: Tx, amount: int) -> list[Event]:
    """Take *amount* out of what consents can spend; it leaves after withdrawal_seconds."""
    client = client_of(state, tx.sender)
    require(amount > 0, codes.ZERO_AMOUNT)
    require(amount <= client.deposit, codes.INSUFFICIENT_DEPOSIT)
    require(len(client.withdrawals) < MAX_PENDING, codes.TOO_MANY_WITHDRAWALS)
    due = Due(amount, tx.now + state.params.withdrawal_seconds)
    state.clients[tx.sender] = replace(client, deposit=client.deposit - amount, withdrawals=(*client.withdrawals, due))
    return [WithdrawalRequested(tx.sender, amount, due.release_at)]


@entry
def withdraw(state: State, tx: Tx) -> list[Event]:
    """Pay the client every withdrawal whose wait is over."""
    client = client_of(state, tx.sender)
    due = sum(entry.amount for entry in client.withdrawals if entry.release_at <= tx.now)
    require(due > 0, codes.NO_WITHDRAWAL_DUE)
    release(state, client.vault, tx.sender, due)
    waiting = tuple(entry for entry in client.withdrawals if entry.release_at > tx.now)
    state.clients[tx.sender] = replace(client, withdrawals=waiting)
    return [Withdrawn(tx.sender, due)]
