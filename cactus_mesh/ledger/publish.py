"""Puts the compiled contract onto a chain: checks the Aptos CLI's payload and whose account it is for, and sends it.

Publishing was never run against a real network by its authors; docs/contract.md says what was tested instead.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from aptos_sdk.account_address import AccountAddress
from aptos_sdk.transactions import EntryFunction, ModuleId

from cactus_mesh.errors import LedgerAborted, LedgerDown, LedgerRejected, NoFunds, PackageMalformed, UsageError
from cactus_mesh.ledger.client import ContractLedger, read_chain
from cactus_mesh.ledger.connect import base_url, http_client
from cactus_mesh.ledger.contract import MODULE, encode_arguments
from cactus_mesh.ledger.node import Node
from cactus_mesh.ledger.rest import RestTransport
from cactus_mesh.ledger.submitting import Submitter

if TYPE_CHECKING:
    import httpx

    from cactus_mesh.identity import Address, Identity
    from cactus_mesh.ports import Governance

FUNCTION: Final = "0x1::code::publish_package_txn"
MODULES: Final = frozenset({MODULE, "rewards", "signed", "vaults"})
MAX_PAYLOAD_BYTES: Final = 60_000
"""A transaction has at most 64 KiB on Aptos; signature and the rest need a few hundred bytes."""
MAX_GAS: Final = 500_000
"""An upper limit, of which only what is used is paid; not measured on a real network."""
MAX_FILE_BYTES: Final = 1_000_000
_MAGIC: Final = bytes.fromhex("a11ceb0b")
"""How compiled Move modules begin."""


@dataclass(frozen=True, slots=True)
class Package:
    """What `publish_package_txn` takes."""

    metadata: bytes
    modules: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Published:
    chain_id: int
    contract: Address
    transaction: str
    governance: Governance


def read_package(data: bytes) -> Package:
    """The payload that ``aptos move build-publish-payload`` writes.  Raises `PackageMalformed`."""
    try:
        payload = json.loads(data)
        function, (metadata, modules) = payload["function_id"], [argument["value"] for argument in payload["args"]]
        package = Package(_hex(metadata), tuple(map(_hex, modules)))
    except (ValueError, KeyError, TypeError) as error:
        raise PackageMalformed(
            f"this is no payload of a package ({type(error).__name__}); make it in contracts/ with: aptos move "
            "build-publish-payload --named-addresses cactus_mesh=0x<account> --json-output-file payload.json"
        ) from None
    if function != FUNCTION:
        raise PackageMalformed(f"the payload calls {function!r}, not {FUNCTION}; make it with build-publish-payload")
    return package


def _hex(text: Any) -> bytes:
    if not isinstance(text, str):
        raise TypeError("no hex string")
    return bytes.fromhex(text.removeprefix("0x"))


def check_package(package: Package, account: Address) -> None:
    """Raises `PackageMalformed` for anything but this contract, compiled for *account*, in one transaction."""
    if not package.metadata or not all(module.startswith(_MAGIC) for module in package.modules):
        raise PackageMalformed("the payload holds no compiled Move modules; compile it with the Aptos CLI")
    missing = [name for name in sorted(MODULES) if not any(name.encode() in module for module in package.modules)]
    if missing or len(package.modules) != len(MODULES):
        raise PackageMalformed(
            f"the payload's {len(package.modules)} modules are not those of contracts/: {', '.join(sorted(MODULES))}"
        )
    if not all(bytes.fromhex(account[2:]) in module for module in package.modules):
        raise PackageMalformed(
            f"the package was compiled for another account than the signing one; compile it with: --named-addresses "
            f"cactus_mesh={account}"
        )
    size = len(package.metadata) + sum(map(len, package.modules))
    if size > MAX_PAYLOAD_BYTES:
        raise PackageMalformed(
            f"the package has {size} bytes, more than one transaction holds ({MAX_PAYLOAD_BYTES}); compile it with "
            "--included-artifacts none, or publish it in pieces with: aptos move publish --chunked-publish"
        )


async def chain_at(url: str, network: httpx.AsyncBaseTransport | None = None) -> int:
    """The chain id of the node at *url*.  Raises `UsageError` at an embedded ledger, `LedgerDown`."""
    import httpx

    base = base_url(url)
    try:
        async with http_client(base, network) as http:
            reply = await http.get(f"{base}/v1")
            chain_id = reply.json()["chain_id"]
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        raise LedgerDown(f"no full node answers at {base} ({type(error).__name__}); check the URL") from None
    if reply.headers.get("x-cactus-devnet") == "1":
        raise UsageError(
            f"{base} is an embedded ledger: it has the contract built in, and there is nothing to deploy; name a "
            "chain's full node with --ledger"
        )
    if type(chain_id) is not int or not 0 < chain_id < 256:
        raise LedgerDown(f"what answers at {base} does not speak like an Aptos full node; check the URL")
    return chain_id


async def publish(
    url: str, signer: Identity, package: Package, *, upgrade: bool, network: httpx.AsyncBaseTransport | None = None
) -> Published:
    """Publish and look whether the contract answers.  *network* replaces the real one."""
    chain_id = await chain_at(url, network)
    base = base_url(url)
    async with http_client(base, network) as http:
        node = Node(http, f"{base}/v1", chain_id)
        submitter = Submitter(node)
        await _refuse_surprise(node, signer.address, upgrade=upgrade)
        if not await submitter.balance(signer.address):
            raise NoFunds(f"{signer.address} has no coins for the fee; send it some, about 1 APT, and try again")
        executed = await submitter.run(signer, _publishing(package), MAX_GAS)
        with node.understanding():
            if not executed["success"]:
                raise LedgerAborted(f"the package was refused on the ledger: {executed['vm_status']}")
            transaction = str(executed["hash"])
        transport = RestTransport(node, signer.address)
        ledger = ContractLedger(transport, await read_chain(transport, chain_id, signer.address))
        return Published(chain_id, signer.address, transaction, await ledger.governance())


async def _refuse_surprise(node: Node, account: Address, *, upgrade: bool) -> None:
    """New code over old only when that is meant."""
    answer = await node.ask("GET", f"accounts/{account}/module/{MODULE}")
    if answer.status not in (200, 404):
        node.refused(answer, "account's modules")
    if upgrade and answer.status == 404:
        raise LedgerRejected(f"{account} holds no contract to upgrade; leave --upgrade out")
    if answer.status == 200 and not upgrade:
        raise LedgerRejected(f"{account} holds the contract already; to publish new code over it add --upgrade")


def _publishing(package: Package) -> EntryFunction:
    arguments = encode_arguments(("vector<u8>", "vector<vector<u8>>"), (package.metadata, list(package.modules)))
    return EntryFunction(ModuleId(AccountAddress.from_str_relaxed("0x1"), "code"), "publish_package_txn", [], arguments)
