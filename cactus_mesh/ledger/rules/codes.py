"""Every reason for which the contract says no: one code a cause, with what it means and what to do about it.

Numbers follow Aptos: ``category << 16 | reason``, and never change their meaning.  docs/contract.md shows the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Category(IntEnum):
    """The categories of ``0x1::error``."""

    INVALID_ARGUMENT = 1
    OUT_OF_RANGE = 2
    INVALID_STATE = 3
    PERMISSION_DENIED = 5
    NOT_FOUND = 6
    ALREADY_EXISTS = 8
    RESOURCE_EXHAUSTED = 9


@dataclass(frozen=True, slots=True)
class Code:
    name: str
    number: int
    meaning: str
    advice: str


class Abort(Exception):
    """An entry ends without any effect."""

    def __init__(self, code: Code) -> None:
        super().__init__(code.name)
        self.code = code


CODES: dict[int, Code] = {}


def _code(name: str, category: Category, reason: int, meaning: str, advice: str) -> Code:
    code = Code(name, category << 16 | reason, meaning, advice)
    CODES[code.number] = code
    return code


def require(condition: bool, code: Code) -> None:
    """Move's ``assert!``."""
    if not condition:
        raise Abort(code)


# administration and what all entries share
NOT_ADMIN = _code(
    "E_NOT_ADMIN", Category.PERMISSION_DENIED, 1,
    "only the contract's administrator may do this",
    "sign with the administrator's key",
)  # fmt: skip
NOT_PENDING_ADMIN = _code(
    "E_NOT_PENDING_ADMIN", Category.PERMISSION_DENIED, 2,
    "only the account that was proposed as administrator may accept",
    "let the present administrator propose this account first",
)  # fmt: skip
PARAM_OUT_OF_BOUNDS = _code(
    "E_PARAM_OUT_OF_BOUNDS", Category.OUT_OF_RANGE, 3,
    "a parameter is outside its bounds, or contradicts another",
    "choose a value within the bounds of the parameter table",
)  # fmt: skip
PAUSED = _code(
    "E_PAUSED", Category.INVALID_STATE, 4,
    "the contract is paused: no registration, no deposit, no new task",
    "wait until the administrator resumes it; withdrawals, refunds and settlements go on meanwhile",
)  # fmt: skip
BAD_PUBLIC_KEY = _code(
    "E_BAD_PUBLIC_KEY", Category.INVALID_ARGUMENT, 5,
    "a public key must have 32 bytes",
    "give the raw Ed25519 public key",
)  # fmt: skip
ZERO_AMOUNT = _code(
    "E_ZERO_AMOUNT", Category.INVALID_ARGUMENT, 6,
    "an amount of zero moves nothing",
    "give an amount above zero",
)  # fmt: skip
INSUFFICIENT_COINS = _code(
    "E_INSUFFICIENT_COINS", Category.RESOURCE_EXHAUSTED, 7,
    "the signing account holds fewer coins than that",
    "fund the account, or choose a smaller amount",
)  # fmt: skip

# servers (routers)
SERVER_EXISTS = _code(
    "E_SERVER_EXISTS", Category.ALREADY_EXISTS, 10,
    "this account is already registered as a server",
    "nothing to do; ask the administrator to authorise it",
)  # fmt: skip
NO_SERVER = _code(
    "E_NO_SERVER", Category.NOT_FOUND, 11,
    "this account is not registered as a server",
    "register the router first",
)  # fmt: skip
SERVER_NOT_AUTHORISED = _code(
    "E_SERVER_NOT_AUTHORISED", Category.PERMISSION_DENIED, 12,
    "this server waits for its authorisation, or was revoked",
    "ask the contract's administrator to authorise it",
)  # fmt: skip
SERVER_EXPIRED = _code(
    "E_SERVER_EXPIRED", Category.PERMISSION_DENIED, 13,
    "this server's authorisation has expired",
    "ask the contract's administrator to renew it",
)  # fmt: skip
BAD_EXPIRY = _code(
    "E_BAD_EXPIRY", Category.INVALID_ARGUMENT, 14,
    "an authorisation must end in the future",
    "give an expiry after the ledger's present time, in Unix seconds",
)  # fmt: skip
OVER_BUDGET = _code(
    "E_OVER_BUDGET", Category.OUT_OF_RANGE, 15,
    "the task would lift what this server holds in escrow above its authorised budget",
    "settle or fail open tasks first, or ask the administrator for a larger budget",
)  # fmt: skip

