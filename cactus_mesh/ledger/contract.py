"""The contract as its callers see it: which functions take what, what its events and records say, why it said no.

Shared by the REST client, the embedded ledger and the in-memory fake; knows no ledger library and does no I/O.
"""

from __future__ import annotations

from typing import Any, Final

from cactus_mesh.core.pricing import Split
from cactus_mesh.errors import LedgerAborted, MeshError, NoFunds, NotStaked, RouterNotAuthorised
from cactus_mesh.identity import PublicKey
from cactus_mesh.ledger.rules import codes
from cactus_mesh.ledger.rules.codes import CODES
from cactus_mesh.ledger.rules.params import BOUNDS
from cactus_mesh.ledger.values import Json, Value, decode, encode, long_address
from cactus_mesh.ports import (
    ClientView,
    DisputeView,
    Due,
    Governance,
    OrchestratorView,
    ServerView,
    Settled,
    TaskView,
)

MODULE: Final = "cactus_payment"

_BYTES: Final = "vector<u8>"
_MANY_BYTES: Final = "vector<vector<u8>>"
_NUMBERS: Final = "vector<u64>"
_ADDRESSES: Final = "vector<address>"

ENTRY_TYPES: Final[dict[str, tuple[str, ...]]] = {
    "propose_admin": ("address",),
    "accept_admin": (),
    "set_treasury": ("address",),
    "set_arbiter": ("address",),
    "set_params": ("u64",) * len(BOUNDS),
    "set_paused": ("bool",),
    "register_server": (),
    "authorize_server": ("address", "u64", "u64"),
    "revoke_server": ("address",),
    "register_orchestrator": (_BYTES, _BYTES, "u64"),
    "add_stake": ("address", "u64"),
    "request_unstake": ("address", "u64"),
    "cancel_unstake": ("address",),
    "withdraw_stake": ("address",),
    "set_operator": ("address", _BYTES, _BYTES),
    "register_client": (_BYTES,),
    "deposit": (_BYTES, "u64"),
    "request_withdrawal": ("u64",),
    "withdraw": (),
    "create_task": ("address", _BYTES, "u64", "u64", "u64", _BYTES, "address", "u64", "u64"),
    "complete_task": (
        "address", _BYTES, "address", "u64", _BYTES, "u64", "u64", "u64", _BYTES, _BYTES, "u64",
    ),
    "reassign_task": ("address", _BYTES, "address"),
    "fail_task": ("address", _BYTES),
    "timeout_task": ("address", _BYTES),
    "settle_batch": (
        _ADDRESSES, _MANY_BYTES, _NUMBERS, _NUMBERS, _NUMBERS, _MANY_BYTES,
        _ADDRESSES, _ADDRESSES, _NUMBERS, _MANY_BYTES, _NUMBERS, _NUMBERS, _NUMBERS,
        _MANY_BYTES, _MANY_BYTES, _NUMBERS,
    ),
    "open_dispute": ("address", _BYTES, _BYTES),
    "contest_dispute": ("address", _BYTES, _BYTES),
    "resolve_dispute": ("address", _BYTES, "bool"),
    "finalize_dispute": ("address", _BYTES),
    "report_equivocation": (
        "address", "address", _BYTES, _BYTES,
        _ADDRESSES, _NUMBERS, _MANY_BYTES, _NUMBERS, _NUMBERS, _NUMBERS, _MANY_BYTES, _MANY_BYTES,
    ),
}  # fmt: skip
"""Every entry function after its signer."""

VIEW_TYPES: Final[dict[str, tuple[str, ...]]] = {
    "config": (),
    "params": (),
    "orchestrator": ("address",),
    "server": ("address",),
    "client": ("address",),
    "task": ("address", _BYTES),
    "dispute": ("address", _BYTES),
    "slashed": ("address", "address", _BYTES),
    "nonce_used": ("address", "u64"),
    "reward": ("u64", "u64", "u64", "u64"),
    "success_rate": ("address",),
}
OPTIONAL_VIEWS: Final = frozenset({"orchestrator", "server", "client", "task", "dispute"})
"""Views that return an Option."""


def encode_arguments(types: tuple[str, ...], values: tuple[Value, ...]) -> list[bytes]:
    """Raises `BadValue`."""
    return [encode(kind, value) for kind, value in zip(types, values, strict=True)]


def decode_arguments(types: tuple[str, ...], encoded: list[bytes]) -> list[Value]:
    """Raises `BadValue`, also for the wrong number of arguments (a ValueError)."""
    return [decode(kind, data) for kind, data in zip(types, encoded, strict=True)]


# --- what the contract says ---------------------------------------------------------------------------------------

Event = tuple[str, dict[str, Json]]
"""An event's struct name and its data as JSON."""


