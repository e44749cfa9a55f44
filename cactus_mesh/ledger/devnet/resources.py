"""What lies at an address: resources as a full node shows them, in JSON and in BCS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from cactus_mesh.ledger.contract import MODULE
from cactus_mesh.ledger.devnet.abi import struct_types
from cactus_mesh.ledger.devnet.framework import APTOS_COIN, COIN_DEPOSIT, COIN_WITHDRAW
from cactus_mesh.ledger.devnet.refusals import bad_input, not_found
from cactus_mesh.ledger.devnet.shapes import STREAMS
from cactus_mesh.ledger.values import Json, encode_json, short_address, to_json

if TYPE_CHECKING:
    from cactus_mesh.identity import Address
    from cactus_mesh.ledger.devnet.chain import Chain
    from cactus_mesh.ledger.devnet.store import Store
    from cactus_mesh.ledger.rules import State

COIN_STORE: Final = f"0x1::coin::CoinStore<{APTOS_COIN}>"
ACCOUNT: Final = "0x1::account::Account"
STATUSES: Final = ("pending", "authorised", "revoked")
"""The numbers that Move stores for them."""


def resources(chain: Chain, store: Store, account: Address) -> dict[str, Json]:
    """Every account its number and coins; what the contract keeps at its own address, at servers' and in vaults.

    Its tables (tasks, nonces, disputes) are read with views alone.
    """
    state, held = chain.state, {}
    if chain.sequence(account) or account in state.coins:
        held[ACCOUNT] = account_resource(account, chain.sequence(account))
        held[COIN_STORE] = _coin_store(store, account, state.coins.get(account, 0))
    records = {f"{short_address(state.contract)}::{MODULE}::{name}": data for name, data in _records(state, account)}
    return held | records


def resource(chain: Chain, store: Store, account: Address, kind: str) -> Json:
    """Raises `Refused`."""
    held = resources(chain, store, account)
    if kind not in held:
        raise not_found(
            "resource_not_found",
            f"Resource not found by Address({account}), Struct tag({kind[:200]}) and Ledger version({chain.version})",
        )
    return held[kind]


def to_bcs(state: State, kind: str, data: Json) -> bytes:
    return encode_json(kind, data, struct_types(state.contract))


def stream_of(data: Json, field: str) -> int:
    """The number of the stream of events whose handle is this field of a resource.  Raises `Refused`."""
    if field not in data:
        raise not_found("struct_field_not_found", f"Struct field not found: {field[:100]}")
    if not isinstance(data[field], dict) or "guid" not in data[field]:
        raise bad_input(f"Deserialization error, field({field[:100]}) type is not a EventHandle struct")
    return int(data[field]["guid"]["id"]["creation_num"])


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


def _coin_store(store: Store, account: Address, coins: int) -> Json:
    deposits, withdrawals = STREAMS[COIN_DEPOSIT], STREAMS[COIN_WITHDRAW]
    return {
        "coin": {"value": str(coins)},
        "deposit_events": _handle(account, deposits, store.coin_event_count(account, deposits)),
        "frozen": False,
        "withdraw_events": _handle(account, withdrawals, store.coin_event_count(account, withdrawals)),
    }


def _handle(account: Address, stream: int, count: int = 0) -> Json:
    return {"counter": str(count), "guid": {"id": {"addr": short_address(account), "creation_num": str(stream)}}}
