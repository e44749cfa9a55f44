"""Answers about committed state: accounts, modules, events, transactions and blocks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from cactus_mesh.ledger.devnet import execution, shapes
from cactus_mesh.ledger.devnet.abi import contract_abis
from cactus_mesh.ledger.devnet.bcs import encode_type
from cactus_mesh.ledger.devnet.framework import APTOS_COIN, FRAMEWORK, module_abis
from cactus_mesh.ledger.devnet.queries import number, page, short_type, switched
from cactus_mesh.ledger.devnet.refusals import not_found
from cactus_mesh.ledger.devnet.resources import ACCOUNT, account_resource, resource, resources, stream_of, to_bcs
from cactus_mesh.ledger.values import Json, encode, uleb128

if TYPE_CHECKING:
    from cactus_mesh.identity import Address
    from cactus_mesh.ledger.devnet.chain import Chain
    from cactus_mesh.ledger.devnet.http import Request
    from cactus_mesh.ledger.devnet.store import Store
    from cactus_mesh.ledger.devnet.transactions import Submission

_COIN_ASSETS: Final = frozenset({APTOS_COIN, "0xa"})

Answer = Json | bytes | tuple[Json, bytes] | None
"""JSON, JSON as bytes, JSON and BCS, or None when there is no such thing to ask for."""


def account(chain: Chain, store: Store, account: Address, rest: list[str], request: Request) -> Answer:
    """What lies at, or came from, an account.  Raises `Refused`."""
    state = chain.state
    match rest:
        case []:
            shown = {"sequence_number": str(chain.sequence(account)), "authentication_key": account}
            return shown, to_bcs(state, ACCOUNT, account_resource(account, chain.sequence(account)))
        case ["balance", asset]:
            coins = state.coins.get(account, 0) if short_type(asset) in _COIN_ASSETS else 0
            return coins, encode("u64", coins)
        case ["resources"]:
            held = resources(chain, store, account)
            return [{"type": kind, "data": data} for kind, data in held.items()], _packed(chain, held)
        case ["resource", kind]:
            data = resource(chain, store, account, short := short_type(kind))
            return {"type": short, "data": data}, to_bcs(state, short, data)
        case ["modules"]:
            return [_module(each) for each in _abis(chain, account).values()]
        case ["module", name]:
            abi = _abis(chain, account).get(name)
            if abi is None:
                raise not_found(
                    "module_not_found", f"Module not found by Address({account}), Module name({name[:100]})"
                )
            return _module(abi)
        case ["events", stream]:
            return _events(store, account, number(stream), request)
        case ["events", kind, field]:
            held = resource(chain, store, account, short_type(kind))
            return _events(store, account, stream_of(held, field), request)
        case ["transactions"]:
            start, limit = page(request)
            return _listed(store.of_sender(account, start, limit))
    return None


def _events(store: Store, account: Address, stream: int, request: Request) -> list[Json]:
    """Deposits and withdrawals of coins; all else emits events of modules alone, which are in no stream."""
    start, limit = page(request)
    return [shapes.coin_event(account, stream, each) for each in store.coin_events(account, stream, start, limit)]


def _packed(chain: Chain, held: dict[str, Json]) -> bytes:
    """A map of struct tags to resources."""
    entries = sorted((encode_type(kind)[1:], to_bcs(chain.state, kind, data)) for kind, data in held.items())
    return uleb128(len(entries)) + b"".join(tag + uleb128(len(data)) + data for tag, data in entries)


def _abis(chain: Chain, account: Address) -> dict[str, Json]:
    if account == chain.state.contract:
        return contract_abis(account)
    return module_abis() if account == FRAMEWORK else {}


def _module(abi: Json) -> Json:
    """The rules run in Python: there is no bytecode to show."""
    return {"bytecode": "0x", "abi": abi}


def _listed(pieces: list[bytes]) -> bytes:
    return b"[" + b",".join(pieces) + b"]"


# --- transactions and blocks -------------------------------------------------------------------------------------


def latest(chain: Chain, store: Store, request: Request) -> bytes:
    start, limit = page(request)
    if start is None:
        start = max(chain.version + 1 - limit, 0)
    if start > chain.version:
        raise not_found("transaction_not_found", f"Transaction not found by Transaction version({start})")
    first = [shapes.encode(shapes.genesis())] if start == 0 else []
    return _listed(first + store.page(max(start, 1), limit - len(first)))


def by_hash(chain: Chain, store: Store, wanted: str) -> Json | bytes | None:
    executed = store.by_hash(wanted)
    if executed is not None:
        return executed
    parked = chain.parked_by_hash(wanted)
    return None if parked is None else shapes.pending(parked)


def by_version(store: Store, version: int) -> bytes:
    found = shapes.encode(shapes.genesis()) if version == 0 else store.by_version(version)
    if found is None:
        raise not_found("transaction_not_found", f"Transaction not found by Transaction version({version})")
    return found


def block(store: Store, height: int, whole: bool) -> bytes:
    timestamp_us = store.timestamp_us(height) if height else 0
    if timestamp_us is None:
        raise not_found("block_not_found", f"Block not found by block height({height})")
    return shapes.block(height, timestamp_us, [by_version(store, height)] if whole else None)


def estimated(chain: Chain, submission: Submission, request: Request) -> Submission:
    """*submission* with the gas price and limit that the request asks the ledger to choose."""
    if switched(request, "estimate_prioritized_gas_unit_price"):
        submission = replace(submission, gas_price=execution.PRIORITY_GAS_PRICE)
    elif switched(request, "estimate_gas_unit_price"):
        submission = replace(submission, gas_price=execution.MIN_GAS_PRICE)
    if switched(request, "estimate_max_gas_amount"):
        affordable = chain.state.coins.get(submission.payer, 0) // max(submission.gas_price, 1)
        submission = replace(submission, max_gas=min(affordable, execution.MAX_GAS))
    return submission
