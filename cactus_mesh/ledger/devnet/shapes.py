"""What the API shows of a transaction, in a full node's JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from cactus_mesh.ledger import contract as abi
from cactus_mesh.ledger.devnet.execution import SUCCESS
from cactus_mesh.ledger.devnet.framework import COIN_DEPOSIT, COIN_WITHDRAW, FRAMEWORK, FUNCTIONS
from cactus_mesh.ledger.devnet.store import CoinEvent, Record
from cactus_mesh.ledger.values import Json, Value, long_address, short_address, to_json

if TYPE_CHECKING:
    from cactus_mesh.identity import Address
    from cactus_mesh.ledger.devnet.chain import Executed
    from cactus_mesh.ledger.devnet.refusals import Refused
    from cactus_mesh.ledger.devnet.transactions import Call, Submission

_ZERO_HASH: Final = "0x" + "0" * 64
STREAMS: Final = {COIN_DEPOSIT: 2, COIN_WITHDRAW: 3}
"""The numbers of an account's streams of older events, into which a full node translates these."""
_UNKEPT: Final[dict[str, Json]] = {
    "changes": [],
    "state_change_hash": _ZERO_HASH,
    "event_root_hash": _ZERO_HASH,
    "accumulator_root_hash": _ZERO_HASH,
    "state_checkpoint_hash": None,
}
"""What comes of a chain's Merkle trees, which this ledger has none of."""

encode = msgspec.json.Encoder().encode


def problem(refused: Refused) -> Json:
    return {
        "message": refused.message,
        "error_code": refused.error_code,
        "vm_error_code": refused.vm_error_code,
    }


def pending(submission: Submission) -> dict[str, Json]:
    return {
        "type": "pending_transaction",
        "hash": submission.hash,
        "sender": to_json(submission.sender),
        "sequence_number": str(submission.sequence),
        "max_gas_amount": str(submission.max_gas),
        "gas_unit_price": str(submission.gas_price),
        "expiration_timestamp_secs": str(submission.raw.expires_at),
        "payload": payload(submission.call),
        "signature": submission.authenticator.to_json(),
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
    address, module = call.module.split("::")
    known = FUNCTIONS.get((module, call.function)) if address == FRAMEWORK else None
    types = known.kinds if known is not None else abi.ENTRY_TYPES.get(call.function, ())
    try:
        return [
            _shown(kind, value) for kind, value in zip(types, abi.decode_arguments(types, call.arguments), strict=True)
        ]
    except ValueError:
        return [to_json(data) for data in call.arguments]


def _shown(kind: str, value: Value) -> Json:
    return {"inner": to_json(value)} if kind.startswith("0x1::object::Object<") else to_json(value)


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
        json=encode(shown(executed)),
        coins=tuple(
            (long_address(data["account"]), STREAMS[kind], data["amount"])
            for kind, data in executed.outcome.events
            if kind in STREAMS
        ),
    )


def shown(executed: Executed) -> dict[str, Json]:
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
        **_UNKEPT,
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


def coin_event(account: Address, stream: int, event: CoinEvent) -> dict[str, Json]:
    return {
        "version": str(event.version),
        "guid": {"creation_number": str(stream), "account_address": short_address(account)},
        "sequence_number": str(event.sequence),
        "type": "0x1::coin::DepositEvent" if stream == STREAMS[COIN_DEPOSIT] else "0x1::coin::WithdrawEvent",
        "data": {"amount": event.amount},
    }


def genesis() -> dict[str, Json]:
    """Version 0: the state in which the ledger began."""
    return {
        "type": "genesis_transaction",
        "version": "0",
        "hash": _ZERO_HASH,
        "success": True,
        "vm_status": SUCCESS,
        "gas_used": "0",
        "payload": {
            "type": "write_set_payload",
            "write_set": {"type": "direct_write_set", "changes": [], "events": []},
        },
        "events": [],
        **_UNKEPT,
    }


def block(height: int, timestamp_us: int, transactions: list[bytes] | None) -> bytes:
    """Every version is a block of its own."""
    head = {
        "block_height": str(height),
        "block_hash": _ZERO_HASH,
        "block_timestamp": str(timestamp_us),
        "first_version": str(height),
        "last_version": str(height),
    }
    return encode(
        {**head, "transactions": None if transactions is None else [msgspec.Raw(each) for each in transactions]}
    )
