"""Brings an account's money back as soon as it may leave: unbonded stake, withdrawals, escrow of dead tasks, bonds.

Which claims there are is decided by `core.holdings`; this looks, signs and tries again, and never asks twice at once.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from cactus_mesh.clock import wall_clock
from cactus_mesh.core.holdings import Standing, TaskName, claims, holdings
from cactus_mesh.errors import LedgerDown, LedgerError, MeshError

if TYPE_CHECKING:
    from collections.abc import Callable

    from cactus_mesh.book import Book
    from cactus_mesh.clock import Clock
    from cactus_mesh.config import ClaimsConfig
    from cactus_mesh.core.holdings import Claim
    from cactus_mesh.core.settlement import TaskConsent
    from cactus_mesh.identity import Address, Identity
    from cactus_mesh.ports import DisputeView, Ledger, OrchestratorView, TaskView

MAX_TASKS: Final = 512
"""Tasks looked at in one survey; a client has at most 256 under way.  The oldest come first, the others next time."""
MAX_SEARCHED: Final = 500
"""Tasks that a survey looks through for a dispute that nobody named: half a minute at a distant node."""
MAX_REFUSALS: Final = 5
"""Rounds in which the same claim may be refused before it is left to its owner."""
CLOCK_SLACK_SECONDS: Final = 60
"""By so much the ledger's clock may be behind ours."""

log = logging.getLogger(__name__)


async def survey(ledger: Ledger, book: Book, account: Address, now: float, *, search: int = MAX_SEARCHED) -> Standing:
    """Everything that the ledger knows of *account*, also where only this home's book says where to look.

    *search*: how many of its own finished tasks to look through where a stake is frozen by a dispute of unknown task.
    """
    client = await ledger.client(account)
    stakes = await _stakes(ledger, book, account)
    for operator, stake in stakes:
        if stake.frozen:
            await _find_disputes(ledger, book, operator, stake, now, search)
    disputes: dict[TaskName, DisputeView] = {}
    for party in dict.fromkeys([account, *(operator for operator, _ in stakes)]):
        disputes |= await _disputes(ledger, book, party)
    return Standing(
        account=account,
        min_stake=ledger.chain.min_stake,
        coins=await ledger.balance(account),
        client=client,
        server=await ledger.server(account),
        stakes=tuple(stakes),
        tasks=tuple(await _tasks(ledger, book, account, escrowed=client.escrowed if client else 0, now=now)),
        disputes=tuple(disputes.items()),
    )


async def _stakes(ledger: Ledger, book: Book, account: Address) -> list[tuple[Address, OrchestratorView]]:
    """The one that *account* operates, and those that it owns as far as this home knows."""
    found: list[tuple[Address, OrchestratorView]] = []
    for operator in dict.fromkeys([account, *book.operators(account)]):
        view = await ledger.orchestrator(operator)
        if view is not None:
            found.append((operator, view))
        else:
            book.forget_stake(account, operator)  # its key was replaced
    return found


async def _tasks(
    ledger: Ledger, book: Book, client: Address, *, escrowed: int, now: float
) -> list[tuple[TaskName, TaskView]]:
    """Those in escrow.  What the ledger has closed, or can never open any more, is forgotten."""
    over = int(now) - CLOCK_SLACK_SECONDS
    if escrowed == 0:
        book.forget_expired_tasks(client, expired_at=over)
        return []
    found: list[tuple[TaskName, TaskView]] = []
    closed: list[TaskName] = []
    for asked in book.tasks(client, limit=MAX_TASKS):
        task = await ledger.task(*asked.name)
        if task is not None and task.status == "created":
            found.append((asked.name, task))
        elif task is not None or asked.expires_at < over:
            closed.append(asked.name)
    book.forget_tasks(closed)
    return found


async def _disputes(ledger: Ledger, book: Book, party: Address) -> list[tuple[TaskName, DisputeView]]:
    found: list[tuple[TaskName, DisputeView]] = []
    for name in book.disputes(party):
        view = await ledger.dispute(*name)
        if view is not None and view.status in ("open", "contested"):
            found.append((name, view))
        elif view is not None:
            book.forget_dispute(party, name)
    return found


async def _find_disputes(
    ledger: Ledger, book: Book, operator: Address, stake: OrchestratorView, now: float, search: int
) -> None:
    """Look for the doubted tasks in what this orchestrator has done; the contract does not list them."""
    known = {name for name, _ in await _disputes(ledger, book, operator)}
    for name in book.disputable(operator, int(now))[:search]:
        if len(known) >= stake.open_disputes:
            return
        if name not in known:
            view = await ledger.dispute(*name)
            if view is not None and view.status in ("open", "contested"):
                known.add(name)
                book.disputed(operator, name)


