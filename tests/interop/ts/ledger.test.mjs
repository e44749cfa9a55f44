// The unmodified TypeScript SDK against an embedded ledger.  Everything comes from the environment: CACTUS_LEDGER (its
// URL), CACTUS_CONTRACT, CACTUS_ADMIN (the administrator's private key, AIP-80), CACTUS_MODULES (a node_modules folder).
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { createRequire } from "node:module";
import { test } from "node:test";

const require = createRequire(`${process.env.CACTUS_MODULES}/`);
const {
  Account, AccountAddress, Aptos, AptosApiError, AptosConfig, Deserializer, Ed25519PrivateKey, Hex, Network, Serializer,
  SigningSchemeInput, U64,
} = require("@aptos-labs/ts-sdk");

const url = process.env.CACTUS_LEDGER;
const contract = AccountAddress.from(process.env.CACTUS_CONTRACT);
const module_ = `${contract}::cactus_payment`;
const aptos = new Aptos(new AptosConfig({ network: Network.CUSTOM, fullnode: `${url}/v1`, faucet: url }));
const COIN = 100_000_000;
const APT = "0x1::aptos_coin::AptosCoin";
const admin = Account.fromPrivateKey({ privateKey: new Ed25519PrivateKey(process.env.CACTUS_ADMIN) });

const balance = (account) => aptos.getAccountAPTAmount({ accountAddress: account.accountAddress });

async function funded(options = {}) {
  const account = Account.generate(options);
  await aptos.fundAccount({ accountAddress: account.accountAddress, amount: 100 * COIN, options: { waitForIndexer: false } });
  return account;
}

const build = (sender, name, functionArguments = [], more = {}) =>
  aptos.transaction.build.simple({
    sender: sender.accountAddress, data: { function: name.includes("::") ? name : `${module_}::${name}`, functionArguments }, ...more,
  });

async function run(signer, name, functionArguments = []) {
  const transaction = await build(signer, name, functionArguments);
  const { hash } = await aptos.signAndSubmitTransaction({ signer, transaction });
  return aptos.waitForTransaction({ transactionHash: hash });
}

const view = async (name, functionArguments) =>
  (await aptos.view({ payload: { function: `${module_}::${name}`, functionArguments } }))[0];

const bytes = (account) => account.publicKey.toUint8Array();
const names = (executed) => executed.events.map((event) => event.type.split("::").at(-1));

const schemes = {
  "a legacy Ed25519 account": {},
  "a single-key Ed25519 account": { scheme: SigningSchemeInput.Ed25519, legacy: false },
  "a single-key secp256k1 account": { scheme: SigningSchemeInput.Secp256k1Ecdsa },
};
for (const [who, options] of Object.entries(schemes)) {
  test(`${who} is funded, simulates, transfers and waits`, async () => {
    const [alice, bob] = [await funded(options), Account.generate()];
    const transaction = await aptos.transferCoinTransaction({ sender: alice.accountAddress, recipient: bob.accountAddress, amount: 7 });
    const [simulated] = await aptos.transaction.simulate.simple({ signerPublicKey: alice.publicKey, transaction });
    assert.deepEqual([simulated.success, simulated.vm_status], [true, "Executed successfully"]);
    assert.equal(await balance(bob), 0);
    const { hash } = await aptos.signAndSubmitTransaction({ signer: alice, transaction });
    const executed = await aptos.waitForTransaction({ transactionHash: hash });
    assert.equal(executed.gas_used, simulated.gas_used);
    assert.equal(await balance(bob), 7);
    assert.equal(await balance(alice), 100 * COIN - 7 - executed.gas_used * executed.gas_unit_price);
    assert.equal((await aptos.getAccountInfo({ accountAddress: alice.accountAddress })).sequence_number, "1");
  });
}

test("a simulation needs no key, and estimates price and limit", async () => {
  const alice = await funded();
  const transaction = await build(alice, "0x1::aptos_account::transfer", [alice.accountAddress, 1]);
  const options = { estimateGasUnitPrice: true, estimateMaxGasAmount: true };
  const [simulated] = await aptos.transaction.simulate.simple({ transaction, options });
  assert.equal(simulated.success, true);
  const short = await aptos.transaction.simulate.simple({ transaction: await build(alice, "withdraw") });
  assert.match(short[0].vm_status, /E_NO_CLIENT\(0x60028\)/);
});

