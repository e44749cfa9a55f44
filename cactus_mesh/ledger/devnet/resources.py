"""What lies at an address: resources as a full node shows them, in JSON and in BCS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from cactus_mesh.ledger.contract import MODULE
from cactus_mesh.ledger.devnet.abi import struct_types
from cactus_mesh.ledger.devnet.framework import APTOS_COIN
from cactus_mesh.ledger.devnet.refusals import Refused, not_found
from cactus_mesh.ledger.values import Json, encode_json, short_address, to_json

if TYPE_CHECKING:
    from cactus_mesh.identity import Address
    from cactus_mesh.ledger.devnet.chain import Chain
    from cactus_mesh.ledger.rules import State

COIN_STORE: Final = f"0x1::coin::CoinStore<{APTOS_COIN}>"
ACCOUNT: Final = "0x1::account::Account"
STATUSES: Final = ("pending", "authorised", "revoked")
"""The numbers that Move stores for them."""


def resources(chain: Chain, account: Address) -> dict[str, Json]:
    """Every account its number and coins; what the contract keeps at its own address, at servers' and in vaults.

    Its tables (tasks, nonces, disputes) are read with views alone.
    """
    state, held = chain.state, {}
    if chain.sequence(account) or account in state.coins:
        held[ACCOUNT] = account_resource(account, chain.sequence(account))
        held[COIN_STORE] = _coin_store(account, state.coins.get(account, 0))
    records = {f"{short_address(state.contract)}::{MODULE}::{name}": data for name, data in _records(state, account)}
    return held | records


def resource(chain: Chain, account: Address, kind: str) -> Json:
    """Raises `Refused`."""
    held = resources(chain, account)
    if kind not in held:
        raise not_found(
            "resource_not_found",
            f"Resource not found by Address({account}), Struct tag({kind[:200]}) and Ledger version({chain.version})",
        )
    return held[kind]


def to_bcs(state: State, kind: str, data: Json) -> bytes:
    return encode_json(kind, data, struct_types(state.contract))


def require_handle(data: Json, field: str) -> None:
    """Events of a handle are asked for.  Everything here emits module events, which have none: there are none to show.

    Raises `Refused` unless *field* is a handle.
    """
    if field not in data:
        raise not_found("struct_field_not_found", f"Struct field not found: {field[:100]}")
    if not isinstance(data[field], dict) or "guid" not in data[field]:
        raise Refused(
            400, "invalid_input", f"Deserialization error, field({field[:100]}) type is not EventHandle struct"
        )


def _records(state: State, account: Address) -> list[tuple[str, Json]]:
    found: list[tuple[str, Any]] = []
    if account == state.contract:
        found.append(("Config", state.config))
    if account in state.vaults:
        found += [("Client", each) for each in state.clients.values() if each.vault == account]
        found += [("Orchestrator", each) for each in state.orchestrators.values() if each.vault == account]
    shown = [(name, to_json(record)) for name, record in found]
    if account in state.servers:
        server = to_json(state.servers[account])
        shown.append(("Server", server | {"status": STATUSES.index(server["status"])}))
    return shown


def account_resource(account: Address, sequence: int) -> Json:
    return {
        "authentication_key": account,
        "coin_register_events": _handle(account, 0),
        "guid_creation_num": "4",
        "key_rotation_events": _handle(account, 1),
        "rotation_capability_offer": {"for": {"vec": []}},
        "sequence_number": str(sequence),
        "signer_capability_offer": {"for": {"vec": []}},
    }


def _coin_store(account: Address, coins: int) -> Json:
    return {
        "coin": {"value": str(coins)},
        "deposit_events": _handle(account, 2),
        "frozen": False,
        "withdraw_events": _handle(account, 3),
    }


def _handle(account: Address, number: int) -> Json:
    return {"counter": "0", "guid": {"id": {"addr": short_address(account), "creation_num": str(number)}}}
