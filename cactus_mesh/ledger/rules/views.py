"""Read-only questions to the contract, one for each thing that it keeps; an absent record is None."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cactus_mesh.core.pricing import PPM
from cactus_mesh.core.pricing import reward as reward_formula
from cactus_mesh.ledger.rules.params import values_of
from cactus_mesh.ledger.rules.payment import success_of
from cactus_mesh.ledger.rules.state import (
    Client,
    Config,
    Dispute,
    NonceKey,
    Orchestrator,
    Server,
    SlashKey,
    State,
    Task,
    TaskKey,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from cactus_mesh.identity import Address

VIEWS: dict[str, Callable[..., Any]] = {}


def view(function: Callable[..., Any]) -> Callable[..., Any]:
    VIEWS[function.__name__] = function
    return function


@view
def config(state: State) -> Config:
    return state.config


@view
def params(state: State) -> tuple[int, ...]:
    """The values, in the order of the parameter table."""
    return tuple(values_of(state.params).values())


@view
def orchestrator(state: State, operator: Address) -> Orchestrator | None:
    return state.orchestrators.get(operator)


@view
def server(state: State, account: Address) -> Server | None:
    return state.servers.get(account)


@view
def client(state: State, account: Address) -> Client | None:
    return state.clients.get(account)


@view
def task(state: State, client: Address, task_id: bytes) -> Task | None:
    return state.tasks.get(TaskKey(client, task_id))


@view
def dispute(state: State, client: Address, task_id: bytes) -> Dispute | None:
    return state.disputes.get(TaskKey(client, task_id))


@view
def slashed(state: State, operator: Address, client: Address, task_id: bytes) -> bool:
    """Whether this operator key has been punished for this task."""
    return SlashKey(operator, client, task_id) in state.slashes


@view
def nonce_used(state: State, client: Address, nonce: int) -> bool:
    return NonceKey(client, nonce) in state.nonces


@view
def reward(state: State, complexity: int, compute_ms: int, success_ppm: int, max_price: int) -> int:
    """The formula with the present parameters, in octas; a success rate above 10⁶ ppm counts as 10⁶."""
    return reward_formula(
        state.params.reward,
        max_price=max_price,
        complexity=complexity,
        compute_ms=compute_ms,
        success_ppm=min(success_ppm, PPM),
    )


@view
def success_rate(state: State, operator: Address) -> int:
    """In ppm, as the reward counts it; a newcomer's for whoever is not registered."""
    known = state.orchestrators.get(operator)
    return success_of(known.metrics) if known is not None else 900_000
