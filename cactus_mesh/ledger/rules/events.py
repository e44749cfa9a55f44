"""One event for each change of the contract's state, named and laid out as in Move."""

from __future__ import annotations

from dataclasses import dataclass

from cactus_mesh.identity import Address, PublicKey  # noqa: TC001 - events become JSON by their types


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events."""


@dataclass(frozen=True, slots=True)
class AdminProposed(Event):
    admin: Address
    proposed: Address


@dataclass(frozen=True, slots=True)
class AdminChanged(Event):
    old: Address
    new: Address


@dataclass(frozen=True, slots=True)
class TreasuryChanged(Event):
    old: Address
    new: Address


@dataclass(frozen=True, slots=True)
class ParamsChanged(Event):
    """The new values, in the order of the parameter table."""

    values: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PausedChanged(Event):
    paused: bool


@dataclass(frozen=True, slots=True)
class ServerRegistered(Event):
    server: Address


@dataclass(frozen=True, slots=True)
class ServerAuthorised(Event):
    server: Address
    granted_by: Address
    expires_at: int
    max_budget: int


@dataclass(frozen=True, slots=True)
class ServerRevoked(Event):
    server: Address
    revoked_by: Address


@dataclass(frozen=True, slots=True)
class OrchestratorRegistered(Event):
    operator: Address
    owner: Address
    public_key: PublicKey
    stake: int


@dataclass(frozen=True, slots=True)
class OperatorChanged(Event):
    old: Address
    new: Address
    public_key: PublicKey


@dataclass(frozen=True, slots=True)
class StakeAdded(Event):
    operator: Address
    amount: int


@dataclass(frozen=True, slots=True)
class UnstakeRequested(Event):
    operator: Address
    amount: int
    release_at: int


@dataclass(frozen=True, slots=True)
class UnstakeCancelled(Event):
    operator: Address
    amount: int


@dataclass(frozen=True, slots=True)
class StakeWithdrawn(Event):
    operator: Address
    owner: Address
    amount: int


@dataclass(frozen=True, slots=True)
class ClientRegistered(Event):
    client: Address
    public_key: PublicKey


@dataclass(frozen=True, slots=True)
class Deposited(Event):
    client: Address
    payer: Address
    amount: int


@dataclass(frozen=True, slots=True)
class WithdrawalRequested(Event):
    client: Address
    amount: int
    release_at: int


@dataclass(frozen=True, slots=True)
class Withdrawn(Event):
    client: Address
    amount: int


@dataclass(frozen=True, slots=True)
class TaskCreated(Event):
    client: Address
    task_id: bytes
    server: Address
    orchestrator: Address
    max_price: int
    done_by: int


@dataclass(frozen=True, slots=True)
class TaskCompleted(Event):
    """*payout*, *delegate_payout*, *fee* and *refund* add up to *max_price*."""

    client: Address
    task_id: bytes
    server: Address
    orchestrator: Address
    delegate: Address
    max_price: int
    payout: int
    delegate_payout: int
    fee: int
    refund: int
    complexity: int
    compute_ms: int
    quality_ppm: int
    model_digest: bytes
    result_hash: bytes


@dataclass(frozen=True, slots=True)
class TaskReassigned(Event):
    client: Address
    task_id: bytes
    server: Address
    lost: Address
    orchestrator: Address


@dataclass(frozen=True, slots=True)
class TaskFailed(Event):
    client: Address
    task_id: bytes
    server: Address
    orchestrator: Address
    refund: int


@dataclass(frozen=True, slots=True)
class TaskTimedOut(Event):
    client: Address
    task_id: bytes
    server: Address
    orchestrator: Address
    refund: int


@dataclass(frozen=True, slots=True)
class SettlementSkipped(Event):
    """One item of a batch changed nothing; *reason* is the number of an error code."""

    client: Address
    task_id: bytes
    server: Address
    reason: int


@dataclass(frozen=True, slots=True)
class ArbiterChanged(Event):
    old: Address
    new: Address


@dataclass(frozen=True, slots=True)
class DisputeOpened(Event):
    client: Address
    task_id: bytes
    orchestrator: Address
    opener: Address
    bond: int
    evidence_hash: bytes
    act_by: int


@dataclass(frozen=True, slots=True)
class DisputeContested(Event):
    client: Address
    task_id: bytes
    orchestrator: Address
    answer_hash: bytes
    act_by: int


@dataclass(frozen=True, slots=True)
class DisputeClosed(Event):
    """*status* is upheld, dismissed or lapsed; *bond_to* has received the bond."""

    client: Address
    task_id: bytes
    orchestrator: Address
    status: str
    bond_to: Address


@dataclass(frozen=True, slots=True)
class EquivocationReported(Event):
    """Two claims for one task, signed by one key, commit to different results."""

    client: Address
    task_id: bytes
    server: Address
    orchestrator: Address
    reporter: Address
    first_result: bytes
    second_result: bytes


@dataclass(frozen=True, slots=True)
class Slashed(Event):
    """*operator* answers for the stake now; *amount* is what the client and the treasury received together."""

    operator: Address
    client: Address
    task_id: bytes
    amount: int
    to_client: int
