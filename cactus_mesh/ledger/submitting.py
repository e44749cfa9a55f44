"""Gets a transaction executed exactly once: signs, submits, and follows it until its fate is certain.

Certain means executed; or expired by the ledger's own time; or its sequence number used by another transaction.  Only
the last two let it be made anew.  Every submission may be repeated without harm: a signed transaction runs once.
"""

from __future__ import annotations

import hashlib
import logging
import random
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio
from aptos_sdk.account_address import AccountAddress
from aptos_sdk.authenticator import Authenticator, Ed25519Authenticator
from aptos_sdk.ed25519 import PublicKey as SdkPublicKey
from aptos_sdk.ed25519 import Signature as SdkSignature
from aptos_sdk.transactions import EntryFunction, ModuleId, RawTransaction, SignedTransaction, TransactionPayload
from nacl.signing import VerifyKey

from cactus_mesh.errors import LedgerDown, LedgerError, LedgerRejected, NoFunds
from cactus_mesh.identity import SIGNATURE_BYTES
from cactus_mesh.ledger.connect import REQUEST_SECONDS
from cactus_mesh.ledger.node import POLL_SECONDS
from cactus_mesh.ledger.sequences import Sequences
from cactus_mesh.ledger.values import address_bytes, encode

if TYPE_CHECKING:
    from cactus_mesh.identity import Address, Identity
    from cactus_mesh.ledger.node import Answer, Node

EXPIRY_SECONDS: Final = 60
"""How long a transaction may wait to run; after that it never will, and may be replaced."""
VARIATION_SECONDS: Final = 10
"""Taken from the expiry at random, as is some of the gas limit: two programs with one key that call the same with the
same number would else make the very same transaction, and both believe that it was theirs."""
GAS_PRICE_AGE_SECONDS: Final = 60.0
MAX_GAS_PRICE: Final = 10_000
"""Octas a unit, a hundred times the usual: a node that estimates more would be believed with the account's coins."""
GAP_GAS: Final = 2_000
MAX_ATTEMPTS: Final = 10
"""Tries to find a free sequence number while another program uses the same account, or the ledger's present time."""
APTOS_COIN: Final = "0x1::aptos_coin::AptosCoin"

_OUT_OF_GAS: Final = "Out of gas"
_CANT_PAY: Final = "INSUFFICIENT_BALANCE_FOR_TRANSACTION_FEE"
_TAKEN: Final = "another program keeps using its sequence numbers; give each program a key of its own"
_LATE: Final = "it arrives expired by the ledger's own time; use another node"
_POOR: Final = "its balance is spent by others as fast as it can be asked for; fund it"
_PRICE: Final = "the gas price changes faster than it can be asked for; try again later"

log = logging.getLogger(__name__)


class _Again(Exception):
    """The transaction has not run and never will; it must be made anew, with what has been learnt."""

    def __init__(self, advice: str) -> None:
        super().__init__(advice)
        self.advice = advice


class _CannotPay(Exception):
    """The signer holds less than the upper limit of the fee."""


@dataclass(frozen=True, slots=True)
class _Signed:
    """*give_up_at* is in trio's time: by then a ledger whose time goes on has let the transaction expire."""

    hash: str
    data: bytes
    signer: Identity
    sequence: int
    expires_at: int
    give_up_at: float


