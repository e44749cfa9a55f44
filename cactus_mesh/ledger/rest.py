"""Carries calls and views to a full node's REST API: signs BCS transactions, keeps sequence numbers, awaits outcomes.

The same for the embedded ledger, a local node and public networks.  Every request may be sent twice without harm: a
signed transaction runs once, whatever a connection does.
"""

from __future__ import annotations

import hashlib
import re
import time
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NoReturn

import httpx
import trio
from aptos_sdk.account_address import AccountAddress
from aptos_sdk.authenticator import Authenticator, Ed25519Authenticator
from aptos_sdk.bcs import Serializer
from aptos_sdk.ed25519 import PublicKey as SdkPublicKey
from aptos_sdk.ed25519 import Signature as SdkSignature
from aptos_sdk.transactions import EntryFunction, ModuleId, RawTransaction, SignedTransaction, TransactionPayload
from nacl.signing import VerifyKey

from cactus_mesh.errors import LedgerAborted, LedgerDown, LedgerRejected, LedgerWrongChain, MeshError, NoFunds
from cactus_mesh.ledger import contract as abi
from cactus_mesh.ledger.connect import REQUEST_SECONDS, base_url, http_client
from cactus_mesh.ledger.values import BadValue, Json, Value, address_bytes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from cactus_mesh.identity import Address, Identity

RETRY_AFTER_SECONDS: Final = (0.05, 0.3)
"""Pauses before a request is sent again: enough for a connection that was closed under us, or a node that restarts."""
EXPIRY_SECONDS: Final = 60
"""How long a transaction may wait to run; after that it never will, and may be replaced."""
POLL_SECONDS: Final = 0.2
GAS_PRICE_AGE_SECONDS: Final = 60.0
MAX_GAS: Final = 20_000
MAX_GAS_PER_ITEM: Final = 3_000
"""Upper limits, of which only what is used is paid.  By Aptos's published schedule; not measured on a real network."""
MAX_ATTEMPTS: Final = 5
"""Tries to find a free sequence number while another program uses the same account, or the ledger's present time."""

_APTOS_COIN: Final = "0x1::aptos_coin::AptosCoin"
_ABORT: Final = re.compile(r"Move abort in (0x[0-9a-f]{1,64})::(\w+): (?:\w+\()?(0x[0-9a-f]{1,16})")
_INSUFFICIENT_BALANCE: Final = frozenset({0x10006, 0x10004})
"""0x1::coin's and 0x1::fungible_asset's."""


@dataclass(slots=True)
class _Account:
    """A signer's sequence numbers.  *next* is None when it must be read again."""

    lock: trio.Lock = field(default_factory=trio.Lock)
    next: int | None = None


@dataclass(frozen=True, slots=True)
class _Signed:
    """*max_fee* is in octas."""

    hash: str
    data: bytes
    max_fee: int


class _Again(Exception):
    """The transaction must be made anew, with what the refusal has taught."""

    def __init__(self, advice: str) -> None:
        super().__init__(advice)
        self.advice = advice


_TAKEN: Final = "another program keeps using its sequence numbers; give each program a key of its own"
_LATE: Final = "it arrives expired; set this machine's clock right"