# orchestrators
ORCHESTRATOR_EXISTS = _code(
    "E_ORCHESTRATOR_EXISTS", Category.ALREADY_EXISTS, 20,
    "this operator key is registered, or was until it was replaced",
    "add stake to the existing registration, or use a new key",
)  # fmt: skip
NO_ORCHESTRATOR = _code(
    "E_NO_ORCHESTRATOR", Category.NOT_FOUND, 21,
    "no orchestrator is registered under this operator address",
    "register it with a stake first",
)  # fmt: skip
NOT_OWNER = _code(
    "E_NOT_OWNER", Category.PERMISSION_DENIED, 22,
    "only the account that owns the stake may do this",
    "sign with the owner's key, not with the operator's",
)  # fmt: skip
STAKE_TOO_LOW = _code(
    "E_STAKE_TOO_LOW", Category.OUT_OF_RANGE, 23,
    "the stake is below the minimum",
    "stake at least min_stake",
)  # fmt: skip
NOT_STAKED = _code(
    "E_NOT_STAKED", Category.INVALID_STATE, 24,
    "the orchestrator's stake is below the minimum, so that it may not take tasks",
    "add stake until it reaches min_stake",
)  # fmt: skip
INSUFFICIENT_STAKE = _code(
    "E_INSUFFICIENT_STAKE", Category.RESOURCE_EXHAUSTED, 25,
    "the active stake is smaller than that",
    "unstake at most the active stake",
)  # fmt: skip
TOO_MANY_UNBONDINGS = _code(
    "E_TOO_MANY_UNBONDINGS", Category.RESOURCE_EXHAUSTED, 26,
    "eight unbondings are under way, which is the most",
    "withdraw those that are due, cancel them, or wait for the first to be released",
)  # fmt: skip
NOTHING_UNBONDING = _code(
    "E_NOTHING_UNBONDING", Category.INVALID_STATE, 27,
    "no stake is unbonding",
    "nothing to do",
)  # fmt: skip
NO_STAKE_DUE = _code(
    "E_NO_STAKE_DUE", Category.INVALID_STATE, 28,
    "no unbonding stake is due yet",
    "wait until its release time; unbonding stake still answers for past tasks",
)  # fmt: skip
FROZEN = _code(
    "E_FROZEN", Category.INVALID_STATE, 29,
    "the stake is frozen by an open dispute",
    "wait until the dispute is decided",
)  # fmt: skip
BAD_OPERATOR_SIGNATURE = _code(
    "E_BAD_OPERATOR_SIGNATURE", Category.INVALID_ARGUMENT, 30,
    "the operator key has not signed that it works for this owner",
    "sign the OperatorConsent for this chain, contract and owner with the operator's key",
)  # fmt: skip

# clients
NO_CLIENT = _code(
    "E_NO_CLIENT", Category.NOT_FOUND, 40,
    "this client has no deposit with the contract",
    "deposit coins first",
)  # fmt: skip
INSUFFICIENT_DEPOSIT = _code(
    "E_INSUFFICIENT_DEPOSIT", Category.RESOURCE_EXHAUSTED, 41,
    "the client's free deposit is smaller than that",
    "deposit more coins, or choose a smaller amount",
)  # fmt: skip
TOO_MANY_WITHDRAWALS = _code(
    "E_TOO_MANY_WITHDRAWALS", Category.RESOURCE_EXHAUSTED, 42,
    "eight withdrawals are under way, which is the most",
    "withdraw those that are due, or wait for the first to be released",
)  # fmt: skip
NO_WITHDRAWAL_DUE = _code(
    "E_NO_WITHDRAWAL_DUE", Category.INVALID_STATE, 43,
    "no requested withdrawal is due yet",
    "wait until its release time",
)  # fmt: skip

