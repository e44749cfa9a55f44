"""Runs what transactions call: the contract, and the few functions of the framework that wallets use.

Synchronous and without I/O; every effect is in the `State`, so that it can be taken back or written down.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cactus_mesh.identity import Address
from cactus_mesh.ledger import contract as abi
from cactus_mesh.ledger import rules
from cactus_mesh.ledger.devnet.framework import FRAMEWORK, FUNCTIONS, Events, Failed
from cactus_mesh.ledger.rules import Abort, State, Tx
from cactus_mesh.ledger.values import BadValue, Json, Value, short_address, to_json

if TYPE_CHECKING:
    from cactus_mesh.ledger.devnet.transactions import Call, Submission

FEES: Final = Address("0x" + "0" * 61 + "fee")
"""Where fees go (a real chain burns them), so that the sum of all balances stays what was minted."""

INTRINSIC_GAS: Final = 10
BYTES_PER_GAS: Final = 1_024
MAX_GAS: Final = 2_000_000
MIN_GAS_PRICE: Final = 100
PRIORITY_GAS_PRICE: Final = 150
MAX_GAS_PRICE: Final = 10_000_000_000
"""The limits are Aptos's; the gas schedule is not, and says nothing about real costs."""

SUCCESS: Final = "Executed successfully"
_CANT_PAY: Final = "Move abort in 0x1::transaction_validation: PROLOGUE_ECANT_PAY_GAS_DEPOSIT(0x203ed)"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a transaction did.  *events* are (type, data as JSON), and empty unless it succeeded."""

    success: bool
    vm_status: str
    gas_used: int
    events: tuple[tuple[str, Json], ...]


def gas_of(submission: Submission) -> int:
    return INTRINSIC_GAS + len(submission.signed) // BYTES_PER_GAS


def execute(state: State, submission: Submission, now: int) -> Outcome:
    """Run the call, then charge the fee; a call that fails, or leaves too little for the fee, changes nothing else.

    The chain has checked that the payer can pay the fee before anything runs.
    """
    gas = gas_of(submission)
    fee = gas * submission.gas_price
    try:
        with state.atomic():
            events = _run(state, submission, Tx(submission.sender, now))
            if state.coins.get(submission.payer, 0) < fee:
                raise Failed(_CANT_PAY)
        outcome = Outcome(True, SUCCESS, gas, tuple(events))
    except Failed as failed:
        outcome = Outcome(False, str(failed), gas, ())
    rules.transfer(state, submission.payer, FEES, fee)
    return outcome


def _run(state: State, submission: Submission, tx: Tx) -> Events:
    call = submission.call
    try:
        types = entry_types(state, call)
        if submission.authenticator.agents:
            raise Failed("NUMBER_OF_SIGNER_ARGUMENTS_MISMATCH")
        arguments = _arguments(types, call)
        if call.module == f"{state.contract}::{abi.MODULE}":
            return _run_entry(state, call, tx, arguments)
        events: Events = FUNCTIONS[_framework_name(call)].run(state, tx, *arguments)
    except Failed:
        raise
    except Exception:  # a fault of ours: the transaction fails whole, the ledger lives on
        log.exception("a call failed in an unforeseen way", extra={"function": call.function})
        raise Failed("UNKNOWN_INVARIANT_VIOLATION_ERROR") from None
    return events


def entry_types(state: State, call: Call) -> tuple[str, ...]:
    """What the entry takes after its signer.  Raises `Failed`."""
    if call.module == f"{state.contract}::{abi.MODULE}" and call.function in abi.ENTRY_TYPES:
        _require_types(call, ())
        return abi.ENTRY_TYPES[call.function]
    function = FUNCTIONS.get(_framework_name(call))
    if function is None or not function.entry:
        raise Failed(_why_unknown(state, call))
    _require_types(call, function.type_arguments)
    return function.kinds


def _why_unknown(state: State, call: Call) -> str:
    module, _ = _framework_name(call)
    ours = call.module == f"{state.contract}::{abi.MODULE}"
    if (ours and call.function in abi.VIEW_TYPES) or _framework_name(call) in FUNCTIONS:
        return "EXECUTE_ENTRY_FUNCTION_CALLED_ON_NON_ENTRY_FUNCTION"
    if ours or module in {known for known, _ in FUNCTIONS}:
        return "FUNCTION_RESOLUTION_FAILURE"
    return "LINKER_ERROR"


def _require_types(call: Call, wanted: tuple[str, ...]) -> None:
    if len(call.type_arguments) != len(wanted):
        raise Failed("NUMBER_OF_TYPE_ARGUMENTS_MISMATCH")
    if call.type_arguments != wanted:
        raise Failed("LINKER_ERROR")


def _framework_name(call: Call) -> tuple[str, str]:
    address, module = call.module.split("::")
    return (module, call.function) if address == FRAMEWORK else ("", "")


def _run_entry(state: State, call: Call, tx: Tx, arguments: list[Value]) -> Events:
    module = f"{short_address(state.contract)}::{abi.MODULE}"
    try:
        events = rules.ENTRIES[call.function](state, tx, *arguments)
    except Abort as abort:
        code = abort.code
        raise Failed(f"Move abort in {module}: {code.name}({code.number:#x}): {code.meaning}") from None
    return [(f"{module}::{type(event).__name__}", to_json(event)) for event in events]


def _arguments(types: tuple[str, ...], call: Call) -> list[Value]:
    if len(types) != len(call.arguments):
        raise Failed("NUMBER_OF_ARGUMENTS_MISMATCH")
    try:
        return abi.decode_arguments(types, call.arguments)
    except BadValue:
        raise Failed("FAILED_TO_DESERIALIZE_ARGUMENT") from None
