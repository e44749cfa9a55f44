"""Where an account's money is: how much, why, until when, what to do about it; and what of it can be claimed now.

Pure: from what the ledger says of the account to lines that explain it.  Amounts in octas, times in Unix seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from cactus_mesh.identity import Address, peer_id

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cactus_mesh.ports import ClientView, DisputeView, Due, OrchestratorView, ServerView, TaskView

CLAIM: Final = "cactus-mesh claim"
KEY: Final = " --owner-key FILE"


class TaskName(NamedTuple):
    """What the ledger finds a task by, and its dispute."""

    client: Address
    task_id: bytes


@dataclass(frozen=True, slots=True)
class Standing:
    """Everything that is known of *account*.  *stakes* by operator, *tasks* its own that may be in escrow."""

    account: Address
    min_stake: int
    coins: int = 0
    client: ClientView | None = None
    server: ServerView | None = None
    stakes: tuple[tuple[Address, OrchestratorView], ...] = ()
    tasks: tuple[tuple[TaskName, TaskView], ...] = ()
    disputes: tuple[tuple[TaskName, DisputeView], ...] = ()

    @property
    def known(self) -> bool:
        """Whether the ledger has anything at all under this account."""
        return bool(self.coins or self.client or self.server or self.stakes)


Kind = Literal["coins", "deposit", "escrow", "withdrawal", "stake", "unbonding", "bond", "dispute", "budget"]


@dataclass(frozen=True, slots=True)
class Holding:
    """One amount and its explanation.  *until*: when it may leave or somebody must act; *due*: that is now.

    *own* is False for what the account only looks after: a stake that another account owns, clients' money in escrow.
    """

    kind: Kind
    amount: int
    why: str
    until: int | None = None
    due: bool = False
    do: str = ""
    own: bool = True


ClaimKind = Literal["withdrawal", "unbonding", "escrow", "dispute"]


@dataclass(frozen=True, slots=True)
class Claim:
    """One transaction that brings *amount* back.  Which fields it has besides follows from its kind."""

    kind: ClaimKind
    amount: int
    operator: Address | None = None
    task: TaskName | None = None

    @property
    def words(self) -> str:
        if self.kind == "withdrawal":
            return "withdrawn from the deposit"
        if self.kind == "unbonding":
            return "unbonded stake"
        assert self.task is not None, "the others are about a task"
        what = "back into the deposit, of task" if self.kind == "escrow" else "bond of the dispute about task"
        return f"{what} {self.task.task_id.hex()}"


def claims(standing: Standing, now: float) -> list[Claim]:
    """What a key of this account can bring back now."""
    return [*_claims_of_client(standing, now), *_claims_of_owner(standing, now), *_claims_of_disputes(standing, now)]


def _claims_of_client(standing: Standing, now: float) -> Iterator[Claim]:
    due = _due(standing.client.withdrawals, now) if standing.client else 0
    if due:
        yield Claim("withdrawal", due)
    for name, task in standing.tasks:
        if task.status == "created" and now > task.done_by:
            yield Claim("escrow", task.max_price, task=name)


def _claims_of_owner(standing: Standing, now: float) -> Iterator[Claim]:
    for operator, stake in standing.stakes:
        due = _due(stake.unbonding, now)
        if due and stake.owner == standing.account and not stake.frozen:
            yield Claim("unbonding", due, operator=operator)


def _claims_of_disputes(standing: Standing, now: float) -> Iterator[Claim]:
    """Its opener ends any dispute that nobody answered in time; an owner one that its arbiter left undecided."""
    for name, dispute in standing.disputes:
        opened = dispute.opener == standing.account
        if now > dispute.act_by and (dispute.status == "contested" or (opened and dispute.status == "open")):
            yield Claim("dispute", dispute.bond if opened else 0, task=name)


def _due(dues: tuple[Due, ...], now: float) -> int:
    return sum(due.amount for due in dues if due.release_at <= now)


# --- every amount, explained -------------------------------------------------------------------------------------


def holdings(standing: Standing, now: float, *, at_hand: bool = True) -> list[Holding]:
    """Everything that the account has anywhere, and what hangs on it.

    *at_hand*: its key is this home's, so that commands need not name the file that it is in.
    """
    key = "" if at_hand else KEY
    return [
        Holding("coins", standing.coins, "in the account itself, free to spend"),
        *_of_client(standing, now, key),
        *(line for operator, stake in standing.stakes for line in _of_stake(standing, operator, stake, now, key)),
        *_of_disputes(standing, now, key),
        *_of_server(standing, now),
    ]


def _of_client(standing: Standing, now: float, key: str) -> Iterator[Holding]:
    client = standing.client
    if client is None:
        return
    yield Holding("deposit", client.deposit, "pays for the tasks of this account")
    unexplained = client.escrowed
    for name, task in standing.tasks:
        if task.status == "created":
            unexplained -= task.max_price
            yield _escrow(name, task, now, key)
    if unexplained > 0:
        yield Holding(
            "escrow",
            unexplained,
            "for tasks asked from elsewhere; their routers pay or refund them, and past its deadline anybody can",
            do=f"{CLAIM} --task TASK_ID{key}",
        )
    for due in client.withdrawals:
        if due.release_at <= now:
            yield Holding("withdrawal", due.amount, "its wait is over", due.release_at, due=True, do=CLAIM + key)
        else:
            why = "on its way out; routers may still be working for what you promised"
            yield Holding("withdrawal", due.amount, why, due.release_at)


def _escrow(name: TaskName, task: TaskView, now: float, key: str) -> Holding:
    short = name.task_id.hex()[:12]
    if now > task.done_by:
        why = f"task {short}… was never paid or refunded, and its deadline has passed"
        return Holding("escrow", task.max_price, why, task.done_by, due=True, do=CLAIM + key)
    return Holding("escrow", task.max_price, f"held for task {short}… until it is paid or refunded", task.done_by)


def _of_stake(
    standing: Standing, operator: Address, stake: OrchestratorView, now: float, key: str
) -> Iterator[Holding]:
    own = stake.owner == standing.account
    named = "" if own and operator == standing.account else f" --operator {peer_id(stake.public_key)}"
    frozen = (
        "; frozen by 1 open dispute" if stake.open_disputes == 1 else f"; frozen by {stake.open_disputes} open disputes"
    )
    chill = frozen if stake.frozen else ""
    whose = "" if own else "; only its owner's key moves it"
    key = key if own else KEY
    missing = standing.min_stake - stake.stake
    if missing > 0:
        why = f"backs your work, but is below the minimum of {standing.min_stake:,} octas: no tasks come"
        yield Holding("stake", stake.stake, why + chill + whose, do=f"cactus-mesh stake {missing}{named}{key}", own=own)
    else:
        do = f"cactus-mesh unstake AMOUNT{named}{key}"
        yield Holding("stake", stake.stake, "backs your work and can be slashed" + chill + whose, do=do, own=own)
    for due in stake.unbonding:
        if due.release_at > now:
            do = f"cactus-mesh unstake --cancel{named}{key}"
            why = "unbonding: earns no tasks, still answers for past ones"
            yield Holding("unbonding", due.amount, why + chill + whose, due.release_at, do=do, own=own)
        elif stake.frozen:
            why = "its wait is over, but nothing leaves until the dispute is decided"
            yield Holding("unbonding", due.amount, why + chill + whose, due.release_at, own=own)
        else:
            why = "its wait is over" + whose
            yield Holding("unbonding", due.amount, why, due.release_at, due=True, do=f"{CLAIM}{named}{key}", own=own)


def _of_disputes(standing: Standing, now: float, key: str) -> Iterator[Holding]:
    own = not key and all(stake.owner == standing.account for _, stake in standing.stakes)
    for name, dispute in standing.disputes:
        if dispute.status not in ("open", "contested"):
            continue
        about = f"{name.task_id.hex()} --client {name.client}"
        over = now > dispute.act_by
        if dispute.opener == standing.account:
            why = _WAITS_FOR[dispute.status, over]
            yield Holding("bond", dispute.bond, why, dispute.act_by, due=over, do=CLAIM + key if over else "")
        else:
            why, command = _AGAINST[dispute.status, over]
            signed = "" if own or not command.startswith("contest") else KEY
            do = f"cactus-mesh dispute {command.format(about)}{signed}" if command else ""
            yield Holding("dispute", 0, f"{why} (task {name.task_id.hex()[:12]}…)", dispute.act_by, due=over, do=do)


_WAITS_FOR: Final = {
    ("open", False): "your dispute's; until then the orchestrator's owner may contest it",
    ("open", True): "your dispute's; nobody contested it, so that it is won",
    ("contested", False): "your dispute's; until then the arbiter decides, and may award it to the owner",
    ("contested", True): "your dispute's; the arbiter did not decide, so that it lapses",
}
_AGAINST: Final = {
    ("open", False): ("against your stake: contest it by then, or it is lost", "contest {} --answer FILE"),
    ("open", True): ("against your stake: it was not contested in time", ""),
    ("contested", False): ("against your stake: the arbiter has until then to decide", ""),
    ("contested", True): ("against your stake: undecided, so that it lapses", "finalize {}"),
}


def _of_server(standing: Standing, now: float) -> Iterator[Holding]:
    server = standing.server
    if server is None:
        return
    if server.authorised(now):
        why = f"clients' money that you hold in escrow as a router; at most {server.max_budget:,} octas"
        yield Holding("budget", server.escrowed, why, server.expires_at, own=False)
        return
    expired = server.status == "authorised"
    why = "you are a router " + ("whose authorisation has ended" if expired else _STANDING[server.status])
    yield Holding("budget", server.escrowed, why, own=False)


_STANDING: Final = {"pending": "that waits for its authorisation", "revoked": "whose authorisation was revoked"}