async def carry_out(ledger: Ledger, signer: Identity, claim: Claim) -> None:
    """Raises what the ledger says against it."""
    match claim.kind:
        case "withdrawal":
            await ledger.withdraw(signer)
        case "unbonding":
            assert claim.operator is not None, "a stake has an operator"
            await ledger.withdraw_stake(signer, claim.operator)
        case "escrow":
            assert claim.task is not None, "an escrow is a task's"
            await ledger.timeout_task(signer, *claim.task)
        case "dispute":
            assert claim.task is not None, "a dispute is about a task"
            await ledger.finalize_dispute(signer, *claim.task)


class Claimer:
    """Claims for one key, round after round."""

    def __init__(
        self, identity: Identity, ledger: Ledger, book: Book, config: ClaimsConfig, clock: Clock = wall_clock
    ) -> None:
        self._identity = identity
        self._ledger = ledger
        self._book = book
        self._config = config
        self._clock = clock
        self._refused: dict[Claim, int] = {}
        self._down = False
        self._doubted: set[TaskName] = set()
        self.standing: Standing | None = None
        """As it was in the last round in which the ledger told."""
        self.claimed = 0
        """Octas since the start."""
        self.to_do: list[str] = []
        """What this key may not do itself, or not decide: an owner's claims, an answer to a dispute."""

    async def run(self, *, first_after_seconds: float = 0.0) -> None:
        await trio.sleep(first_after_seconds)
        while True:
            await self.round()
            await trio.sleep(self._config.every_seconds)

    async def round(self) -> None:
        """Claim all that is due.  A ledger that is down, or says no, is asked again in the next round."""
        now = self._clock() / 1_000
        try:
            standing = await survey(self._ledger, self._book, self._identity.address, now)
        except LedgerError as error:
            self._complain(error)
            return
        self._down = False
        self._warn_of_disputes(standing)
        self.standing = standing
        self.to_do = [
            f"{f'{line.amount:,} octas {line.kind}' if line.amount else line.kind}: {line.why}; run: {line.do}"
            for line in holdings(standing, now)
            if line.do and ((line.due and not line.own) or line.kind == "dispute")
        ]
        due = claims(standing, now)
        self._refused = {claim: times for claim, times in self._refused.items() if claim in due}
        for claim in due:
            if self._worth_it(claim):
                await self._claim(claim)

    def _worth_it(self, claim: Claim) -> bool:
        """A fee is not paid for less than it costs, nor for what was refused again and again."""
        least = 0 if claim.kind == "dispute" else self._config.least
        return claim.amount >= least and self._refused.get(claim, 0) < MAX_REFUSALS

    async def _claim(self, claim: Claim) -> None:
        try:
            await carry_out(self._ledger, self._identity, claim)
        except LedgerDown as error:
            self._complain(error)
        except MeshError as error:
            self._refused[claim] = self._refused.get(claim, 0) + 1
            if self._refused[claim] == MAX_REFUSALS:
                log.warning("cannot claim", extra={"what": claim.words, "octas": claim.amount, "why": str(error)})
        else:
            self.claimed += claim.amount
            log.info("claimed", extra={"what": claim.words, "octas": claim.amount})

    def _complain(self, error: LedgerError) -> None:
        """Once, until the ledger answers again."""
        if not self._down:
            log.warning("the ledger does not answer; claims wait", extra={"why": str(error)})
        self._down = True

    def _warn_of_disputes(self, standing: Standing) -> None:
        for name, dispute in standing.disputes:
            if dispute.opener != standing.account and name not in self._doubted:
                self._doubted.add(name)
                log.warning(
                    "a task of this orchestrator is disputed; its owner can contest it",
                    extra={"client": name.client, "task": name.task_id.hex(), "until": dispute.act_by},
                )


# --- for those who run beside it -----------------------------------------------------------------------------------


def claim_beside(services: trio.Nursery, identity: Identity, ledger: Ledger, book: Book, config: ClaimsConfig) -> None:
    """Claim in *services* as long as they run.  A short visit does not look for what can't be there yet."""
    if not config.automatic:
        return
    overdue = any(task.expires_at * 1_000 < wall_clock() for task in book.tasks(identity.address, limit=1))
    soon = 0.0 if overdue else config.every_seconds
    services.start_soon(partial(Claimer(identity, ledger, book, config).run, first_after_seconds=soon))


async def answering_for(ledger: Ledger, book: Book, operator: Address) -> Callable[[TaskConsent], None]:
    """Notes a task for as long as it may be in dispute, so that the dispute is found."""
    params = (await ledger.governance()).params
    window = sum(params[each] for each in ("dispute_window_seconds", "contest_seconds", "arbitration_seconds"))

    def note(consent: TaskConsent) -> None:
        book.served(operator, TaskName(consent.client, consent.task_id), consent.expires_at + window)

    return note