test("the ABI builds transactions and refuses wrong arguments before they are sent", async () => {
  const alice = await funded();
  const { abi } = await aptos.getAccountModule({ accountAddress: contract, moduleName: "cactus_payment" });
  assert.equal(abi.exposed_functions.filter((each) => each.is_entry).length, 30);
  assert.ok((await aptos.getAccountModules({ accountAddress: contract })).length >= 1);
  await assert.rejects(build(alice, "deposit", ["0x00"]), /Too few arguments/);
});

test("resources are read in JSON", async () => {
  const alice = await funded();
  const config = await aptos.getAccountResource({ accountAddress: contract, resourceType: `${module_}::Config` });
  assert.deepEqual([config.admin, config.pending_admin], [admin.accountAddress.toString(), { vec: [] }]);
  const held = await aptos.getAccountResources({ accountAddress: alice.accountAddress });
  assert.deepEqual(held.map((each) => each.type), ["0x1::account::Account", `0x1::coin::CoinStore<${APT}>`]);
});

test("views return structs and options, and answer in JSON and BCS", async () => {
  const alice = await funded();
  assert.deepEqual(await view("client", [alice.accountAddress]), { vec: [] });
  const executed = await run(alice, "deposit", [bytes(alice), 5_000]);
  assert.deepEqual(names(executed), ["ClientRegistered", "Deposited"]);
  const { vec: [client] } = await view("client", [alice.accountAddress]);
  assert.deepEqual([client.deposit, client.withdrawals], ["5000", []]);
  const asked = { function: `${module_}::client`, type_arguments: [], arguments: [alice.accountAddress.toString()] };
  assert.deepEqual(await aptos.viewJson({ payload: { function: asked.function, functionArguments: asked.arguments } }), [{ vec: [client] }]);
  const reply = await fetch(`${url}/v1/view`, {
    method: "POST", body: JSON.stringify(asked), headers: { "content-type": "application/json", accept: "application/x-bcs" },
  });
  const inner = new Deserializer(new Uint8Array(await reply.arrayBuffer()));
  assert.equal(inner.deserializeUleb128AsU32(), 1, "one value");
  assert.equal(inner.deserializeUleb128AsU32(), 1, "an Option is a vector of one");
  assert.deepEqual(inner.deserializeBytes(), bytes(alice));
  assert.equal(inner.deserialize(AccountAddress).toString(), client.vault);
  assert.equal(inner.deserialize(U64).value, 5000n);
});

test("an abort is seen with module and code", async () => {
  const alice = await funded();
  await assert.rejects(run(alice, "withdraw"), (error) => {
    assert.ok(error.transaction.vm_status.startsWith(`Move abort in ${module_}: E_NO_CLIENT(0x60028)`));
    return true;
  });
});

test("a refusal is seen with its VM code", async () => {
  const poor = Account.generate();
  const transaction = await build(poor, "withdraw");
  await assert.rejects(aptos.signAndSubmitTransaction({ signer: poor, transaction }), (error) => {
    assert.ok(error instanceof AptosApiError);
    assert.deepEqual([error.status, error.data.error_code, error.data.vm_error_code], [400, "vm_error", 5]);
    return true;
  });
});

test("a sponsor pays the fee of an account without coins", async () => {
  const [sponsor, poor] = [await funded({ scheme: SigningSchemeInput.Ed25519, legacy: false }), Account.generate()];
  const transaction = await build(poor, "register_server", [], { withFeePayer: true });
  const [simulated] = await aptos.transaction.simulate.simple({
    signerPublicKey: poor.publicKey, feePayerPublicKey: sponsor.publicKey,
    transaction: Object.assign(await build(poor, "register_server", [], { withFeePayer: true }), { feePayerAddress: sponsor.accountAddress }),
  });
  assert.equal(simulated.success, true);
  const senderAuthenticator = aptos.transaction.sign({ signer: poor, transaction });
  const feePayerAuthenticator = aptos.transaction.signAsFeePayer({ signer: sponsor, transaction });
  const { hash } = await aptos.transaction.submit.simple({ transaction, senderAuthenticator, feePayerAuthenticator });
  const executed = await aptos.waitForTransaction({ transactionHash: hash });
  assert.equal(await balance(sponsor), 100 * COIN - executed.gas_used * executed.gas_unit_price);
  assert.equal((await view("server", [poor.accountAddress])).vec[0].status, "pending");
});

