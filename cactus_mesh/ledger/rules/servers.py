"""Servers are routers: they register themselves, and act only while the administrator's authorisation lasts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from cactus_mesh.ledger.rules import codes
from cactus_mesh.ledger.rules.codes import Abort, require
from cactus_mesh.ledger.rules.entry import Tx, entry, require_admin, require_running
from cactus_mesh.ledger.rules.events import Event, ServerAuthorised, ServerRegistered, ServerRevoked
from cactus_mesh.ledger.rules.state import Server, State

if TYPE_CHECKING:
    from cactus_mesh.identity import Address


def server_of(state: State, account: Address) -> Server:
    server = state.servers.get(account)
    if server is None:
        raise Abort(codes.NO_SERVER)
    return server


def authorised_server(state: State, tx: Tx) -> Server:
    """The signer's record, when it may act as a server now."""
    server = server_of(state, tx.sender)
    require(server.status == "authorised", codes.SERVER_NOT_AUTHORISED)
    require(tx.now < server.expires_at, codes.SERVER_EXPIRED)
    return server


@entry
def register_server(state: State, tx: Tx) -> list[Event]:
    require_running(state)
    require(tx.sender not in state.servers, codes.SERVER_EXISTS)
    state.servers[tx.sender] = Server("pending")
    return [ServerRegistered(tx.sender)]


@entry
def authorize_server(state: State, tx: Tx, account: Address, expires_at: int, max_budget: int) -> list[Event]:
    """Let *account* act until *expires_at*, holding at most *max_budget* octas in escrow.  Renews and restores too."""
    require_admin(state, tx)
    server = server_of(state, account)
    require(expires_at > tx.now, codes.BAD_EXPIRY)
    state.servers[account] = replace(
        server, status="authorised", granted_by=tx.sender, expires_at=expires_at, max_budget=max_budget
    )
    return [ServerAuthorised(account, tx.sender, expires_at, max_budget)]


@entry
def revoke_server(state: State, tx: Tx, account: Address) -> list[Event]:
    """Its open tasks can then only time out, which refunds the clients."""
    require_admin(state, tx)
    state.servers[account] = replace(server_of(state, account), status="revoked")
    return [ServerRevoked(account, tx.sender)]
