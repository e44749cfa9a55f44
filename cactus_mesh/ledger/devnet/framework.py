"""The few functions of Aptos's framework that wallets use: what they take, what they return, and what they do.

One table: what it lists can be called here and is in the served ABIs, nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from cactus_mesh.identity import Address
from cactus_mesh.ledger import rules
from cactus_mesh.ledger.rules import Abort, State, Tx
from cactus_mesh.ledger.rules.state import APT
from cactus_mesh.ledger.values import Json, option, short_address, to_json

if TYPE_CHECKING:
    from collections.abc import Callable

FRAMEWORK: Final = Address("0x" + "0" * 63 + "1")
APTOS_COIN: Final = "0x1::aptos_coin::AptosCoin"
COIN_DEPOSIT: Final = "0x1::coin::CoinDeposit"
COIN_WITHDRAW: Final = "0x1::coin::CoinWithdraw"
METADATA: Final = "0x1::fungible_asset::Metadata"
STRING: Final = "0x1::string::String"

Events = list[tuple[str, Json]]


class Failed(Exception):
    """The transaction is kept and charged, but has no effect; the text is its vm_status."""


@dataclass(frozen=True, slots=True)
class Function:
    """*generics* pairs each type parameter's constraints with the one type that it can be here.

    An entry's *run* takes state, transaction and arguments and returns events; a view's takes state and arguments and
    returns JSON.  *takes* excludes the signer.
    """

    takes: tuple[str, ...]
    returns: tuple[str, ...]
    run: Callable[..., Any]
    entry: bool = False
    generics: tuple[tuple[tuple[str, ...], str], ...] = ()

    @property
    def type_arguments(self) -> tuple[str, ...]:
        return tuple(kind for _, kind in self.generics)

    @property
    def kinds(self) -> tuple[str, ...]:
        """What it takes, with the type parameters filled in."""
        return tuple(_filled(kind, self.type_arguments) for kind in self.takes)


def _filled(kind: str, type_arguments: tuple[str, ...]) -> str:
    for number, argument in enumerate(type_arguments):
        kind = kind.replace(f"<T{number}>", f"<{argument}>")
    return kind


def _transfer(state: State, tx: Tx, payee: Address, amount: int) -> Events:
    try:
        rules.transfer(state, tx.sender, payee, amount)
    except Abort:
        raise Failed(
            "Move abort in 0x1::coin: EINSUFFICIENT_BALANCE(0x10006): Not enough coins to complete transaction"
        ) from None
    return [coin_event(COIN_WITHDRAW, tx.sender, amount), coin_event(COIN_DEPOSIT, payee, amount)]


def coin_event(kind: str, account: Address, amount: int) -> tuple[str, Json]:
    return kind, {"coin_type": APTOS_COIN, "account": to_json(account), "amount": str(amount)}


def _transfer_asset(state: State, tx: Tx, asset: Address, payee: Address, amount: int) -> Events:
    _require_apt(asset)
    return _transfer(state, tx, payee, amount)


def _require_apt(asset: Address) -> None:
    if asset != APT:
        raise Failed(
            "Move abort in 0x1::object: EOBJECT_DOES_NOT_EXIST(0x60002): An object does not exist at this address"
        )


def _balance(state: State, account: Address) -> Json:
    return str(state.coins.get(account, 0))


def _asset_balance(state: State, account: Address, asset: Address) -> Json:
    _require_apt(asset)
    return _balance(state, account)


def _always(value: Json) -> Callable[[State], Json]:
    return lambda _: value


_COIN: Final = (((), APTOS_COIN),)
_ASSET: Final = ((("key",), METADATA),)

FUNCTIONS: Final[dict[tuple[str, str], Function]] = {
    ("aptos_account", "transfer"): Function(("address", "u64"), (), _transfer, entry=True),
    ("aptos_account", "transfer_coins"): Function(("address", "u64"), (), _transfer, entry=True, generics=_COIN),
    ("aptos_account", "transfer_fungible_assets"): Function(
        (f"0x1::object::Object<{METADATA}>", "address", "u64"), (), _transfer_asset, entry=True
    ),
    ("coin", "transfer"): Function(("address", "u64"), (), _transfer, entry=True, generics=_COIN),
    ("coin", "balance"): Function(("address",), ("u64",), _balance, generics=_COIN),
    ("coin", "name"): Function((), (STRING,), _always("Aptos Coin"), generics=_COIN),
    ("coin", "symbol"): Function((), (STRING,), _always("APT"), generics=_COIN),
    ("coin", "decimals"): Function((), ("u8",), _always(8), generics=_COIN),
    ("coin", "supply"): Function(
        (), ("0x1::option::Option<u128>",), lambda state: option(state.minted.get("octas", 0)), generics=_COIN
    ),
    ("primary_fungible_store", "transfer"): Function(
        ("0x1::object::Object<T0>", "address", "u64"), (), _transfer_asset, entry=True, generics=_ASSET
    ),
    ("primary_fungible_store", "balance"): Function(
        ("address", "0x1::object::Object<T0>"), ("u64",), _asset_balance, generics=_ASSET
    ),
}  # fmt: skip
"""By module and name."""

_HANDLE: Final = "0x1::event::EventHandle"
_OFFER: Final = "0x1::account::CapabilityOffer"

STRUCTS: Final[dict[str, dict[str, str]]] = {
    "0x1::account::Account": {
        "authentication_key": "vector<u8>",
        "sequence_number": "u64",
        "guid_creation_num": "u64",
        "coin_register_events": f"{_HANDLE}<0x1::account::CoinRegisterEvent>",
        "key_rotation_events": f"{_HANDLE}<0x1::account::KeyRotationEvent>",
        "rotation_capability_offer": f"{_OFFER}<0x1::account::RotationCapability>",
        "signer_capability_offer": f"{_OFFER}<0x1::account::SignerCapability>",
    },
    "0x1::account::CapabilityOffer": {"for": "0x1::option::Option<address>"},
    "0x1::coin::Coin": {"value": "u64"},
    "0x1::coin::CoinStore": {
        "coin": "0x1::coin::Coin<T0>",
        "frozen": "bool",
        "deposit_events": f"{_HANDLE}<0x1::coin::DepositEvent>",
        "withdraw_events": f"{_HANDLE}<0x1::coin::WithdrawEvent>",
    },
    "0x1::event::EventHandle": {"counter": "u64", "guid": "0x1::guid::GUID"},
    "0x1::guid::GUID": {"id": "0x1::guid::ID"},
    "0x1::guid::ID": {"creation_num": "u64", "addr": "address"},
}
"""The fields of what accounts hold, in their order."""

_SHAPES: Final[dict[str, tuple[list[str], list[list[str]]]]] = {
    "Account": (["store", "key"], []),
    "CapabilityOffer": (["store"], [[]]),
    "Coin": (["store"], [[]]),
    "CoinStore": (["key"], [[]]),
    "EventHandle": (["store"], [["drop", "store"]]),
    "GUID": (["drop", "store"], []),
    "ID": (["copy", "drop", "store"], []),
}
"""Each struct's abilities, and the constraints on its type parameters."""