class Submitter:
    """Transactions to one node, many at once for each signer."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._accounts: dict[Address, Sequences] = {}  # one for each of our own keys
        self._gas_price: tuple[float, int] | None = None
        self._asking_price = trio.Lock()

    async def run(self, signer: Identity, function: EntryFunction, max_gas: int) -> dict[str, Any]:
        """The outcome of *function*, executed once; whether it succeeded is for the caller to read.

        Raises `NoFunds` or `LedgerRejected` when it has not run and never will.  `LedgerDown` after it was sent leaves
        that open, and says so.
        """
        numbers = self._accounts.setdefault(signer.address, Sequences())
        advice = ""
        afforded: int | None = None
        for attempt in range(MAX_ATTEMPTS):
            try:
                async with numbers.take(partial(self._sequence, signer.address)) as sequence:
                    gas = _varied(max_gas) if afforded is None else afforded
                    signed = self._sign(signer, sequence, function, gas, await self._price())
                    return await self._carry(signed, numbers)
            except _CannotPay:
                advice = _POOR
                afforded, failed = await self._affordable(signer, function, max_gas)
                if failed is not None:
                    return failed
            except _Again as again:
                advice = again.advice
                await trio.sleep(random.uniform(0, POLL_SECONDS * attempt))  # apart from others in the same place
        raise LedgerRejected(f"the ledger took no transaction from {signer.address}: {advice}")

    def _sign(
        self, signer: Identity, sequence: int, function: EntryFunction, max_gas: int, price: int, *, real: bool = True
    ) -> _Signed:
        expires_at = int(self._node.now) + EXPIRY_SECONDS - random.randrange(VARIATION_SECONDS)
        sender = AccountAddress(address_bytes(signer.address))
        payload = TransactionPayload(function)
        raw = RawTransaction(sender, sequence, payload, max_gas, price, expires_at, self._node.chain_id)
        signature = SdkSignature(signer.sign(raw.keyed()) if real else bytes(SIGNATURE_BYTES))
        key = SdkPublicKey(VerifyKey(signer.public_key))
        data = SignedTransaction(raw, Authenticator(Ed25519Authenticator(key, signature))).bytes()
        give_up_at = trio.current_time() + EXPIRY_SECONDS + REQUEST_SECONDS
        return _Signed(transaction_hash(data), data, signer, sequence, expires_at, give_up_at)

    # one transaction, to its end

    async def _carry(self, signed: _Signed, numbers: Sequences) -> dict[str, Any]:
        """Raises `_Again` or `LedgerRejected` once it is certain that it never runs."""
        refused = await self._submit(signed)
        gap: int | None = None
        while trio.current_time() < signed.give_up_at:
            found = await self._look(signed, patiently=refused is None)
            if found is None:
                await trio.sleep(POLL_SECONDS)
                continue
            answer, outcome = found
            if outcome is not None:
                return outcome
            if answer.seconds > signed.expires_at:
                if refused is not None:
                    raise _Again(refused)
                raise LedgerRejected(
                    "the transaction expired before the ledger ran it, and never will run; send it again"
                )
            gap = await self._help(signed, numbers, gap)
            if answer.status == 404:  # it never arrived, or was dropped
                refused = await self._repeat(signed)
            await trio.sleep(POLL_SECONDS)
        raise LedgerDown(
            f"the ledger at {self._node.base} does not tell what became of transaction {signed.hash}, which it may "
            "have run; look for it there before doing the same again"
        )

    async def _submit(self, signed: _Signed) -> str | None:
        """None when it was accepted, or may have been.  The advice, if its number is used or its time is over.

        Raises `NoFunds`, `LedgerRejected`, `_Again`, `_CannotPay` when it was refused and is not there.
        """
        answer = await self._node.tell("POST", "transactions", signed.data, "signed_transaction")
        if answer is None or answer.status == 202:
            return None
        advice = _advice(answer)
        if advice is None and not await self._known(signed):  # its first copy may be, if it was sent twice
            self._refuse(answer)
        return advice

    async def _repeat(self, signed: _Signed) -> str | None:
        """Submit the same transaction again.  Another node may still hold it, so that no refusal decides anything."""
        try:
            answer = await self._node.tell("POST", "transactions", signed.data, "signed_transaction")
        except LedgerDown:
            return None
        return None if answer is None or answer.status == 202 else _advice(answer)

    def _refuse(self, answer: Answer) -> None:
        match answer.problem.get("vm_error_code"):
            case 5:  # INSUFFICIENT_BALANCE_FOR_TRANSACTION_FEE
                raise _CannotPay
            case 15:  # GAS_UNIT_PRICE_BELOW_MIN_BOUND
                self._gas_price = None
                raise _Again(_PRICE)
        raise LedgerRejected(f"the ledger at {self._node.base} refused the transaction: {answer.message}")

    async def _known(self, signed: _Signed) -> bool:
        return (await self._node.ask("GET", f"transactions/by_hash/{signed.hash}")).status == 200

    async def _look(self, signed: _Signed, *, patiently: bool) -> tuple[Answer, dict[str, Any] | None] | None:
        """What the node knows of the transaction, with the outcome once it has run; None when the node is away."""
        try:
            wait = "wait_by_hash" if patiently else "by_hash"
            answer = await self._node.ask("GET", f"transactions/{wait}/{signed.hash}")
        except LedgerDown:
            return None
        if answer.status == 404:
            return answer, None
        with self._node.understanding():
            found = self._node.expect(answer, "transaction")
            if found["type"] == "pending_transaction":
                return answer, None
            return answer, self._outcome(signed, found)

    def _outcome(self, signed: _Signed, found: dict[str, Any]) -> dict[str, Any]:
        """Raises what `Node.understanding` takes for a stranger's answer."""
        if found["hash"] != signed.hash or not isinstance(found["success"], bool):
            raise ValueError("the outcome of another transaction")
        self._node.seen_version = max(self._node.seen_version, int(found["version"]))
        return found

    async def _help(self, signed: _Signed, numbers: Sequences, seen_gap: int | None) -> int | None:
        """See why it has not run.  Raises `_Again` if another transaction had its number.

        A number before it that none of our calls has under way holds it up: such a gap is returned when first seen,
        and closed when seen again.
        """
        try:
            account = await self._account(signed.signer.address)
            with self._node.understanding():
                reached = _sequence_of(account)
            if reached > signed.sequence and await self._passed(signed, account):
                raise _Again(_TAKEN)
            if reached >= signed.sequence or reached in numbers.under_way:
                return None
            if reached == seen_gap:
                await self._close(signed.signer, reached)
        except LedgerDown:
            return None
        return reached

    async def _passed(self, signed: _Signed, account: Answer) -> bool:
        """Whether its number was used by another, as of *account*: a node that lags behind proves nothing."""
        answer = await self._node.ask("GET", f"transactions/by_hash/{signed.hash}")
        return answer.status == 404 and (answer.version or 0) >= (account.version or 0)

    async def _close(self, signer: Identity, sequence: int) -> None:
        """Use a number up by a transfer of nothing, so that those behind it can run."""
        module = ModuleId(AccountAddress(address_bytes("0x1")), "aptos_account")
        nothing = EntryFunction(module, "transfer", [], [encode("address", signer.address), encode("u64", 0)])
        signed = self._sign(signer, sequence, nothing, GAP_GAS, await self._price())
        try:
            await self._node.ask("POST", "transactions", signed.data, "signed_transaction")
        except LedgerError as error:
            log.info("a gap in the sequence numbers stays open", extra={"sequence": sequence, "error": error.code})
        else:
            log.info("a gap in the sequence numbers was closed", extra={"sequence": sequence})

    # what a transaction needs to know

    async def _account(self, account: Address) -> Answer:
        return await self._node.ask_present("GET", f"accounts/{account}")

    async def _sequence(self, account: Address) -> int:
        answer = await self._account(account)
        if answer.status not in (200, 404):
            self._node.refused(answer, "account")
        with self._node.understanding():
            return _sequence_of(answer)

    async def balance(self, account: Address) -> int:
        answer = await self._node.ask_present("GET", f"accounts/{account}/balance/{APTOS_COIN}")
        if answer.status == 404:
            return 0
        with self._node.understanding():
            return int(self._node.expect(answer, "balance"))

    async def _price(self) -> int:
        async with self._asking_price:
            now = trio.current_time()
            if self._gas_price is None or now - self._gas_price[0] > GAS_PRICE_AGE_SECONDS:
                self._gas_price = (now, await self._ask_price())
            return self._gas_price[1]

    async def _ask_price(self) -> int:
        answer = await self._node.ask("GET", "estimate_gas_price")
        with self._node.understanding():
            price = int(self._node.expect(answer, "gas price")["gas_estimate"])
        if not 0 <= price <= MAX_GAS_PRICE:
            raise LedgerRejected(
                f"the ledger at {self._node.base} asks for {price} octas a unit of gas, above the {MAX_GAS_PRICE} that "
                "this program pays; check the ledger's URL, or wait"
            )
        return price

    async def _affordable(
        self, signer: Identity, function: EntryFunction, max_gas: int
    ) -> tuple[int, dict[str, Any] | None]:
        """A limit of gas within the signer's means, by simulation; or the failure that the simulation ended in.

        The limit that was refused is generous, and only what is used is paid.  Raises `NoFunds`.
        """
        price, held = await self._price(), await self.balance(signer.address)
        limit = min(max_gas, held // max(price, 1))
        sequence = await self._sequence(signer.address)
        trial = self._sign(signer, sequence, function, limit, price, real=False)
        answer = await self._node.ask("POST", "transactions/simulate", trial.data, "signed_transaction")
        if limit > 0 and answer.status == 200:
            with self._node.understanding():
                (outcome,) = answer.json()
                enough = min(limit, int(outcome["gas_used"]) * 3 // 2 + 1)
                if outcome["success"] is True:
                    return enough, None
                if not any(each in outcome["vm_status"] for each in (_OUT_OF_GAS, _CANT_PAY)):
                    return enough, outcome
        raise NoFunds(
            f"{signer.address} cannot pay the fee of a transaction: it holds {held} octas, and must hold up to "
            f"{max_gas * price}, of which only what is used is taken; fund it"
        )


def transaction_hash(signed: bytes) -> str:
    """What the node will call the transaction, so that it can be looked for even when no answer came."""
    prefix = hashlib.sha3_256(b"APTOS::Transaction").digest()
    return "0x" + hashlib.sha3_256(prefix + b"\x00" + signed).hexdigest()


def _varied(max_gas: int) -> int:
    return max_gas - random.randrange(max_gas // 20 + 1)


def _sequence_of(account: Answer) -> int:
    """An account's next number; one that is not there yet begins with 0.  Raises what `Node.understanding` takes."""
    if account.status == 404:
        return 0
    sequence = int(account.json()["sequence_number"])
    if not 0 <= sequence < 2**63:
        raise ValueError("no sequence number")
    return sequence


def _advice(answer: Answer) -> str | None:
    """For refusals after which it may be there all the same: its number is used, or its time is over."""
    problem = answer.problem
    match problem.get("error_code"), problem.get("vm_error_code"):
        case ("sequence_number_too_old" | "invalid_transaction_update", _) | (_, 3):  # SEQUENCE_NUMBER_TOO_OLD
            return _TAKEN
        case _, 6:  # TRANSACTION_EXPIRED; the refusal's headers have told the ledger's time
            return _LATE
    return None
