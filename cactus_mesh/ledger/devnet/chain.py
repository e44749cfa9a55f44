"""Which transactions may run, in which order: sequence numbers, fees, expiry, and those parked until their turn.

Synchronous and without I/O.  The caller makes `Executed` durable before it tells anybody.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from cactus_mesh.ledger import rules
from cactus_mesh.ledger.devnet.execution import (
    FEES,
    MAX_GAS,
    MAX_GAS_PRICE,
    MIN_GAS_PRICE,
    SUCCESS,
    Outcome,
    execute,
    gas_of,
)
from cactus_mesh.ledger.devnet.framework import COIN_DEPOSIT, coin_event
from cactus_mesh.ledger.devnet.refusals import Refused, VmCode, bad_input, invalid

if TYPE_CHECKING:
    from cactus_mesh.identity import Address
    from cactus_mesh.ledger.devnet.transactions import Submission
    from cactus_mesh.ledger.rules import State
    from cactus_mesh.ledger.rules.state import Table

MAX_PARKED_PER_ACCOUNT: Final = 100
"""Aptos's mempool keeps as many for one account."""
MAX_PARKED: Final = 1_000
"""At most 64 MiB of transactions."""
PARKED_SECONDS: Final = 600
"""As long as Aptos's mempool keeps a transaction that does not run, whatever its expiry."""
MAX_MINT: Final = 10**15
MAX_SUPPLY: Final = 2**63
"""Keeps every sum of balances within a u64, as on a chain with a bounded supply."""


@dataclass(frozen=True, slots=True)
class Executed:
    """One transaction of the chain; *submission* is None for a gift of the faucet."""

    version: int
    timestamp_us: int
    hash: str
    submission: Submission | None
    outcome: Outcome


class Parked(NamedTuple):
    """A transaction that waits for those before it, until *until_us*."""

    submission: Submission
    until_us: int


