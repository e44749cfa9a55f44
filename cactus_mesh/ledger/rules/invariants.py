"""What must hold after every operation: nothing minted or lost, each vault exactly what it accounts for."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from cactus_mesh.ledger.rules.params import within_bounds
from cactus_mesh.ledger.rules.stakes import liable_operator
from cactus_mesh.ledger.rules.state import MAX_PENDING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cactus_mesh.ledger.rules.state import State


def conserved(state: State) -> bool:
    return next(violations(state), None) is None


def violations(state: State) -> Iterator[str]:
    """Each broken invariant, in words."""
    minted, held = state.minted.get("octas", 0), sum(state.coins.values()) + sum(state.vaults.values())
    if minted != held:
        yield f"{minted} octas were minted but {held} exist"
    for purses in (state.coins, state.vaults):
        yield from (f"{account} holds {amount}" for account, amount in purses.items() if amount < 0)
    yield from _stakes(state)
    yield from _escrows(state)
    yield from _disputes(state)
    if not within_bounds(state.params):
        yield "the parameters are out of bounds"


def _stakes(state: State) -> Iterator[str]:
    for operator, orchestrator in state.orchestrators.items():
        if state.vaults.get(orchestrator.vault, 0) != orchestrator.bonded + orchestrator.bonds:
            yield f"the vault of orchestrator {operator} is not its stake, unbondings and bonds"
        if orchestrator.stake < 0 or len(orchestrator.unbonding) > MAX_PENDING:
            yield f"orchestrator {operator} is malformed"


def _disputes(state: State) -> Iterator[str]:
    bonds: Counter[str] = Counter()
    disputes: Counter[str] = Counter()
    for dispute in state.disputes.values():
        if dispute.status in ("contested", "open"):
            operator = liable_operator(state, dispute.orchestrator)
            bonds[operator] += dispute.bond
            disputes[operator] += 1
    for operator, orchestrator in state.orchestrators.items():
        if (orchestrator.bonds, orchestrator.open_disputes) != (bonds[operator], disputes[operator]):
            yield f"orchestrator {operator} does not match its open disputes"


def _escrows(state: State) -> Iterator[str]:
    by_client: Counter[str] = Counter()
    by_server: Counter[str] = Counter()
    for key, task in state.tasks.items():
        if task.status == "created":
            by_client[key.client] += task.max_price
            by_server[task.server] += task.max_price
        if task.split is not None and task.split.paid + task.split.refund != task.max_price:
            yield f"task {key.task_id.hex()} does not add up"
    for account, client in state.clients.items():
        accounted = client.deposit + client.escrowed + sum(due.amount for due in client.withdrawals)
        if state.vaults.get(client.vault, 0) != accounted or client.deposit < 0:
            yield f"the vault of client {account} is not its deposit, escrow and withdrawals"
        if client.escrowed != by_client[account] or len(client.withdrawals) > MAX_PENDING:
            yield f"client {account} does not match its open tasks"
    for account, server in state.servers.items():
        if server.escrowed != by_server[account]:
            yield f"server {account} does not match its open tasks"