def server_view(record: Json) -> ServerView:
    return ServerView(record["status"], int(record["expires_at"]), int(record["max_budget"]), int(record["escrowed"]))


def _dues(entries: Json) -> tuple[Due, ...]:
    return tuple(Due(int(entry["amount"]), int(entry["release_at"])) for entry in entries)


def orchestrator_view(record: Json) -> OrchestratorView:
    metrics = record["metrics"]
    return OrchestratorView(
        owner=long_address(record["owner"]),
        public_key=PublicKey(_bytes(record["public_key"])),
        stake=int(record["stake"]),
        unbonding=_dues(record["unbonding"]),
        open_disputes=int(record["open_disputes"]),
        completed=int(metrics["completed"]),
        failed=int(metrics["failed"]),
        timed_out=int(metrics["timed_out"]),
        slashed=int(metrics["slashed"]),
        compute_ms=int(metrics["compute_ms"]),
    )


def client_view(record: Json) -> ClientView:
    return ClientView(
        public_key=PublicKey(_bytes(record["public_key"])),
        deposit=int(record["deposit"]),
        escrowed=int(record["escrowed"]),
        withdrawals=_dues(record["withdrawals"]),
    )


def dispute_view(record: Json) -> DisputeView:
    return DisputeView(
        status=record["status"],
        orchestrator=long_address(record["orchestrator"]),
        opener=long_address(record["opener"]),
        bond=int(record["bond"]),
        evidence_hash=_bytes(record["evidence_hash"]),
        answer_hash=_bytes(record["answer_hash"]),
        act_by=int(record["act_by"]),
    )


def task_view(client: Json, record: Json) -> TaskView:
    parts = record["split"]["vec"]
    split = Split(**{name: int(value) for name, value in parts[0].items()}) if parts else None
    return TaskView(
        client=long_address(client),
        server=long_address(record["server"]),
        orchestrator=long_address(record["orchestrator"]),
        status=record["status"],
        max_price=int(record["max_price"]),
        done_by=int(record["done_by"]),
        split=split,
    )


def governance(config: Json, values: Json) -> Governance:
    proposed = config["pending_admin"]["vec"]
    return Governance(
        admin=long_address(config["admin"]),
        pending_admin=long_address(proposed[0]) if proposed else None,
        arbiter=long_address(config["arbiter"]),
        treasury=long_address(config["treasury"]),
        paused=bool(config["paused"]),
        params=dict(zip(BOUNDS, map(int, values), strict=True)),
    )


def settled_items(events: list[Event], *, count: int) -> list[Settled]:
    """One result for each of the *count* items of a batch, in its order."""
    items = [_settled(name, data) for name, data in events if name in ("TaskCompleted", "SettlementSkipped")]
    if len(items) != count:
        raise ValueError(f"{count} items have {len(items)} results")
    return items


def _settled(name: str, data: dict[str, Json]) -> Settled:
    task_id = _bytes(data["task_id"])
    if name == "SettlementSkipped":
        return Settled(task_id, None, reason_name(int(data["reason"])))
    split = Split(int(data["payout"]), int(data["delegate_payout"]), int(data["fee"]), int(data["refund"]))
    return Settled(task_id, split, None)


def reason_name(number: int) -> str:
    code = CODES.get(number)
    return code.name if code is not None else f"error {number:#x} of a newer contract"


def _bytes(text: Any) -> bytes:
    return bytes.fromhex(str(text).removeprefix("0x"))


# --- why it said no -----------------------------------------------------------------------------------------------

_KINDS: Final[dict[int, type[MeshError]]] = {
    codes.INSUFFICIENT_COINS.number: NoFunds,
    codes.INSUFFICIENT_DEPOSIT.number: NoFunds,
    codes.NO_CLIENT.number: NoFunds,
    codes.NO_ORCHESTRATOR.number: NotStaked,
    codes.NOT_STAKED.number: NotStaked,
    codes.STAKE_TOO_LOW.number: NotStaked,
    codes.NO_SERVER.number: RouterNotAuthorised,
    codes.SERVER_NOT_AUTHORISED.number: RouterNotAuthorised,
    codes.SERVER_EXPIRED.number: RouterNotAuthorised,
}


def error_of(number: int, entry: str) -> MeshError:
    """The error for the contract's abort *number* in *entry*; its message says what to do."""
    code = CODES.get(number)
    if code is None:
        return LedgerAborted(
            f"{entry} was refused with error {number:#x}, which this version does not know; update cactus-mesh", number
        )
    message = f"{entry} was refused ({code.name}): {code.meaning}; {code.advice}"
    kind = _KINDS.get(number)
    return kind(message) if kind is not None else LedgerAborted(message, number)
