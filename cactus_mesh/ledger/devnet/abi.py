"""The contract's ABI without a compiler: derived from the tables and records that the Python rules run on.

A test compares it with the ABI decoded from the compiled Move modules.  Only what Python has no record of is listed.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
import typing
from typing import Any, Final

from cactus_mesh.core import settlement
from cactus_mesh.core.pricing import RewardParams, Split
from cactus_mesh.identity import Address, PublicKey
from cactus_mesh.ledger.contract import ENTRY_TYPES, MODULE, VIEW_TYPES
from cactus_mesh.ledger.devnet import framework
from cactus_mesh.ledger.devnet.framework import STRING, Function, function_abi, struct_abi
from cactus_mesh.ledger.rules import events, payment, state
from cactus_mesh.ledger.rules.params import Params
from cactus_mesh.ledger.rules.views import VIEWS

if typing.TYPE_CHECKING:
    from cactus_mesh.ledger.values import Json

_NAMES: Final = {"Address": Address}
"""What modules import for their annotations alone."""
_VALUE: Final = ["copy", "drop"]
_STORED: Final = ["copy", "drop", "store"]
_KEPT: Final = ["copy", "drop", "key"]
_EVENT: Final = ["drop", "store"]

_RECORDS: Final[dict[type, tuple[str, str, list[str]]]] = {
    state.Config: (MODULE, "Config", _KEPT),
    state.Orchestrator: (MODULE, "Orchestrator", _KEPT),
    state.Client: (MODULE, "Client", _KEPT),
    state.Server: (MODULE, "ServerView", _VALUE),
    state.Task: (MODULE, "TaskView", _VALUE),
    state.Dispute: (MODULE, "DisputeView", _VALUE),
    payment.Consent: (MODULE, "Consent", _VALUE),
    payment.Claim: (MODULE, "Claim", _VALUE),
    Params: (MODULE, "Params", _STORED),
    state.Metrics: (MODULE, "Metrics", _STORED),
    state.Due: (MODULE, "Due", _STORED),
    state.TaskKey: (MODULE, "TaskKey", _STORED),
    state.NonceKey: (MODULE, "NonceKey", _STORED),
    state.SlashKey: (MODULE, "SlashKey", _STORED),
    RewardParams: ("rewards", "RewardParams", _STORED),
    Split: ("rewards", "Split", _STORED),
} | {
    record: (MODULE, name, _EVENT)
    for name, record in vars(events).items()
    if inspect.isclass(record) and issubclass(record, events.Event) and record is not events.Event
}
"""Python's record of each Move struct: its module, name and abilities."""

_NUMBERED: Final = {"ServerView": ("Server", _KEPT), "TaskView": ("Task", _STORED), "DisputeView": ("Dispute", _STORED)}
"""Records that Move stores with a number for their status, and shows with its name."""
_TABLE: Final = "0x1::table::Table"
_SIGNED: Final = (settlement.OperatorConsent, settlement.SettlementClaim, settlement.TaskConsent)

_SUPPORT: Final[dict[str, dict[str, tuple[tuple[str, ...], str]]]] = {
    "rewards": {
        "fee": (("&Split",), "u64"),
        "fee_bps": (("&RewardParams",), "u64"),
        "new_params": (("u64",) * 6, "RewardParams"),
        "paid": (("&Split",), "u64"),
        "refund": (("&Split",), "u64"),
        "reward": (("&RewardParams", "u64", "u64", "u64", "u64"), "u64"),
        "share": (("u64", "u64"), "u64"),
        "split": (("u64",) * 4, "Split"),
        "success_ppm": (("u64", "u64"), "u64"),
        "to_delegate": (("&Split",), "u64"),
        "to_orchestrator": (("&Split",), "u64"),
        "values": (("&RewardParams",), "vector<u64>"),
    },
    "signed": {
        "account_of": (("vector<u8>",), "address"),
        "claim_bytes": (
            ("address", "address", "address", "address", "u64", "vector<u8>", "vector<u8>", "u64", "u64", "u64",
             "vector<u8>"),
            "vector<u8>",
        ),
        "consent_bytes": (("address", "address", "vector<u8>", "u64", "u64", "u64"), "vector<u8>"),
        "is_public_key": (("&vector<u8>",), "bool"),
        "operator_bytes": (("address", "address"), "vector<u8>"),
        "verifies": (("vector<u8>", "vector<u8>", "vector<u8>"), "bool"),
    },
    "vaults": {
        "has_coins": (("address", "u64"), "bool"),
        "initialize": (("&signer", "address"), ""),
        "lock": (("&signer", "address", "u64"), ""),
        "of_client": (("address",), "address"),
        "open_for_client": (("address",), "signer"),
        "open_for_stake": (("address",), "signer"),
        "release": (("address", "address", "u64"), ""),
        "shift": (("address", "address", "u64"), ""),
    },
}  # fmt: skip
"""What the contract's own modules offer each other, neither entry nor view: module, name, parameters, result."""