class RestTransport:
    """`cactus_mesh.ledger.client.Transport` over HTTP."""

    def __init__(self, http: httpx.AsyncClient, base: str, contract: Address, chain_id: int) -> None:
        self._http = http
        self._base = base
        self._module = ModuleId(AccountAddress(address_bytes(contract)), abi.MODULE)
        self._chain_id = chain_id
        self._accounts: dict[Address, _Account] = {}  # one for each of our own keys
        self._ledger_seconds = 0
        self._gas_price: tuple[float, int] | None = None

    # Transport

    async def call(self, signer: Identity, entry: str, arguments: tuple[Value, ...]) -> list[abi.Event]:
        function = self._function(entry, abi.ENTRY_TYPES[entry], arguments)
        items = len(arguments[0]) if entry == "settle_batch" else 0
        account = self._accounts.setdefault(signer.address, _Account())
        signed = await self._submit(signer, account, function, MAX_GAS + items * MAX_GAS_PER_ITEM)
        executed = await self._wait(signed, account)
        with self._understanding():
            if not executed["success"]:
                raise self._failure(str(executed["vm_status"]), entry)
            events = [event for event in executed["events"] if self._ours(event["type"])]
            return [(event["type"].split("::")[2], event["data"]) for event in events]

    async def view(self, function: str, arguments: tuple[Value, ...]) -> Json:
        encoder = Serializer()  # type: ignore[no-untyped-call]
        self._function(function, abi.VIEW_TYPES[function], arguments).serialize(encoder)
        reply = await self._request(
            "POST", "view", encoder.output(), {"content-type": "application/x.aptos.view_function+bcs"}
        )
        if reply.status_code != 200:
            raise LedgerRejected(
                f"the ledger at {self._base} cannot answer {function} of the contract {self._module}: "
                f"{_message(reply)}; check that the contract's address is right for this chain"
            )
        with self._understanding():
            (result,) = reply.json()
            if function not in abi.OPTIONAL_VIEWS:
                return result
            return result["vec"][0] if result["vec"] else None

    async def balance(self, account: Address) -> int:
        reply = await self._request("GET", f"accounts/{account}/balance/{_APTOS_COIN}")
        if reply.status_code == 404:
            return 0
        with self._understanding():
            return int(self._json(reply, "balance"))

    def _function(self, name: str, types: tuple[str, ...], arguments: tuple[Value, ...]) -> EntryFunction:
        try:
            return EntryFunction(self._module, name, [], abi.encode_arguments(types, arguments))
        except BadValue as error:
            raise LedgerRejected(f"{name} cannot be called like this: {error}") from None

    # transactions

    async def _submit(self, signer: Identity, account: _Account, function: EntryFunction, max_gas: int) -> _Signed:
        """One at a time for each account, so that a refused transaction leaves no gap before the next."""
        async with account.lock:
            advice = ""
            for attempt in range(MAX_ATTEMPTS):
                if account.next is None:
                    account.next = await self._sequence(signer.address)
                signed = self._sign(signer, account.next, function, max_gas, await self._price())
                sequence, account.next = account.next, None  # unless it is accepted
                try:
                    await self._post(signed, signer.address)
                except _Again as again:
                    if not await self._known(signed.hash):
                        advice = again.advice
                        await trio.sleep(POLL_SECONDS * attempt)
                        continue
                account.next = sequence + 1
                return signed
        raise LedgerRejected(f"the ledger took no transaction from {signer.address}: {advice}")

    def _sign(self, signer: Identity, sequence: int, function: EntryFunction, max_gas: int, price: int) -> _Signed:
        raw = RawTransaction(
            AccountAddress(address_bytes(signer.address)),
            sequence,
            TransactionPayload(function),
            max_gas,
            price,
            max(int(time.time()), self._ledger_seconds) + EXPIRY_SECONDS,
            self._chain_id,
        )
        key, signature = SdkPublicKey(VerifyKey(signer.public_key)), SdkSignature(signer.sign(raw.keyed()))
        data = SignedTransaction(raw, Authenticator(Ed25519Authenticator(key, signature))).bytes()
        return _Signed(transaction_hash(data), data, max_gas * price)

    async def _post(self, signed: _Signed, sender: Address) -> None:
        reply = await self._request(
            "POST", "transactions", signed.data, {"content-type": "application/x.aptos.signed_transaction+bcs"}
        )
        if reply.status_code == 202:
            return
        problem = _problem(reply)
        match problem.get("error_code"), problem.get("vm_error_code"):
            case ("sequence_number_too_old" | "invalid_transaction_update", _) | (_, 3):  # SEQUENCE_NUMBER_TOO_OLD
                raise _Again(_TAKEN)
            case _, 6:  # TRANSACTION_EXPIRED; the refusal's headers have told the ledger's time
                raise _Again(_LATE)
            case _, 5:  # INSUFFICIENT_BALANCE_FOR_TRANSACTION_FEE
                raise NoFunds(
                    f"{sender} cannot pay the fee of a transaction: it must hold {signed.max_fee} octas, of which only "
                    "what is used is taken; fund it"
                )
        raise LedgerRejected(f"the ledger at {self._base} refused the transaction: {_message(reply)}")

    async def _wait(self, signed: _Signed, account: _Account) -> dict[str, Any]:
        """The executed transaction.  Once its expiry has passed unseen it can never run."""
        with trio.move_on_after(EXPIRY_SECONDS + REQUEST_SECONDS):
            while True:
                reply = await self._request("GET", f"transactions/wait_by_hash/{signed.hash}")
                if reply.status_code == 200:
                    with self._understanding():
                        found: dict[str, Any] = reply.json()
                        if found["type"] != "pending_transaction":
                            return found
                elif reply.status_code != 404:
                    self._refused(reply, "transaction")
                await trio.sleep(POLL_SECONDS)
        account.next = None
        raise LedgerRejected("the transaction expired before the ledger ran it, and never will run; send it again")

    async def _known(self, hash_: str) -> bool:
        reply = await self._request("GET", f"transactions/by_hash/{hash_}")
        return reply.status_code == 200

    async def _sequence(self, account: Address) -> int:
        reply = await self._request("GET", f"accounts/{account}")
        if reply.status_code == 404:
            return 0
        with self._understanding():
            return int(self._json(reply, "account")["sequence_number"])

    async def _price(self) -> int:
        now = trio.current_time()
        if self._gas_price is None or now - self._gas_price[0] > GAS_PRICE_AGE_SECONDS:
            reply = await self._request("GET", "estimate_gas_price")
            with self._understanding():
                self._gas_price = (now, int(self._json(reply, "gas price")["gas_estimate"]))
        return self._gas_price[1]

    def _failure(self, vm_status: str, entry: str) -> MeshError:
        """The error for a transaction that ran and failed.  A node may name the abort code's constant or not."""
        found = _ABORT.search(vm_status)
        if found is None:
            return LedgerAborted(f"{entry} failed on the ledger: {vm_status}")
        number = int(found[3], 16)
        if self._ours(f"{found[1]}::{found[2]}"):
            return abi.error_of(number, entry)
        if found[1] == "0x1" and number in _INSUFFICIENT_BALANCE:
            return NoFunds(f"{entry} needs more coins than the signing account holds; fund it")
        return LedgerAborted(f"{entry} failed on the ledger: {vm_status}", number)

    def _ours(self, name: str) -> bool:
        """Whether a module or one of its types is the contract's; nodes write addresses with and without zeros."""
        address, module, *_ = name.split("::")
        return module == abi.MODULE and address_bytes(address) == self._module.address.address

    # HTTP

    async def check_chain(self) -> None:
        reply = await self._request("GET", "")
        with self._understanding():
            chain_id = self._json(reply, "ledger information")["chain_id"]
        if chain_id != self._chain_id:
            self._wrong_chain(chain_id)

    async def _request(
        self, method: str, path: str, content: bytes | None = None, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        """One answer below 500, tried again a little later where there is none."""
        url = f"{self._base}/{path}" if path else self._base
        problem = ""
        for pause in (*RETRY_AFTER_SECONDS, None):
            try:
                reply = await self._http.request(method, url, content=content, headers=headers)
            except httpx.TransportError as error:
                problem = _transport_problem(error)
            else:
                if reply.status_code < 500 and reply.status_code != 429:
                    self._observe(reply)
                    return reply
                problem = f"it answers with status {reply.status_code}: {_message(reply)}"
            if pause is not None:
                await trio.sleep(pause)
        raise LedgerDown(
            f"the ledger at {self._base} is not available: {problem}; check the URL and that the node runs "
            "(the embedded one: cactus-mesh devnet)"
        )

    def _observe(self, reply: httpx.Response) -> None:
        """Each answer names its chain and time."""
        named = reply.headers.get("x-aptos-chain-id")
        if named is not None and named != str(self._chain_id):
            self._wrong_chain(named)
        micros = reply.headers.get("x-aptos-ledger-timestampusec", "")
        if micros.isdigit():
            self._ledger_seconds = max(self._ledger_seconds, int(micros) // 1_000_000)

    def _wrong_chain(self, found: object) -> NoReturn:
        raise LedgerWrongChain(
            f"the ledger at {self._base} is chain {found}, but chain {self._chain_id} is configured; "
            "correct ledger or chain_id in the configuration"
        )

    def _json(self, reply: httpx.Response, what: str) -> Any:
        if reply.status_code != 200:
            self._refused(reply, what)
        return reply.json()

    @contextmanager
    def _understanding(self) -> Iterator[None]:
        """Whatever a stranger's answer makes Python raise means that it is not a full node's answer."""
        try:
            yield
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise LedgerDown(
                f"what answers at {self._base} does not speak like an Aptos full node ({type(error).__name__}); "
                "check the ledger's URL"
            ) from error

    def _refused(self, reply: httpx.Response, what: str) -> NoReturn:
        raise LedgerRejected(f"the ledger at {self._base} refused to tell the {what}: {_message(reply)}")


def transaction_hash(signed: bytes) -> str:
    """What the node will call the transaction, so that it can be looked for even when no answer came."""
    prefix = hashlib.sha3_256(b"APTOS::Transaction").digest()
    return "0x" + hashlib.sha3_256(prefix + b"\x00" + signed).hexdigest()


def _transport_problem(error: Exception) -> str:
    if isinstance(error, httpx.TimeoutException):
        return f"no answer within {REQUEST_SECONDS:g} s"
    if isinstance(error, httpx.ConnectError):
        return "nobody listens there"
    return f"the connection failed ({type(error).__name__})"


def _problem(reply: httpx.Response) -> dict[str, Any]:
    """The node's error; empty when it has another shape."""
    try:
        problem = reply.json()
    except ValueError:
        return {}
    return problem if isinstance(problem, dict) else {}


def _message(reply: httpx.Response) -> str:
    return str(_problem(reply).get("message", f"status {reply.status_code}"))[:300]


@asynccontextmanager
async def open_rest(
    url: str, contract: Address, chain_id: int, network: httpx.AsyncBaseTransport | None = None
) -> AsyncIterator[RestTransport]:
    """*network* replaces the real one.  Raises `LedgerDown`, `LedgerWrongChain`."""
    base = base_url(url)
    async with http_client(base, network) as http:
        transport = RestTransport(http, f"{base}/v1", contract, chain_id)
        await transport.check_chain()
        yield transport
