"""Runs what transactions and views call: the contract, and the few functions of the framework that wallets use.

Synchronous and without I/O; every effect is in the `State`, so that it can be taken back or written down.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cactus_mesh.identity import Address
from cactus_mesh.ledger import contract as abi
from cactus_mesh.ledger import rules
from cactus_mesh.ledger.devnet.refusals import bad_input
from cactus_mesh.ledger.rules import Abort, State, Tx
from cactus_mesh.ledger.values import BadValue, Json, Value, from_json, option, to_json

if TYPE_CHECKING:
    from cactus_mesh.ledger.devnet.transactions import Call, Submission

FEES: Final = Address("0x" + "0" * 61 + "fee")
"""Where fees go (a real chain burns them), so that the sum of all balances stays what was minted."""
FRAMEWORK: Final = Address("0x" + "0" * 63 + "1")
APTOS_COIN: Final = "0x1::aptos_coin::AptosCoin"

INTRINSIC_GAS: Final = 10
BYTES_PER_GAS: Final = 1_024
MAX_GAS: Final = 2_000_000
MIN_GAS_PRICE: Final = 100
MAX_GAS_PRICE: Final = 10_000_000_000
"""The limits are Aptos's; the gas schedule is not, and says nothing about real costs."""

SUCCESS: Final = "Executed successfully"
_CANT_PAY: Final = "Move abort in 0x1::transaction_validation: PROLOGUE_ECANT_PAY_GAS_DEPOSIT(0x203ed)"

_TRANSFERS: Final = {
    (f"{FRAMEWORK}::aptos_account", "transfer"): (),
    (f"{FRAMEWORK}::aptos_account", "transfer_coins"): (APTOS_COIN,),
    (f"{FRAMEWORK}::coin", "transfer"): (APTOS_COIN,),
}
_TRANSFER_TYPES: Final = ("address", "u64")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a transaction did.  *events* are (type, data as JSON), and empty unless it succeeded."""

    success: bool
    vm_status: str
    gas_used: int
    events: tuple[tuple[str, Json], ...]


class _Failed(Exception):
    """The transaction is kept and charged, but has no effect; the text is its vm_status."""


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
            events = _run(state, submission.call, Tx(submission.sender, now))
            if state.coins.get(submission.payer, 0) < fee:
                raise _Failed(_CANT_PAY)
        outcome = Outcome(True, SUCCESS, gas, tuple(events))
    except _Failed as failed:
        outcome = Outcome(False, str(failed), gas, ())
    rules.transfer(state, submission.payer, FEES, fee)
    return outcome


def _run(state: State, call: Call, tx: Tx) -> list[tuple[str, Json]]:
    try:
        if (call.module, call.function) in _TRANSFERS:
            return _transfer(state, call, tx)
        if call.module == f"{state.contract}::{abi.MODULE}" and call.function in abi.ENTRY_TYPES:
            return _run_entry(state, call, tx)
    except _Failed:
        raise
    except Exception:  # a fault of ours: the transaction fails whole, the ledger lives on
        log.exception("a call failed in an unforeseen way", extra={"function": call.function})
        raise _Failed(_with_error("UNKNOWN_INVARIANT_VIOLATION_ERROR")) from None
    raise _Failed(_with_error("FUNCTION_RESOLUTION_FAILURE"))


def _run_entry(state: State, call: Call, tx: Tx) -> list[tuple[str, Json]]:
    if call.type_arguments:
        raise _Failed(_with_error("NUMBER_OF_TYPE_ARGUMENTS_MISMATCH"))
    arguments = _arguments(abi.ENTRY_TYPES[call.function], call)
    try:
        events = rules.ENTRIES[call.function](state, tx, *arguments)
    except Abort as abort:
        code = abort.code
        raise _Failed(f"Move abort in {call.module}: {code.name}({code.number:#x}): {code.meaning}") from None
    return [(f"{call.module}::{type(event).__name__}", to_json(event)) for event in events]


def _transfer(state: State, call: Call, tx: Tx) -> list[tuple[str, Json]]:
    if call.type_arguments != _TRANSFERS[call.module, call.function]:
        raise _Failed(_with_error("NUMBER_OF_TYPE_ARGUMENTS_MISMATCH"))
    payee, amount = _arguments(_TRANSFER_TYPES, call)
    try:
        rules.transfer(state, tx.sender, payee, amount)
    except Abort:
        raise _Failed(
            "Move abort in 0x1::coin: EINSUFFICIENT_BALANCE(0x10006): Not enough coins to complete transaction"
        ) from None
    store = {"coin_type": APTOS_COIN, "amount": str(amount)}
    return [
        ("0x1::coin::CoinWithdraw", {**store, "account": to_json(tx.sender)}),
        ("0x1::coin::CoinDeposit", {**store, "account": to_json(payee)}),
    ]


def _arguments(types: tuple[str, ...], call: Call) -> list[Value]:
    if len(types) != len(call.arguments):
        raise _Failed(_with_error("NUMBER_OF_ARGUMENTS_MISMATCH"))
    try:
        return abi.decode_arguments(types, call.arguments)
    except BadValue:
        raise _Failed(_with_error("FAILED_TO_DESERIALIZE_ARGUMENT")) from None


def _with_error(name: str) -> str:
    return f"Transaction Executed and Committed with Error {name}"


# --- views -------------------------------------------------------------------------------------------------------


def view_call(state: State, call: Call) -> list[Json]:
    """A view with BCS arguments.  Raises `Refused`."""
    types = _view_types(state, call.module, call.function, call.type_arguments)
    try:
        arguments = abi.decode_arguments(types, call.arguments)
    except ValueError as error:
        raise bad_input(f"Failed to deserialize the arguments of {call.function}: {error}") from None
    return _view(state, call.function, arguments)


def view_json(
    state: State, module: str, function: str, type_arguments: tuple[str, ...], data: list[Json]
) -> list[Json]:
    """A view with JSON arguments.  Raises `Refused`."""
    types = _view_types(state, module, function, type_arguments)
    try:
        arguments = [from_json(kind, value) for kind, value in zip(types, data, strict=True)]
    except ValueError as error:
        raise bad_input(f"Failed to parse the arguments of {function}: {error}") from None
    return _view(state, function, arguments)


def _view_types(state: State, module: str, function: str, type_arguments: tuple[str, ...]) -> tuple[str, ...]:
    if (module, function, type_arguments) == (f"{FRAMEWORK}::coin", "balance", (APTOS_COIN,)):
        return ("address",)
    if module != f"{state.contract}::{abi.MODULE}" or function not in abi.VIEW_TYPES or type_arguments:
        raise bad_input(f"there is no view function {module}::{function} with these type arguments")
    return abi.VIEW_TYPES[function]


def _view(state: State, function: str, arguments: list[Value]) -> list[Json]:
    if function == "balance":
        return [str(balance(state, arguments[0]))]
    result = rules.VIEWS[function](state, *arguments)
    return [option(result) if function in abi.OPTIONAL_VIEWS else to_json(result)]


def balance(state: State, account: Address) -> int:
    return state.coins.get(account, 0)
