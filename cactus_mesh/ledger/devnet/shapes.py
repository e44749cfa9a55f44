"""What the API shows of a transaction, in a full node's JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from cactus_mesh.ledger import contract as abi
from cactus_mesh.ledger.devnet.execution import FRAMEWORK
from cactus_mesh.ledger.devnet.store import Record
from cactus_mesh.ledger.values import BadValue, Json, to_json

if TYPE_CHECKING:
    from cactus_mesh.identity import Address
    from cactus_mesh.ledger.devnet.chain import Executed
    from cactus_mesh.ledger.devnet.transactions import Call, Submission

_ZERO_HASH: Final = "0x" + "0" * 64
_TRANSFER_TYPES: Final = ("address", "u64")

encode = msgspec.json.Encoder().encode


def pending(submission: Submission) -> dict[str, Json]:
    return {
        "type": "pending_transaction",
        "hash": submission.hash,
        "sender": to_json(submission.sender),
        "sequence_number": str(submission.sequence),
        "max_gas_amount": str(submission.max_gas),
        "gas_unit_price": str(submission.gas_price),
        "expiration_timestamp_secs": str(submission.expires_at),
        "payload": payload(submission.call),
        "signature": None,
    }


def payload(call: Call) -> dict[str, Json]:
    address, module = call.module.split("::")
    return {
        "type": "entry_function_payload",
        "function": f"{to_json(address)}::{module}::{call.function}",
        "type_arguments": list(call.type_arguments),
        "arguments": _arguments(call),
    }


def _arguments(call: Call) -> list[Json]:
    """Typed where the function is known, else as raw bytes."""
    types = abi.ENTRY_TYPES.get(call.function, _TRANSFER_TYPES)
    try:
        return [to_json(value) for value in abi.decode_arguments(types, call.arguments)]
    except (BadValue, ValueError):
        return [to_json(data) for data in call.arguments]


def record(executed: Executed) -> Record:
    """An executed transaction as the store keeps it."""
    submission = executed.submission
    return Record(
        version=executed.version,
        timestamp_us=executed.timestamp_us,
        hash=executed.hash,
        sender=submission.sender if submission is not None else FRAMEWORK,
        sequence=submission.sequence if submission is not None else executed.version,
        signed=submission.signed if submission is not None else None,
        json=encode(_executed(executed)),
    )


def _executed(executed: Executed) -> dict[str, Json]:
    outcome = executed.outcome
    submission = executed.submission
    asked = pending(submission) if submission is not None else _gift(executed)
    return asked | {
        "type": "user_transaction",
        "version": str(executed.version),
        "timestamp": str(executed.timestamp_us),
        "success": outcome.success,
        "vm_status": outcome.vm_status,
        "gas_used": str(outcome.gas_used),
        "events": [
            {
                "guid": {"creation_number": "0", "account_address": "0x0"},
                "sequence_number": "0",
                "type": kind,
                "data": data,
            }
            for kind, data in outcome.events
        ],
        "changes": [],
        "state_change_hash": _ZERO_HASH,
        "event_root_hash": _ZERO_HASH,
        "accumulator_root_hash": _ZERO_HASH,
        "state_checkpoint_hash": None,
    }


def _gift(executed: Executed) -> dict[str, Json]:
    """The faucet's transactions have no signer; they are shown as the framework's own."""
    return {
        "hash": executed.hash,
        "sender": to_json(FRAMEWORK),
        "sequence_number": str(executed.version),
        "max_gas_amount": "0",
        "gas_unit_price": "0",
        "expiration_timestamp_secs": str(executed.timestamp_us // 1_000_000 + 1),
        "payload": {
            "type": "entry_function_payload",
            "function": "0x1::aptos_coin::mint",
            "type_arguments": [],
            "arguments": [],
        },
        "signature": None,
    }


def resource(kind: str, data: Json) -> dict[str, Json]:
    return {"type": kind, "data": data}


def account(address: Address, sequence: int) -> dict[str, Json]:
    return {"sequence_number": str(sequence), "authentication_key": address}
