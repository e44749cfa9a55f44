"""The unmodified aptos-sdk under asyncio: ``python -m tests.interop.python_sdk URL CONTRACT`` of an embedded ledger.

Each scenario prints its name when it is over; the first that goes wrong ends the program with a traceback.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from aptos_sdk.account import Account, AccountAddress
from aptos_sdk.async_client import ApiError, FaucetClient, ResourceNotFound, RestClient
from aptos_sdk.authenticator import Authenticator, FeePayerAuthenticator
from aptos_sdk.bcs import Deserializer, Serializer
from aptos_sdk.transactions import (
    EntryFunction,
    FeePayerRawTransaction,
    SignedTransaction,
    TransactionArgument,
    TransactionPayload,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

COIN = 10**8


@dataclass
class Scene:
    client: RestClient
    faucet: FaucetClient
    contract: str

    @property
    def module(self) -> str:
        return f"{self.contract}::cactus_payment"

    async def funded(self, make: Callable[[], Account] = Account.generate) -> Account:
        account = make()
        await self.faucet.fund_account(account.address(), 10 * COIN)
        return account

    def entry(self, name: str, *arguments: TransactionArgument) -> TransactionPayload:
        return TransactionPayload(EntryFunction.natural(self.module, name, [], list(arguments)))

    def deposit(self, account: Account, amount: int) -> TransactionPayload:
        key = TransactionArgument(account.public_key().to_crypto_bytes(), Serializer.to_bytes)
        return self.entry("deposit", key, TransactionArgument(amount, Serializer.u64))

    async def run(self, account: Account, payload: TransactionPayload) -> dict[str, Any]:
        signed = await self.client.create_bcs_signed_transaction(account, payload)
        return await self.client.submit_and_wait_for_bcs_transaction(signed)


async def funds_simulates_transfers_and_waits(scene: Scene) -> None:
    client = scene.client
    for make in (Account.generate, Account.generate_secp256k1_ecdsa):
        alice, bob = await scene.funded(make), Account.generate()
        transfer = EntryFunction.natural(
            "0x1::aptos_account",
            "transfer",
            [],
            [TransactionArgument(bob.address(), Serializer.struct), TransactionArgument(7, Serializer.u64)],
        )
        raw = await client.create_bcs_transaction(alice, TransactionPayload(transfer))
        (simulated,) = await client.simulate_transaction(raw, alice, estimate_gas_usage=True)
        assert simulated["success"], simulated
        hash_ = await client.bcs_transfer(alice, bob.address(), 7)
        await client.wait_for_transaction(hash_)
        assert await client.account_balance(bob.address()) == 7
        status = await client.account_transaction_sequence_number_status(alice.address(), 0)
        assert status, "the transaction with number 0 is known"


async def reads_resources_modules_and_events(scene: Scene) -> None:
    client, alice = scene.client, await scene.funded()
    contract = AccountAddress.from_str(scene.contract)
    config = await client.account_resource(contract, f"{scene.module}::Config")
    assert config["data"]["paused"] is False
    assert len(await client.account_resources(alice.address())) == 2
    abi = (await client.account_module(contract, "cactus_payment"))["abi"]
    assert "settle_batch" in {each["name"] for each in abi["exposed_functions"]}
    assert (await client.account_modules(contract))[0]["abi"]["address"] == scene.contract
    executed = await scene.run(alice, scene.deposit(alice, 500))
    assert [event["type"].split("::")[-1] for event in executed["events"]] == ["ClientRegistered", "Deposited"]
    store = "0x1::coin::CoinStore<0x1::aptos_coin::AptosCoin>"
    (given,) = await client.events_by_event_handle(alice.address(), store, "deposit_events")
    assert given["data"]["amount"] == str(10 * COIN)
    assert await client.event_by_creation_number(alice.address(), 2) == [given]
    with pytest.raises(ResourceNotFound):
        await client.account_resource(alice.address(), "0x1::a::B")


async def views_in_both_forms(scene: Scene) -> None:
    client, alice = scene.client, await scene.funded()
    await scene.run(alice, scene.deposit(alice, 500))
    argument = TransactionArgument(alice.address(), Serializer.struct)
    (found,) = await client.view_bcs_payload(scene.module, "client", [], [argument])
    assert found["vec"][0]["deposit"] == "500"
    assert b'"deposit":"500"' in await client.view(f"{scene.module}::client", [], [str(alice.address())])
    asked = {"function": f"{scene.module}::client", "type_arguments": [], "arguments": [str(alice.address())]}
    reply = await client.client.post(f"{client.base_url}/view", json=asked, headers={"accept": "application/x-bcs"})
    reader = Deserializer(reply.content)
    assert (reader.uleb128(), reader.uleb128()) == (1, 1), "one value, and an Option is a vector of one"
    assert reader.to_bytes() == alice.public_key().to_crypto_bytes()


async def sees_aborts_and_refusals(scene: Scene) -> None:
    client, alice = scene.client, await scene.funded()
    hash_ = await client.submit_bcs_transaction(
        await client.create_bcs_signed_transaction(alice, scene.entry("withdraw"))
    )
    with pytest.raises(AssertionError, match=rf"Move abort in {scene.module}: E_NO_CLIENT\(0x60028\)"):
        await client.wait_for_transaction(hash_)
    poor = Account.generate()
    signed = await client.create_bcs_signed_transaction(poor, scene.entry("withdraw"), sequence_number=0)
    with pytest.raises(ApiError, match="INSUFFICIENT_BALANCE_FOR_TRANSACTION_FEE") as refused:
        await client.submit_bcs_transaction(signed)
    assert refused.value.status_code == 400


async def sponsors_a_fee(scene: Scene) -> None:
    client, sponsor, poor = scene.client, await scene.funded(), Account.generate()
    raw = await client.create_bcs_transaction(poor, scene.entry("register_server"), sequence_number=0)
    open_, known = FeePayerRawTransaction(raw, [], None), FeePayerRawTransaction(raw, [], sponsor.address())
    authenticator = FeePayerAuthenticator(
        poor.sign_transaction(open_), [], (sponsor.address(), sponsor.sign_transaction(known))
    )
    executed = await client.submit_and_wait_for_bcs_transaction(SignedTransaction(raw, Authenticator(authenticator)))
    fee = int(executed["gas_used"]) * int(executed["gas_unit_price"])
    assert await client.account_balance(sponsor.address()) == 10 * COIN - fee


async def two_agents_are_one_too_many(scene: Scene) -> None:
    client, alice, bob = scene.client, await scene.funded(), await scene.funded()
    signed = await client.create_multi_agent_bcs_transaction(alice, [bob], scene.entry("register_server"))
    hash_ = await client.submit_bcs_transaction(signed)
    with pytest.raises(AssertionError, match="NUMBER_OF_SIGNER_ARGUMENTS_MISMATCH"):
        await client.wait_for_transaction(hash_)


async def finds_transactions_and_blocks(scene: Scene) -> None:
    client, alice = scene.client, await scene.funded()
    executed = await scene.run(alice, scene.entry("register_server"))
    version = int(executed["version"])
    assert (await client.transaction_by_version(version))["hash"] == executed["hash"]
    assert (await client.blocks_by_version(version, with_transactions=True))["transactions"] == [executed]
    assert (await client.blocks_by_height(version))["block_height"] == str(version)
    assert [each["hash"] for each in await client.transactions_by_account(alice.address())] == [executed["hash"]]
    assert len(await client.transactions(start=1, limit=2)) == 2
    assert (await client.info())["chain_id"] == 202
    assert await client.current_timestamp() > 0


SCENARIOS: tuple[Callable[[Scene], Awaitable[None]], ...] = (
    funds_simulates_transfers_and_waits,
    reads_resources_modules_and_events,
    views_in_both_forms,
    sees_aborts_and_refusals,
    sponsors_a_fee,
    two_agents_are_one_too_many,
    finds_transactions_and_blocks,
)


async def main(url: str, contract: str) -> None:
    client = RestClient(f"{url}/v1")
    scene = Scene(client, FaucetClient(url, client), contract)
    for scenario in SCENARIOS:
        await scenario(scene)
        print(scenario.__name__, flush=True)
    await client.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
