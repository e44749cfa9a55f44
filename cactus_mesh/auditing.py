"""A router's audits: has drawn answers replayed, by its own engine or by another orchestrator, and acts on the verdict.

A fail counts once a second verifier has found it too; then its evidence is kept and a dispute opened.  The I/O around
`core.draws`, `core.audit`, `core.suspicion` and `core.exhibits`.
"""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from cactus_mesh.concurrency import beside, open_service_nursery
from cactus_mesh.core import exhibits
from cactus_mesh.core.draws import rate_ppm
from cactus_mesh.core.exhibits import MAX_EXHIBITS, Statement, exhibit_of
from cactus_mesh.core.settlement import SettlementClaim
from cactus_mesh.core.suspicion import Suspicion
from cactus_mesh.dossier import Case, Record
from cactus_mesh.errors import LedgerError, MeshError
from cactus_mesh.identity import peer_id
from cactus_mesh.spans import about

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from cactus_mesh.core.audit import Judgement
    from cactus_mesh.core.draws import AuditPolicy
    from cactus_mesh.core.exhibits import Exhibit, Opinion, Proof
    from cactus_mesh.core.thresholds import Table
    from cactus_mesh.directory import Directory
    from cactus_mesh.dispatch import Evidence
    from cactus_mesh.dossier import Dossier
    from cactus_mesh.identity import Address, PublicKey
    from cactus_mesh.messages import Finding, Receipt, Sealed
    from cactus_mesh.ports import Engine, Ledger
    from cactus_mesh.verifiers import Verifiers

MAX_WAITING: Final = 256
"""Drawn answers that wait to be audited; the next one is paid unaudited, and said so in the log."""
MAX_WAITING_CHARACTERS: Final = 64 << 20
"""Of their texts, which are kept where they were read whole; the longest has a quarter of it."""
MAX_SHOWN_CHARACTERS: Final = 32 << 20
"""Of the texts in one evidence."""
AUDIT_SECONDS: Final = 600.0
"""The longest that one audit may take, with finding verifiers and confirming."""
DEFAULT_WINDOW_SECONDS: Final = 86_400
"""For a dispute, where the ledger has not told its own."""

NOBODY: Final = "nobody could replay it"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditMeans:
    """What a router audits with.  *engine* is its own, if it has one; *disputed* hears of each dispute it opens."""

    policy: AuditPolicy
    table: Table
    dossier: Dossier
    engine: Engine | None = None
    disputed: Callable[[Address, bytes], None] = lambda _client, _task: None


@dataclass(eq=False)
class Job:
    """A drawn answer.  *pay* settles it, once, whatever comes of the audit."""

    evidence: Evidence
    statement: Statement
    pay: Callable[[bool], None]
    decided: trio.Event = field(default_factory=trio.Event)
    borne_out: bool = True
    paid: bool = False

    @property
    def liable(self) -> PublicKey:
        return self.evidence.chain.liable

    @property
    def receipt(self) -> Sealed[Receipt]:
        return self.evidence.receipt

    @property
    def model(self) -> bytes:
        return self.evidence.receipt.body.model_digest

    def settle(self) -> None:
        if not self.paid:
            self.paid = True
            self.pay(self.borne_out)


@asynccontextmanager
async def open_auditor(
    ledger: Ledger,
    directory: Directory,
    verifiers: Verifiers,
    means: AuditMeans,
    *,
    failed: Callable[[Evidence], None],
) -> AsyncIterator[Auditor]:
    """*failed* hears of each confirmed fail.  Leaving the block ends audits under way; what they held up is paid."""
    auditor = Auditor(ledger, directory, verifiers, means, failed)
    async with open_service_nursery() as nursery:
        for _ in range(means.policy.at_once):
            nursery.start_soon(auditor._work)
        nursery.start_soon(auditor._learn_terms)
        auditor._payers = nursery
        try:
            yield auditor
        finally:
            for job in tuple(auditor._open):
                job.settle()


