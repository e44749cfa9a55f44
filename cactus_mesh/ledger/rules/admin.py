"""Who governs the contract, within which bounds: genesis, a transfer in two steps, parameters, pause."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from cactus_mesh.ledger.rules import codes
from cactus_mesh.ledger.rules.codes import require
from cactus_mesh.ledger.rules.entry import Tx, entry, require_admin
from cactus_mesh.ledger.rules.events import (
    AdminChanged,
    AdminProposed,
    ArbiterChanged,
    Event,
    ParamsChanged,
    PausedChanged,
    TreasuryChanged,
)
from cactus_mesh.ledger.rules.params import BOUNDS, Params, params_of, values_of, within_bounds
from cactus_mesh.ledger.rules.state import APT, Config, State

if TYPE_CHECKING:
    from cactus_mesh.identity import Address


def init(chain_id: int, contract: Address, admin: Address, params: Params | None = None) -> State:
    """A contract just published, as Move's ``init_module`` leaves it: its publisher has every office."""
    state = State(chain_id, contract)
    state.config = Config(admin, None, admin, admin, APT, params or Params(), paused=False)
    return state


@entry
def propose_admin(state: State, tx: Tx, proposed: Address) -> list[Event]:
    """First step: nothing changes until *proposed* accepts, so that a mistyped address loses nothing."""
    require_admin(state, tx)
    state.config = replace(state.config, pending_admin=proposed)
    return [AdminProposed(tx.sender, proposed)]


@entry
def accept_admin(state: State, tx: Tx) -> list[Event]:
    require(tx.sender == state.config.pending_admin, codes.NOT_PENDING_ADMIN)
    old = state.config.admin
    state.config = replace(state.config, admin=tx.sender, pending_admin=None)
    return [AdminChanged(old, tx.sender)]


@entry
def set_treasury(state: State, tx: Tx, treasury: Address) -> list[Event]:
    require_admin(state, tx)
    old = state.config.treasury
    state.config = replace(state.config, treasury=treasury)
    return [TreasuryChanged(old, treasury)]


@entry
def set_arbiter(state: State, tx: Tx, arbiter: Address) -> list[Event]:
    """Name who decides contested disputes; it may be a court or a multisig account of its own."""
    require_admin(state, tx)
    old = state.config.arbiter
    state.config = replace(state.config, arbiter=arbiter)
    return [ArbiterChanged(old, arbiter)]


@entry
def set_params(state: State, tx: Tx, *values: int) -> list[Event]:
    """All parameters at once, in the order of `BOUNDS`.  Unbondings and withdrawals under way keep their times."""
    require_admin(state, tx)
    params = params_of(dict(zip(BOUNDS, values, strict=True)))
    require(within_bounds(params), codes.PARAM_OUT_OF_BOUNDS)
    state.config = replace(state.config, params=params)
    return [ParamsChanged(tuple(values_of(params).values()))]


@entry
def set_paused(state: State, tx: Tx, paused: bool) -> list[Event]:
    """A pause stops what comes in (register, deposit, create), never what goes out or ends."""
    require_admin(state, tx)
    state.config = replace(state.config, paused=paused)
    return [PausedChanged(paused)]
