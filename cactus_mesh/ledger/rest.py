"""The client's `Transport` over a full node's REST API: what the contract's calls and views are there.

The same for the embedded ledger, a local node and public networks: URL, contract and chain id are all that differs.
"""

from __future__ import annotations

import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from aptos_sdk.account_address import AccountAddress
from aptos_sdk.bcs import Serializer
from aptos_sdk.transactions import EntryFunction, ModuleId

from cactus_mesh.errors import LedgerAborted, LedgerRejected, MeshError, NoFunds
from cactus_mesh.ledger import contract as abi
from cactus_mesh.ledger.connect import base_url, http_client
from cactus_mesh.ledger.node import Node
from cactus_mesh.ledger.submitting import EXPIRY_SECONDS, Submitter, transaction_hash
from cactus_mesh.ledger.values import BadValue, Json, Value, address_bytes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx

    from cactus_mesh.identity import Address, Identity

__all__ = ["EXPIRY_SECONDS", "RestTransport", "open_rest", "transaction_hash"]

MAX_GAS: Final = 20_000
MAX_GAS_PER_ITEM: Final = 3_000
"""Upper limits, of which only what is used is paid.  By Aptos's published schedule; not measured on a real network."""

_ABORT: Final = re.compile(r"Move abort in (0x[0-9a-f]{1,64})::(\w{1,128}): (?:\w{1,128}\()?(0x[0-9a-f]{1,16})")
_POOR: Final = frozenset({("coin", 0x10006), ("fungible_asset", 0x10004), ("transaction_validation", 0x203ED)})
"""The framework's aborts for an account that holds too little, the last for the fee after the call."""


class RestTransport:
    """`cactus_mesh.ledger.client.Transport` over HTTP."""

    def __init__(self, node: Node, contract: Address) -> None:
        self._node = node
        self._submitter = Submitter(node)
        self._module = ModuleId(AccountAddress(address_bytes(contract)), abi.MODULE)

    async def call(self, signer: Identity, entry: str, arguments: tuple[Value, ...]) -> list[abi.Event]:
        function = self._function(entry, abi.ENTRY_TYPES[entry], arguments)
        items = len(arguments[0]) if entry == "settle_batch" else 0
        executed = await self._submitter.run(signer, function, MAX_GAS + items * MAX_GAS_PER_ITEM)
        with self._node.understanding():
            if not executed["success"]:
                raise self._failure(str(executed["vm_status"]), entry)
            events = [event for event in executed["events"] if self._ours(event["type"])]
            return [(event["type"].split("::")[2], event["data"]) for event in events]

    async def view(self, function: str, arguments: tuple[Value, ...]) -> Json:
        encoder = Serializer()  # type: ignore[no-untyped-call]
        self._function(function, abi.VIEW_TYPES[function], arguments).serialize(encoder)
        answer = await self._node.ask_present("POST", "view", encoder.output(), "view_function")
        if answer.status != 200:
            raise LedgerRejected(
                f"the ledger at {self._node.base} cannot answer {function} of the contract {self._module}: "
                f"{answer.message}; check that the contract's address is right for this chain"
            )
        with self._node.understanding():
            (result,) = answer.json()
            if function not in abi.OPTIONAL_VIEWS:
                return result
            return result["vec"][0] if result["vec"] else None

    async def balance(self, account: Address) -> int:
        return await self._submitter.balance(account)

    def _function(self, name: str, types: tuple[str, ...], arguments: tuple[Value, ...]) -> EntryFunction:
        try:
            return EntryFunction(self._module, name, [], abi.encode_arguments(types, arguments))
        except BadValue as error:
            raise LedgerRejected(f"{name} cannot be called like this: {error}") from None

    def _failure(self, vm_status: str, entry: str) -> MeshError:
        """The error for a transaction that ran and failed.  A node may name the abort code's constant or not."""
        found = _ABORT.search(vm_status)
        if found is None:
            return LedgerAborted(f"{entry} failed on the ledger: {vm_status[:300]}")
        number = int(found[3], 16)
        if self._ours(f"{found[1]}::{found[2]}"):
            return abi.error_of(number, entry)
        if int(found[1], 16) == 1 and (found[2], number) in _POOR:
            return NoFunds(f"{entry} needs more coins than the signing account holds, with the fee; fund it")
        return LedgerAborted(f"{entry} failed on the ledger: {vm_status[:300]}", number)

    def _ours(self, name: str) -> bool:
        """Whether a module or one of its types is the contract's; nodes write addresses with and without zeros."""
        address, module, *_ = name.split("::")
        return module == abi.MODULE and address_bytes(address) == self._module.address.address


@asynccontextmanager
async def open_rest(
    url: str, contract: Address, chain_id: int, network: httpx.AsyncBaseTransport | None = None
) -> AsyncIterator[RestTransport]:
    """*network* replaces the real one.  Raises `LedgerDown`, `LedgerWrongChain`."""
    base = base_url(url)
    async with http_client(base, network) as http:
        node = Node(http, f"{base}/v1", chain_id)
        await node.check_chain()
        yield RestTransport(node, contract)