class Auditor:
    def __init__(
        self,
        ledger: Ledger,
        directory: Directory,
        verifiers: Verifiers,
        means: AuditMeans,
        failed: Callable[[Evidence], None],
    ) -> None:
        self._ledger = ledger
        self._directory = directory
        self._verifiers = verifiers
        self._dossier = means.dossier
        self._policy = means.policy
        self._table = means.table
        self._failed = failed
        self._payers: trio.Nursery | None = None
        self._into, self._queue = trio.open_memory_channel[Job](MAX_WAITING)
        self._open: set[Job] = set()
        self._max_slash = 0
        self._window_seconds = DEFAULT_WINDOW_SECONDS
        self.results: Counter[str] = Counter()
        """How many audits have ended how, since the start."""

    @property
    def waiting(self) -> int:
        return len(self._open)

    def rate_ppm(self, evidence: Evidence) -> int:
        """How often an answer like this one is audited."""
        liable, receipt = evidence.chain.liable, evidence.receipt.body
        stakes = [candidate.stake for candidate in self._directory.index.of_peer(liable)]
        return rate_ppm(
            self._policy,
            passed=self._dossier.record(liable, receipt.model_digest).passed,
            price=SettlementClaim.from_bcs(receipt.claim).price,
            slash=min(self._max_slash, max(stakes, default=0)),
        )

    def take(self, evidence: Evidence, draw_secret: bytes, pay: Callable[[bool], None]) -> None:
        """Audit an answer.  *pay* is called once: when it is decided, or when that takes too long."""
        text = evidence.text
        job = Job(evidence, Statement(evidence.chain, evidence.receipt, text, draw_secret if text else b""), pay)
        assert self._payers is not None, "an auditor is obtained from open_auditor"
        waiting = sum(len(each.evidence.text) for each in self._open)
        try:
            if waiting + len(text) > MAX_WAITING_CHARACTERS:
                raise trio.WouldBlock
            self._into.send_nowait(job)
        except trio.WouldBlock:
            self._ended(job, "missed", ("too many wait",))
            job.settle()
            return
        self._open.add(job)
        self._payers.start_soon(self._pay_in_time, job)

    async def _pay_in_time(self, job: Job) -> None:
        try:
            with trio.move_on_after(self._policy.pay_within_seconds):
                await job.decided.wait()
        finally:
            job.settle()

    async def _learn_terms(self) -> None:
        """What a cheat loses at most on this ledger; until it has told, every answer is audited as if nothing."""
        while True:
            try:
                params = (await self._ledger.governance()).params
            except LedgerError as error:
                log.info("the ledger does not tell its terms", extra={"code": error.code})
            else:
                self._max_slash = params["max_slash"]
                self._window_seconds = params["dispute_window_seconds"]
                return
            await trio.sleep(60)

    # --- one audit ---------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        async for job in self._queue:
            with about(task=job.receipt.body.task_id.hex(), peer=peer_id(job.liable)):
                await self._work_on(job)

    async def _work_on(self, job: Job) -> None:
        try:
            with trio.move_on_after(AUDIT_SECONDS) as scope:
                await self._audit(job)
            if scope.cancelled_caught:
                self._ended(job, "inconclusive", ("took too long",))
        except MeshError as error:
            self._ended(job, "inconclusive", (error.code,))
        finally:
            job.decided.set()
            self._open.discard(job)

    async def _audit(self, job: Job) -> None:
        first = await self._replay(job.statement, frozenset())
        if first is None:
            self._ended(job, "inconclusive", (NOBODY,))
            return
        proof, opinion = first
        exhibit = exhibit_of(job.statement, [proof])
        if opinion.judgement.result == "fail":
            await self._confirm(job, exhibit, opinion)
            return
        record = self._note(job, opinion)
        if opinion.comparison.mismatches and opinion.thresholds.calibrated:
            self._dossier.doubt(job.liable, job.model, exhibits.encode(exhibit))
        self._ended(job, opinion.judgement.result, opinion.judgement.failed)
        if record.suspicion.raised:
            await self._confirm_suspicion(job)

    async def _replay(self, statement: Statement, without: frozenset[PublicKey]) -> tuple[Proof, Opinion] | None:
        size = len(statement.text)
        asked = statement.audit()

        async def judge(finding: Sealed[Finding]) -> Opinion:
            return await beside(size, partial(exhibits.opinion, statement, asked, finding, self._table))

        return await self._verifiers.ask(asked, statement.chain, without, judge)

    def _note(self, job: Job, opinion: Opinion) -> Record:
        """Add an audited answer to its orchestrator's record; a doubt makes it half a newcomer again.

        Mismatches add up only where it was measured what an honest machine may mismatch.
        """
        old, seen = self._dossier.record(job.liable, job.model), opinion.comparison
        passed = old.passed + 1 if opinion.judgement.result == "pass" else old.passed // 2
        suspicion = old.suspicion
        if opinion.thresholds.calibrated:
            suspicion = suspicion.after(seen.tokens, seen.mismatches, opinion.thresholds.honest_rate)
        record = Record(passed, suspicion)
        self._dossier.note(job.liable, job.model, record, self._now())
        return record

    # --- a fail ------------------------------------------------------------------------------------------------------

    async def _confirm(self, job: Job, exhibit: Exhibit, first: Opinion) -> None:
        """One verifier may be wrong, or lie; two that know nothing of each other decide."""
        second = await self._replay(job.statement, frozenset({first.verifier}))
        agreed = second is not None and second[1].judgement.result == "fail"
        if second is not None:
            exhibit = exhibit_of(job.statement, [*exhibit.proofs, second[0]])
            if not agreed:
                log.warning(
                    "two verifiers disagree", extra={"peers": [peer_id(each.verifier) for each in (first, second[1])]}
                )
        if agreed:
            self._convict(job, [exhibit], first.judgement)
        else:
            self._file(job, "inconclusive", first.judgement.failed, [exhibit])
            self._ended(job, "inconclusive", ("unconfirmed", *first.judgement.failed))

    async def _confirm_suspicion(self, job: Job) -> None:
        """Have the answers that raised a suspicion replayed by another verifier each."""
        doubted = [exhibits.decode_exhibit(raw) for raw in self._dossier.doubts(job.liable, job.model)]
        confirmed: list[Exhibit] = []
        claimed = found = shown = 0
        for exhibit in doubted[:MAX_EXHIBITS]:
            shown += len(exhibit.text)
            if confirmed and shown > MAX_SHOWN_CHARACTERS:
                break
            look = partial(exhibits.examine, exhibit, self._verifiers.contract, self._table)
            examined = await beside(len(exhibit.text), look)
            first = examined.opinions[0]
            second = await self._replay(examined.statement, frozenset({first.verifier}))
            if second is None:
                continue
            claimed += first.comparison.mismatches
            found += second[1].comparison.mismatches
            confirmed.append(exhibit_of(examined.statement, [*exhibit.proofs, second[0]]))
        self._dossier.forget_doubts(job.liable, job.model)
        record = replace(self._dossier.record(job.liable, job.model), suspicion=Suspicion(), passed=0)
        self._dossier.note(job.liable, job.model, record, self._now())
        if confirmed and 2 * found >= claimed > 0:
            self._convict(job, confirmed, None)
        else:
            log.warning("a suspicion was not confirmed", extra={"peer": peer_id(job.liable), "answers": len(confirmed)})

    def _convict(self, job: Job, shown: list[Exhibit], judgement: Judgement | None) -> None:
        """Keep the evidence, and have the dispute opened."""
        why = judgement.failed if judgement is not None else ("replay_record",)
        job.borne_out = False
        self._file(job, "fail", why, shown)
        record = replace(self._dossier.record(job.liable, job.model), passed=0)
        self._dossier.note(job.liable, job.model, record, self._now())
        self._ended(job, "fail", why)
        self._failed(job.evidence)

    def _file(self, job: Job, result: str, failed: tuple[str, ...], shown: list[Exhibit]) -> None:
        """The case is about the first of *shown*, which may be an earlier answer."""
        about = exhibits.examine(shown[0], self._verifiers.contract, self._table)
        consent, now = about.chain.request.consent, self._now()
        self._dossier.file(
            Case(
                client=consent.client,
                task_id=consent.task_id,
                orchestrator=about.chain.liable,
                result="fail" if result == "fail" else "inconclusive",
                failed=failed,
                evidence=exhibits.encode(exhibits.Evidence(shown)),
                dispute="wanted" if result == "fail" else "none",
                at=now,
                until=now + self._window_seconds,
            )
        )

    def _ended(self, job: Job, result: str, why: tuple[str, ...]) -> None:
        self.results[result] += 1
        expected = result == "pass" or why == (NOBODY,)
        level = logging.INFO if expected else logging.WARNING
        about = {"peer": peer_id(job.liable), "task": job.receipt.body.task_id.hex(), "why": ", ".join(why)}
        log.log(level, "an audit ended: %s", result, extra=about)

    def _now(self) -> int:
        return self._verifiers.clock() // 1_000
