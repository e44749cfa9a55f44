"""What makes a function an entry of the contract: it runs for one signer at one time, wholly or not at all."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Concatenate, ParamSpec

from cactus_mesh.ledger.rules import codes
from cactus_mesh.ledger.rules.codes import require
from cactus_mesh.ledger.rules.events import Event
from cactus_mesh.ledger.rules.state import State, Table

if TYPE_CHECKING:
    from cactus_mesh.identity import Address

P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class Tx:
    """Who signed and when: the ledger's time in whole Unix seconds."""

    sender: Address
    now: int


Body = Callable[Concatenate[State, Tx, P], list[Event]]
ENTRIES: dict[str, Callable[..., list[Event]]] = {}


def entry(body: Body[P]) -> Body[P]:
    """Register *body* as an entry.  It returns its events, or raises `Abort` and has changed nothing."""

    @functools.wraps(body)
    def run(state: State, tx: Tx, /, *args: P.args, **kwargs: P.kwargs) -> list[Event]:
        with state.atomic():
            return body(state, tx, *args, **kwargs)

    ENTRIES[body.__name__] = run
    return run


def require_admin(state: State, tx: Tx) -> None:
    require(tx.sender == state.config.admin, codes.NOT_ADMIN)


def require_running(state: State) -> None:
    require(not state.config.paused, codes.PAUSED)


def lock(state: State, payer: Address, vault: Address, amount: int) -> None:
    """Coins of *payer* go into a vault."""
    _take(state.coins, payer, amount)
    _put(state.vaults, vault, amount)


def release(state: State, vault: Address, payee: Address, amount: int) -> None:
    """Coins of a vault go to *payee*."""
    _take(state.vaults, vault, amount)
    _put(state.coins, payee, amount)


def shift(state: State, source: Address, target: Address, amount: int) -> None:
    """Coins of one vault go into another."""
    _take(state.vaults, source, amount)
    _put(state.vaults, target, amount)


def transfer(state: State, payer: Address, payee: Address, amount: int) -> None:
    """The chain's own coin transfer; the contract has no part in it."""
    _take(state.coins, payer, amount)
    _put(state.coins, payee, amount)


def mint(state: State, payee: Address, amount: int) -> None:
    """The development faucet; `conserved` compares everything with what it gave."""
    state.minted["octas"] = state.minted.get("octas", 0) + amount
    _put(state.coins, payee, amount)


def _take(purses: Table[Address, int], owner: Address, amount: int) -> None:
    held = purses.get(owner, 0)
    require(held >= amount, codes.INSUFFICIENT_COINS)
    purses[owner] = held - amount


def _put(purses: Table[Address, int], owner: Address, amount: int) -> None:
    purses[owner] = purses.get(owner, 0) + amount
