"""What makes a function an entry of the contract: it runs for one signer at one time, wholly or not at all."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Concatenate, ParamSpec

from cactus_mesh.ledger.rules import codes
from cactus_mesh.ledger.rules.codes import require
from cactus_mesh.ledger.rules.events import Event
from cactus_mesh.ledger.rules.state import State

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


def move_coins(state: State, source: Address, target: Address, amount: int) -> None:
    """Every change of a balance but the faucet's."""
    held = state.coins.get(source, 0)
    require(held >= amount, codes.INSUFFICIENT_COINS)
    state.coins[source] = held - amount
    state.coins[target] = state.coins.get(target, 0) + amount


def mint(state: State, target: Address, amount: int) -> None:
    """The development faucet; `conserved` compares everything with what it gave."""
    state.minted["octas"] = state.minted.get("octas", 0) + amount
    state.coins[target] = state.coins.get(target, 0) + amount
