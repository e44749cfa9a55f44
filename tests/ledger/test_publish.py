"""Publishing the contract: what is checked before, and the exact transaction; no real chain was at hand."""

from __future__ import annotations

import json

import httpx
import pytest
from aptos_sdk.bcs import Deserializer
from aptos_sdk.transactions import SignedTransaction

from cactus_mesh.errors import LedgerAborted, LedgerDown, LedgerRejected, NoFunds, PackageMalformed, UsageError
from cactus_mesh.ledger.contract import decode_arguments
from cactus_mesh.ledger.devnet import open_devnet
from cactus_mesh.ledger.publish import (
    FUNCTION,
    MAX_PAYLOAD_BYTES,
    Package,
    chain_at,
    check_package,
    publish,
    read_package,
)
from cactus_mesh.ledger.rules import BOUNDS
from cactus_mesh.ledger.submitting import transaction_hash
from tests.ledger.world import ADMIN, STRANGER

URL = "http://node.example"
NAMES = ("rewards", "signed", "vaults", "cactus_payment")


def module(name, account=ADMIN.address):
    return bytes.fromhex("a11ceb0b") + b"\x07" + name.encode() + bytes.fromhex(account[2:])


GOOD = Package(b"metadata", tuple(map(module, NAMES)))


def payload(function=FUNCTION, metadata="0x6d657461", modules=("0xa11ceb0b",)):
    """As ``aptos move build-publish-payload`` writes it."""
    arguments = [{"type": "hex", "value": metadata}, {"type": "hex", "value": list(modules)}]
    return {"function_id": function, "type_args": [], "args": arguments}


def test_the_clis_payload_is_read():
    assert read_package(json.dumps(payload()).encode()) == Package(b"meta", (bytes.fromhex("a11ceb0b"),))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b"null",
        *(
            json.dumps(each).encode()
            for each in (
                payload(function="0x1::aptos_account::transfer"),
                payload(metadata=7),
                payload(metadata="0xzz"),
                payload(modules=[7]),
                payload() | {"args": []},
                payload() | {"args": {}},
                payload() | {"args": [{}, {}]},
            )
        ),
    ],
)
def test_what_is_no_payload_is_refused(data):
    with pytest.raises(PackageMalformed):
        read_package(data)


@pytest.mark.parametrize(
    ("package", "says"),
    [
        (Package(b"", GOOD.modules), "no compiled Move modules"),
        (Package(b"m", (b"text",)), "no compiled Move modules"),
        (Package(b"m", GOOD.modules[1:]), "not those of contracts/"),
        (Package(b"m", (*GOOD.modules, module("thief"))), "not those of contracts/"),
        (Package(b"m", tuple(module(name, STRANGER.address) for name in NAMES)), f"cactus_mesh={ADMIN.address}"),
        (Package(bytes(MAX_PAYLOAD_BYTES), GOOD.modules), "--chunked-publish"),
    ],
)
def test_a_package_that_would_surprise_is_refused(package, says):
    check_package(GOOD, ADMIN.address)
    with pytest.raises(PackageMalformed, match=says):
        check_package(package, ADMIN.address)


class Chain:
    """What a full node answers around one publication."""

    def __init__(self, *, published=False, coins=10**9, works=True):
        self.published = published
        self.coins = coins
        self.works = works
        self.sent: list[bytes] = []

    def network(self):
        return httpx.MockTransport(self.answer)

    async def answer(self, request):
        status, found = self.reply(request.method, request.url.path.removeprefix("/v1").strip("/"), request)
        headers = {"x-aptos-chain-id": "2", "x-aptos-ledger-timestampusec": "1800000000000000"}
        return httpx.Response(status, json=found, headers=headers)

    def reply(self, method, path, request):
        if method == "POST" and path == "transactions":
            self.sent.append(request.content)
            return 202, {"hash": transaction_hash(request.content)}
        if path == "view":
            return 200, [_config() if b"config" in request.content else [str(each.low) for each in BOUNDS.values()]]
        if path == "":
            return 200, {"chain_id": 2}
        if "/module/" in path:
            return (200, {"bytecode": "0x"}) if self.published else (404, {"error_code": "module_not_found"})
        if "/balance/" in path:
            return 200, self.coins
        if path.startswith("accounts/"):
            return 200, {"sequence_number": "5"}
        if path == "estimate_gas_price":
            return 200, {"gas_estimate": 100}
        if path.startswith("transactions/"):
            return 200, {
                "type": "user_transaction", "hash": path.split("/")[-1], "version": "9", "success": self.works,
                "vm_status": "Executed successfully" if self.works else "Move abort in 0x1::code: 0x80001",
                "events": [],
            }  # fmt: skip
        raise AssertionError(f"{method} {path}")


def _config():
    return {
        "admin": ADMIN.address, "pending_admin": {"vec": []}, "arbiter": ADMIN.address, "treasury": ADMIN.address,
        "asset": "0xa", "paused": False,
    }  # fmt: skip


async def test_the_transaction_holds_the_packages_very_bytes():
    chain = Chain()
    done = await publish(URL, ADMIN, GOOD, upgrade=False, network=chain.network())
    assert (done.chain_id, done.contract, done.governance.admin) == (2, ADMIN.address, ADMIN.address)
    (sent,) = chain.sent
    assert done.transaction == transaction_hash(sent)
    signed = SignedTransaction.deserialize(Deserializer(sent))
    assert signed.verify()
    raw = signed.transaction
    assert (str(raw.sender), raw.sequence_number, raw.chain_id) == (ADMIN.address, 5, 2)
    function = raw.payload.value
    assert f"{function.module}::{function.function}" == FUNCTION
    assert decode_arguments(("vector<u8>", "vector<vector<u8>>"), function.args) == [GOOD.metadata, list(GOOD.modules)]


@pytest.mark.parametrize(
    ("chain", "upgrade", "error"),
    [
        (Chain(published=True), False, LedgerRejected),
        (Chain(published=False), True, LedgerRejected),
        (Chain(coins=0), False, NoFunds),
        (Chain(works=False), False, LedgerAborted),
    ],
)
async def test_a_publication_that_fails_says_why(chain, upgrade, error):
    with pytest.raises(error):
        await publish(URL, ADMIN, GOOD, upgrade=upgrade, network=chain.network())
    assert len(chain.sent) == (error is LedgerAborted)


async def test_new_code_over_old_only_when_asked_for():
    chain = Chain(published=True)
    await publish(URL, ADMIN, GOOD, upgrade=True, network=chain.network())
    assert len(chain.sent) == 1


async def test_an_embedded_ledger_has_the_contract_built_in(tmp_path):
    async with open_devnet(tmp_path) as devnet:
        with pytest.raises(UsageError, match="built in"):
            await publish(devnet.url, ADMIN, GOOD, upgrade=False)


@pytest.mark.parametrize("found", [{}, [], {"chain_id": "2"}, {"chain_id": 0}, {"chain_id": True}])
async def test_what_is_no_full_node_is_named(found):
    with pytest.raises(LedgerDown):
        await chain_at(URL, httpx.MockTransport(lambda _: httpx.Response(200, json=found)))