class _Tried(Exception):
    """Takes an outcome out of a block that is taken back."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__()
        self.outcome = outcome


class Chain:
    """The state of the ledger and the order of its transactions."""

    def __init__(self, state: State, sequences: Table[Address, int]) -> None:
        self.state = state
        self.sequences = sequences
        self.version = 0
        self.timestamp_us = 0
        self.parked: dict[Address, dict[int, Parked]] = {}

    def sequence(self, account: Address) -> int:
        return self.sequences.get(account, 0)

    def parked_by_hash(self, wanted: str) -> Submission | None:
        waiting = (each.submission for queue in self.parked.values() for each in queue.values())
        return next((each for each in waiting if each.hash == wanted), None)

    def submit(self, submission: Submission, now_us: int) -> list[Executed]:
        """Run *submission* and whatever waited for it, or park it until its turn.  Raises `Refused`."""
        self._admit(submission, now_us)
        next_sequence = self.sequence(submission.sender)
        if submission.sequence < next_sequence:
            raise invalid(VmCode.SEQUENCE_NUMBER_TOO_OLD)
        if submission.sequence > next_sequence:
            self._park(submission, now_us)
            return []
        return [self._execute(submission, now_us), *self._unpark(submission.sender, now_us)]

    def simulate(self, submission: Submission, now_us: int) -> Executed:
        """What *submission* would do now.  Changes nothing; what a submission would be refused for is its vm_status."""
        try:
            self._admit(submission, now_us)
            self._expect_next(submission)
            if not submission.authenticator.controls(submission.sender):
                raise invalid(VmCode.INVALID_AUTH_KEY)
        except Refused as refused:
            outcome = Outcome(False, VmCode(refused.vm_error_code or VmCode.UNKNOWN_VALIDATION_STATUS).name, 0, ())
        else:
            outcome = self._try(submission, now_us)
        return Executed(self.version, now_us, submission.hash, submission, outcome)

    def _expect_next(self, submission: Submission) -> None:
        expected = self.sequence(submission.sender)
        if submission.sequence != expected:
            too_old = submission.sequence < expected
            raise invalid(VmCode.SEQUENCE_NUMBER_TOO_OLD if too_old else VmCode.SEQUENCE_NUMBER_TOO_NEW)

    def _try(self, submission: Submission, now_us: int) -> Outcome:
        try:
            with self.state.atomic():
                raise _Tried(execute(self.state, submission, now_us // 1_000_000))
        except _Tried as tried:
            return tried.outcome

    def mint(self, account: Address, amount: int, now_us: int) -> Executed:
        """The faucet.  Raises `Refused` beyond its bounds."""
        minted = self.state.minted.get("octas", 0)
        if not 0 < amount <= MAX_MINT or minted + amount > MAX_SUPPLY:
            raise bad_input(f"the faucet gives 1 to {MAX_MINT} octas at once, {MAX_SUPPLY} in all")
        rules.mint(self.state, account, amount)
        self._advance(now_us)
        given = coin_event(COIN_DEPOSIT, account, amount)
        name = hashlib.sha3_256(f"cactus-mesh faucet {self.version} {account} {amount}".encode()).hexdigest()
        return Executed(self.version, self.timestamp_us, "0x" + name, None, Outcome(True, SUCCESS, 0, (given,)))

    def _admit(self, submission: Submission, now_us: int) -> None:
        """What a transaction must fulfil at any time."""
        if submission.raw.chain_id != self.state.chain_id:
            raise invalid(VmCode.BAD_CHAIN_ID)
        if submission.raw.expires_at * 1_000_000 <= now_us:
            raise invalid(VmCode.TRANSACTION_EXPIRED)
        if submission.max_gas > MAX_GAS:
            raise invalid(VmCode.MAX_GAS_UNITS_EXCEEDS_MAX_GAS_UNITS_BOUND)
        if submission.max_gas < gas_of(submission):
            raise invalid(VmCode.MAX_GAS_UNITS_BELOW_MIN_TRANSACTION_GAS_UNITS)
        if submission.gas_price < MIN_GAS_PRICE:
            raise invalid(VmCode.GAS_UNIT_PRICE_BELOW_MIN_BOUND)
        if submission.gas_price > MAX_GAS_PRICE:
            raise invalid(VmCode.GAS_UNIT_PRICE_ABOVE_MAX_BOUND)
        if self.state.coins.get(submission.payer, 0) < submission.max_gas * submission.gas_price:
            raise invalid(VmCode.INSUFFICIENT_BALANCE_FOR_TRANSACTION_FEE)

    def _park(self, submission: Submission, now_us: int) -> None:
        sender, sequence = submission.sender, submission.sequence
        if sum(map(len, self.parked.values())) >= MAX_PARKED:
            for each in tuple(self.parked):
                self._forget_expired(each, now_us)
        self._forget_expired(sender, now_us)
        queue = self.parked.get(sender, {})
        known = queue.get(sequence)
        if known is not None and known.submission.hash != submission.hash:
            raise Refused(400, "invalid_transaction_update", "Transaction already in mempool with a different payload")
        if len(queue) >= MAX_PARKED_PER_ACCOUNT or sum(map(len, self.parked.values())) >= MAX_PARKED:
            raise Refused(507, "mempool_is_full", "Mempool is full. Submit transactions in their order")
        if known is None:
            until_us = min(submission.raw.expires_at * 1_000_000, now_us + PARKED_SECONDS * 1_000_000)
            self.parked.setdefault(sender, {})[sequence] = Parked(submission, until_us)

    def _forget_expired(self, sender: Address, now_us: int) -> None:
        queue = self.parked.get(sender, {})
        for sequence in [number for number, each in queue.items() if each.until_us <= now_us]:
            del queue[sequence]
        if not queue:
            self.parked.pop(sender, None)

    def _unpark(self, sender: Address, now_us: int) -> list[Executed]:
        """Run what has waited for the sender's sequence number to come up."""
        done: list[Executed] = []
        queue = self.parked.get(sender, {})
        while (waiting := queue.pop(self.sequence(sender), None)) is not None:
            try:
                self._admit(waiting.submission, now_us)
            except Refused:
                break  # dropped, as a mempool would; what waits behind it stays until its sender fills the gap
            done.append(self._execute(waiting.submission, now_us))
        if not queue:
            self.parked.pop(sender, None)
        return done

    def _execute(self, submission: Submission, now_us: int) -> Executed:
        self._advance(now_us)
        outcome = execute(self.state, submission, self.timestamp_us // 1_000_000)
        self.sequences[submission.sender] = submission.sequence + 1
        return Executed(self.version, self.timestamp_us, submission.hash, submission, outcome)

    def _advance(self, now_us: int) -> None:
        """Time never goes back, even when the machine's clock does."""
        self.version += 1
        self.timestamp_us = max(self.timestamp_us + 1, now_us)

    def audit(self) -> dict[str, Any]:
        return {
            "minted": str(self.state.minted.get("octas", 0)),
            "fees": str(self.state.coins.get(FEES, 0)),
            "violations": list(rules.violations(self.state)),
        }