@functools.cache
def contract_abis(contract: Address) -> dict[str, Json]:
    """The ABI of each module at *contract*, by name."""
    return {name: _module(contract, name) for name in (MODULE, "rewards", "signed", "vaults")}


@functools.cache
def view_returns(contract: Address) -> dict[str, tuple[str, ...]]:
    """The types that each view of the contract returns."""
    return {
        name: (_move_type(contract, typing.get_type_hints(VIEWS[name], localns=_NAMES)["return"]),)
        for name in VIEW_TYPES
    }  # fmt: skip


@functools.cache
def struct_types(contract: Address) -> dict[str, dict[str, str]]:
    """The field types of every struct that a view or a resource shows, by the struct's full name."""
    ours = {f"{contract}::{module}::{name}": fields for module, name, _, fields in _structs(contract)}
    return ours | framework.monomorphic()


def _module(contract: Address, module: str) -> Json:
    return {
        "address": contract,
        "name": module,
        "friends": [f"{contract}::{MODULE}"] if module == "vaults" else [],
        "exposed_functions": _own_functions(contract) if module == MODULE else _support(contract, module),
        "structs": [
            struct_abi(name, abilities, fields, event=abilities == _EVENT)
            for home, name, abilities, fields in _structs(contract)
            if home == module
        ],
    }


def _own_functions(contract: Address) -> list[Json]:
    entries = [function_abi(name, Function(kinds, (), _never, entry=True)) for name, kinds in ENTRY_TYPES.items()]
    returns = view_returns(contract)
    views = [function_abi(name, Function(kinds, returns[name], _never)) for name, kinds in VIEW_TYPES.items()]
    return entries + views


def _support(contract: Address, module: str) -> list[Json]:
    def whole(kind: str) -> str:
        return (
            kind
            if kind.lstrip("&") in _PLAIN
            else kind.replace(name := kind.lstrip("&"), f"{contract}::{module}::{name}")
        )

    visibility = "friend" if module == "vaults" else "public"
    return [
        function_abi(name, Function(tuple(map(whole, takes)), (whole(result),) if result else (), _never))
        | {"is_view": False, "visibility": visibility}
        for name, (takes, result) in _SUPPORT[module].items()
    ]


_PLAIN: Final = frozenset({"address", "bool", "signer", "u64", "vector<u64>", "vector<u8>"})


def _never() -> None:
    raise AssertionError("described only")


def _structs(contract: Address) -> list[tuple[str, str, list[str], dict[str, str]]]:
    """Module, name, abilities and fields of each struct."""
    found = [(*_RECORDS[record], _fields(contract, record)) for record in _RECORDS]
    for _, name, _, fields in tuple(found):
        if name in _NUMBERED:
            found.append((MODULE, *_NUMBERED[name], fields | {"status": "u8"}))
    own = f"{contract}::{MODULE}"
    seat = {"vault": "address", "current": "bool"}
    registry = {
        "operators": f"{_TABLE}<address, {own}::Seat>",
        "tasks": f"{_TABLE}<{own}::TaskKey, {own}::Task>",
        "nonces": f"{_TABLE}<{own}::NonceKey, bool>",
        "disputes": f"{_TABLE}<{own}::TaskKey, {own}::Dispute>",
        "slashes": f"{_TABLE}<{own}::SlashKey, bool>",
    }
    root = {
        "extend_ref": "0x1::object::ExtendRef",
        "address": "address",
        "asset": f"0x1::object::Object<{framework.METADATA}>",
    }
    return [
        *found,
        *(("signed", kind.__name__, ["drop"], _signed_fields(contract, kind)) for kind in _SIGNED),
        (MODULE, "Seat", _STORED, seat),
        (MODULE, "Registry", ["key"], registry),
        ("vaults", "Root", ["key"], root),
    ]


def _signed_fields(contract: Address, record: type) -> dict[str, str]:
    """As `settlement` writes them: a domain first, the chain id in one byte."""
    return {"domain": "vector<u8>"} | _fields(contract, record) | {"chain_id": "u8"}


def _fields(contract: Address, record: type) -> dict[str, str]:
    hints = typing.get_type_hints(record, localns=_NAMES)
    names = [each.name for each in dataclasses.fields(record)] if dataclasses.is_dataclass(record) else list(hints)
    return {name: _move_type(contract, hints[name]) for name in names}


def _move_type(contract: Address, hint: Any) -> str:
    """The Move type of a Python annotation."""
    simple = {Address: "address", PublicKey: "vector<u8>", bytes: "vector<u8>", bool: "bool", int: "u64", str: STRING}
    if hint in simple:
        return simple[hint]
    if hint in _RECORDS:
        module, name, _ = _RECORDS[hint]
        return f"{contract}::{module}::{name}"
    arguments = typing.get_args(hint)
    if types.NoneType in arguments:
        return f"0x1::option::Option<{_move_type(contract, arguments[0])}>"
    if typing.get_origin(hint) is typing.Literal:
        return STRING
    assert typing.get_origin(hint) is tuple, f"no Move type for {hint}"
    return f"vector<{_move_type(contract, arguments[0])}>"