def module_abis() -> dict[str, Json]:
    """The ABIs of the framework's modules, as far as they can be called or read here."""
    names = {module for module, _ in FUNCTIONS} | {kind.split("::")[1] for kind in STRUCTS}
    return {name: _module_abi(name) for name in sorted(names)}


def _module_abi(module: str) -> Json:
    return {
        "address": short_address(FRAMEWORK),
        "name": module,
        "friends": [],
        "exposed_functions": [
            function_abi(name, function) for (home, name), function in FUNCTIONS.items() if home == module
        ],
        "structs": [_framework_struct(kind) for kind in STRUCTS if kind.split("::")[1] == module],
    }


def _framework_struct(kind: str) -> Json:
    name = kind.split("::")[2]
    abilities, generics = _SHAPES[name]
    return struct_abi(name, abilities, STRUCTS[kind]) | {"generic_type_params": [{"constraints": c} for c in generics]}


def function_abi(name: str, function: Function) -> Json:
    return {
        "name": name,
        "visibility": "public",
        "is_entry": function.entry,
        "is_view": not function.entry,
        "generic_type_params": [{"constraints": list(constraints)} for constraints, _ in function.generics],
        "params": ["&signer", *function.takes] if function.entry else list(function.takes),
        "return": list(function.returns),
    }


def struct_abi(name: str, abilities: list[str], fields: dict[str, str], *, event: bool = False) -> Json:
    return {
        "name": name,
        "is_native": False,
        "is_event": event,
        "abilities": abilities,
        "generic_type_params": [],
        "fields": [{"name": field, "type": kind} for field, kind in fields.items()],
    }


def monomorphic() -> dict[str, dict[str, str]]:
    """The structs that resources here are made of, with their type arguments filled in, for their BCS."""
    kinds = [f"0x1::coin::CoinStore<{APTOS_COIN}>", "0x1::account::Account"]
    filled: dict[str, dict[str, str]] = {}
    while kinds:
        whole = kinds.pop()
        head, _, argument = whole.removesuffix(">").partition("<")
        if whole in filled or head not in STRUCTS:
            continue
        filled[whole] = {name: _filled(kind, (argument,)) for name, kind in STRUCTS[head].items()}
        kinds.extend(filled[whole].values())
    return filled