# tasks
TASK_EXISTS = _code(
    "E_TASK_EXISTS", Category.ALREADY_EXISTS, 50,
    "the client has used this task id before",
    "use a new task id",
)  # fmt: skip
NO_TASK = _code(
    "E_NO_TASK", Category.NOT_FOUND, 51,
    "the client has no such task in the ledger",
    "check the client's address and the task id",
)  # fmt: skip
TASK_CLOSED = _code(
    "E_TASK_CLOSED", Category.INVALID_STATE, 52,
    "the task has failed or timed out and its escrow was refunded",
    "nothing to do; the task can no longer be paid",
)  # fmt: skip
ALREADY_SETTLED = _code(
    "E_ALREADY_SETTLED", Category.ALREADY_EXISTS, 53,
    "this server has settled the task before",
    "nothing to do",
)  # fmt: skip
NONCE_USED = _code(
    "E_NONCE_USED", Category.ALREADY_EXISTS, 54,
    "the consent's nonce was used before",
    "let the client sign a new consent with a fresh nonce",
)  # fmt: skip
BAD_LENGTH = _code(
    "E_BAD_LENGTH", Category.INVALID_ARGUMENT, 55,
    "a task id must have 16 bytes, a model digest and a result hash 32",
    "pass them unabridged",
)  # fmt: skip
CONSENT_EXPIRED = _code(
    "E_CONSENT_EXPIRED", Category.INVALID_STATE, 56,
    "the client's consent has expired",
    "settle earlier; the client alone can sign a new consent",
)  # fmt: skip
BAD_CONSENT_SIGNATURE = _code(
    "E_BAD_CONSENT_SIGNATURE", Category.INVALID_ARGUMENT, 57,
    "the client's key has not signed this consent for this chain, contract and server",
    "let the client sign a consent that names this ledger's chain id, the contract and this router",
)  # fmt: skip
BAD_CLAIM_SIGNATURE = _code(
    "E_BAD_CLAIM_SIGNATURE", Category.INVALID_ARGUMENT, 58,
    "the orchestrator's key has not signed this claim for this chain, contract, client and server",
    "let the orchestrator sign the claim; nothing in it may change afterwards",
)  # fmt: skip
BAD_DEADLINES = _code(
    "E_BAD_DEADLINES", Category.INVALID_ARGUMENT, 59,
    "deadlines must satisfy now <= accept_by <= done_by <= now + longest task",
    "choose deadlines in that order, in Unix seconds of the ledger's clock",
)  # fmt: skip
NOT_TASK_SERVER = _code(
    "E_NOT_TASK_SERVER", Category.PERMISSION_DENIED, 60,
    "the task belongs to another server",
    "only the server that created the task may complete or fail it",
)  # fmt: skip
WRONG_ORCHESTRATOR = _code(
    "E_WRONG_ORCHESTRATOR", Category.PERMISSION_DENIED, 61,
    "the escrowed task is assigned to another orchestrator",
    "only the assigned orchestrator is paid",
)  # fmt: skip
BAD_DELEGATE = _code(
    "E_BAD_DELEGATE", Category.INVALID_ARGUMENT, 62,
    "the delegate is not another registered orchestrator, or its share is above max_delegate_bps",
    "correct the claim's delegate and share; without a delegate the share is 0",
)  # fmt: skip
CLAIM_OUT_OF_BOUNDS = _code(
    "E_CLAIM_OUT_OF_BOUNDS", Category.OUT_OF_RANGE, 63,
    "complexity, compute time or quality is beyond what the contract computes with",
    "keep complexity within 10^15 MFLOP, compute time within the longest task and quality within 1000000 ppm",
)  # fmt: skip
TOO_EARLY = _code(
    "E_TOO_EARLY", Category.INVALID_STATE, 64,
    "the deadline has not passed",
    "wait until after a task's done_by, or a dispute's act_by",
)  # fmt: skip
BAD_BATCH = _code(
    "E_BAD_BATCH", Category.INVALID_ARGUMENT, 65,
    "a batch has 1 to 50 items and all its columns are equally long",
    "split the batch",
)  # fmt: skip
SAME_ORCHESTRATOR = _code(
    "E_SAME_ORCHESTRATOR", Category.ALREADY_EXISTS, 66,
    "the task is assigned to this orchestrator already",
    "nothing to do",
)  # fmt: skip

# disputes
NOT_ARBITER = _code(
    "E_NOT_ARBITER", Category.PERMISSION_DENIED, 70,
    "only the contract's arbiter decides a contested dispute",
    "sign with the arbiter's key",
)  # fmt: skip
NO_DISPUTE = _code(
    "E_NO_DISPUTE", Category.NOT_FOUND, 71,
    "this task is not disputed",
    "check the client's address and the task id",
)  # fmt: skip
DISPUTE_EXISTS = _code(
    "E_DISPUTE_EXISTS", Category.ALREADY_EXISTS, 72,
    "this task has been disputed before",
    "nothing to do; a task can be disputed once",
)  # fmt: skip
NOT_DISPUTABLE = _code(
    "E_NOT_DISPUTABLE", Category.INVALID_STATE, 73,
    "only a completed task can be disputed",
    "nothing to do; a task that failed or timed out was refunded, an open one will be",
)  # fmt: skip
NOT_TASK_PARTY = _code(
    "E_NOT_TASK_PARTY", Category.PERMISSION_DENIED, 74,
    "only the task's client and its server may dispute it",
    "sign with the key of one of them",
)  # fmt: skip
DISPUTE_TOO_LATE = _code(
    "E_DISPUTE_TOO_LATE", Category.INVALID_STATE, 75,
    "the task ended longer ago than the dispute window",
    "nothing to do; dispute earlier",
)  # fmt: skip
CONTEST_TOO_LATE = _code(
    "E_CONTEST_TOO_LATE", Category.INVALID_STATE, 76,
    "the time to contest this dispute has passed",
    "nothing to do; contest earlier",
)  # fmt: skip
WRONG_DISPUTE_STATUS = _code(
    "E_WRONG_DISPUTE_STATUS", Category.INVALID_STATE, 77,
    "the dispute is contested or decided already, or not contested yet",
    "look at its status: only an open dispute is contested, only a contested one resolved, and each closed once",
)  # fmt: skip
ALREADY_SLASHED = _code(
    "E_ALREADY_SLASHED", Category.ALREADY_EXISTS, 78,
    "this operator has been slashed for this task before",
    "nothing to do; one incident is punished once",
)  # fmt: skip
NO_EQUIVOCATION = _code(
    "E_NO_EQUIVOCATION", Category.INVALID_ARGUMENT, 79,
    "both claims commit to the same result",
    "give two claims for one task that one key signed with different result hashes",
)  # fmt: skip