test("two agents are one too many for an entry that takes one signer", async () => {
  const [alice, bob] = [await funded(), await funded()];
  const transaction = await aptos.transaction.build.multiAgent({
    sender: alice.accountAddress, secondarySignerAddresses: [bob.accountAddress],
    data: { function: "0x1::aptos_account::transfer", functionArguments: [bob.accountAddress, 1] },
  });
  const { hash } = await aptos.transaction.submit.multiAgent({
    transaction, senderAuthenticator: aptos.transaction.sign({ signer: alice, transaction }),
    additionalSignersAuthenticators: [aptos.transaction.sign({ signer: bob, transaction })],
  });
  await assert.rejects(aptos.waitForTransaction({ transactionHash: hash }), /NUMBER_OF_SIGNER_ARGUMENTS_MISMATCH/);
});

test("transactions and blocks are found by hash, version, height and account", async () => {
  const alice = await funded();
  const executed = await run(alice, "register_server");
  assert.equal((await aptos.getTransactionByHash({ transactionHash: executed.hash })).version, executed.version);
  assert.equal((await aptos.getTransactionByVersion({ ledgerVersion: executed.version })).hash, executed.hash);
  const block = await aptos.getBlockByVersion({ ledgerVersion: Number(executed.version), options: { withTransactions: true } });
  assert.equal(block.transactions[0].hash, executed.hash);
  const own = await aptos.getAccountTransactions({ accountAddress: alice.accountAddress });
  assert.deepEqual(own.map((each) => each.hash), [executed.hash]);
  assert.equal((await aptos.getTransactions({ options: { limit: 2 } })).length, 2);
  assert.equal(await aptos.getChainId(), 202);
});

// --- a batch of settlements, signed and sent by the TypeScript SDK alone -----------------------------------------------

const text = (value) => new TextEncoder().encode(value);

function encoded(...fields) {
  const serializer = new Serializer();
  for (const field of fields) {
    if (typeof field === "bigint") serializer.serializeU64(field);
    else if (field instanceof AccountAddress) field.serialize(serializer);
    else serializer.serializeBytes(field);
  }
  return serializer.toUint8Array();
}

/** What is signed begins with its domain and the chain id in one byte. */
function message(domain, ...fields) {
  const start = encoded(text(domain));
  return Uint8Array.from([...start, 202, ...encoded(...fields)]);
}

const sign = (account, data) => account.sign(data).toUint8Array();

test("a router settles a batch: the good item is paid, the bad one skipped with its reason", async () => {
  const [router, owner, client, nobody] = [await funded(), await funded(), await funded(), AccountAddress.ZERO];
  const expires = BigInt(Math.floor(Date.now() / 1000) + 3600);
  await run(router, "register_server");
  await run(admin, "authorize_server", [router.accountAddress, expires, COIN]);
  await run(owner, "register_orchestrator", [bytes(owner), new Uint8Array(), COIN]);
  await run(client, "deposit", [bytes(client), COIN]);

  const [digest, result] = [randomBytes(32), randomBytes(32)];
  const item = (nonce, forged) => {
    const id = randomBytes(16);
    const parties = [contract, client.accountAddress, router.accountAddress];
    const consent = message(process.env.CACTUS_CONSENT_DOMAIN, ...parties, id, nonce, 10_000n, expires);
    const claim = message(
      process.env.CACTUS_CLAIM_DOMAIN, ...parties, owner.accountAddress, nobody, 0n, id, digest, 5_000_000n, 1_500n, 5_000n, result,
    );
    return [
      client.accountAddress, id, nonce, 10_000n, expires, sign(forged ? owner : client, consent),
      owner.accountAddress, nobody, 0n, digest, 5_000_000n, 1_500n, 5_000n, result, sign(owner, claim), 1_000_000n,
    ];
  };
  const items = [item(1n, false), item(2n, true)];
  const executed = await run(router, "settle_batch", items[0].map((_, column) => items.map((each) => each[column])));
  assert.deepEqual(names(executed), ["TaskCompleted", "SettlementSkipped"]);
  assert.equal(Number(executed.events[1].data.reason), 0x10039);

  const id = Hex.fromHexInput(executed.events[0].data.task_id).toUint8Array();
  const { vec: [task] } = await view("task", [client.accountAddress, id]);
  assert.equal(task.status, "completed");
  const split = task.split.vec[0];
  assert.equal(Number(split.orchestrator) + Number(split.delegate) + Number(split.fee) + Number(split.refund), 10_000);
  assert.equal((await view("orchestrator", [owner.accountAddress])).vec[0].metrics.completed, "1");
});
