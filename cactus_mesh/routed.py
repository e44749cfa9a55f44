"""One client's task at a router: how it is placed, examined and forwarded, and what has become of its money."""

from __future__ import annotations

import math
import secrets
from typing import TYPE_CHECKING, Final

import trio

from cactus_mesh.concurrency import Stop
from cactus_mesh.core.delegation import continue_chain
from cactus_mesh.core.draws import SECRET_BYTES, nonce_of
from cactus_mesh.core.matching import Need
from cactus_mesh.core.readings import reads
from cactus_mesh.core.settlement import SettlementClaim
from cactus_mesh.core.verification import failed_checks
from cactus_mesh.dispatch import Evidence, Placed
from cactus_mesh.errors import LedgerDown, MeshError
from cactus_mesh.identity import address
from cactus_mesh.messages import (
    Assignment,
    Done,
    Order,
    Outcome,
    Progress,
    Receipt,
    encode_unsigned,
    kind_of,
    unseal,
)
from cactus_mesh.ports import EscrowOrder

if TYPE_CHECKING:
    from cactus_mesh.core.matching import Candidate
    from cactus_mesh.core.requests import OpenRequest
    from cactus_mesh.core.routing import Record
    from cactus_mesh.core.verification import Witnessed
    from cactus_mesh.identity import PublicKey
    from cactus_mesh.messages import Chunk, Partial, Sealed
    from cactus_mesh.ports import Call
    from cactus_mesh.router import Router

ESCROW_ACCEPT_SECONDS: Final = 60


class Running:
    """A task under way, and what has become of its money."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.why_cancelled: MeshError | None = None
        self.over = trio.Event()
        self.error: Exception | None = None
        """What its client is to hear instead of an answer, once it is over."""
        self.stop = Stop()
        self.alone = False
        """Nobody listens any more."""
        self.held: list[bytes] = []
        """What its client has not been sent yet, as it leaves together with what follows."""
        self._saying = trio.CancelScope()
        self.escrowed = False
        self.handed_over = False

    def cancel(self, why: MeshError) -> None:
        self.why_cancelled = why
        self.scope.cancel()

    def leave(self) -> None:
        """The client has gone: what was made by now is still signed for and settled."""
        self.alone = True
        self._saying.cancel()
        self.stop.ask()

    async def let_go(self, call: Call) -> None:
        """Send what was held back, if there is still somebody to hear it."""
        held, self.held = self.held, []
        with trio.CancelScope() as self._saying:
            for item in held:
                if not self.alone:
                    await call.send(item)


class RoutedTask:
    """One client's task as a `dispatch.Plan`."""

    def __init__(
        self, router: Router, call: Call, opened: OpenRequest, running: Running, nursery: trio.Nursery
    ) -> None:
        request = opened.sealed.body
        self.task_id = request.task_id
        self.sampling = request.sampling
        self.deadline_ms = request.deadline_ms
        self.partial: Partial | None = None
        self.stop = running.stop
        self._router = router
        self._call = call
        self._opened = opened
        self._running = running
        self._nursery = nursery
        self.draw_secret = secrets.token_bytes(SECRET_BYTES)
        """Decides, with the receipt, whether this task is audited; its assignments commit to it."""
        self._assignment: Sealed[Assignment] | None = None
        self._held_for: PublicKey | None = None
        """Whose the price in escrow is, or is about to be."""
        self._escrow: trio.Event | None = None
        """When the ledger has answered what it was last asked about the escrow."""

    def place(self, candidate: Candidate, attempt: int, partial: Partial | None) -> Placed:
        assignment = Assignment(
            task_id=self.task_id,
            request_hash=self._opened.sealed.digest,
            router_nonce=nonce_of(self.draw_secret),
            attempt=attempt,
            offer=candidate.offer,
            done_by_ms=self.deadline_ms,
            partial=partial,
        )
        self._assignment = self._router.seal(assignment, candidate.orchestrator)
        return Placed(Order(self._opened.sealed.raw, self._assignment.raw), self._assignment.digest)

    def examine(self, candidate: Candidate, done: Done, seen: Witnessed) -> Evidence:
        assert self._assignment is not None, "what is examined was placed"
        chain = continue_chain(self._opened, self._assignment, done.delegations, now_ms=None)
        receipt = unseal(done.receipt, Receipt, now_ms=self._router.clock(), sender=candidate.orchestrator)
        ours = Done(self._assignment.raw, done.delegations, done.receipt, None)
        failed = failed_checks(receipt, chain, self._router.contract, seen)
        text = seen.text if reads(self._opened.sealed.body.work) else ""
        return Evidence(ours, chain, receipt, failed, text)

    async def progress(self, candidate: Candidate, attempt: int) -> None:
        self._running.held.append(encode_unsigned(Progress(candidate.orchestrator, attempt)))

    async def forward(self, chunk: Chunk) -> None:
        self._hold_price()
        self._running.held.append(encode_unsigned(chunk))

    async def let_go(self) -> None:
        await self._running.let_go(self._call)

    def _hold_price(self) -> None:
        """Have a high price wait on the ledger for whoever works on the task now, beside the work."""
        assert self._assignment is not None, "tokens come from whoever the task was placed with"
        worker = self._assignment.recipient
        assert worker is not None, "an assignment names its orchestrator"
        if worker == self._held_for or self._opened.consent.max_price <= self._router.escrow_above:
            return
        before, ended = self._escrow, trio.Event()
        self._held_for, self._escrow = worker, ended
        self._nursery.start_soon(self._put_in_escrow, worker, before, ended)

    async def _put_in_escrow(self, worker: PublicKey, before: trio.Event | None, ended: trio.Event) -> None:
        """Have the ledger hold the task's price.  Whatever came of an attempt that got no answer is refunded later."""
        running = self._running
        try:
            with trio.CancelScope(shield=True):
                if before is not None:
                    await before.wait()
                if running.why_cancelled is None:
                    await self._move_escrow(worker) if running.escrowed else await self._make_escrow(worker)
        except MeshError as error:
            running.cancel(error)
        ended.set()

    async def _make_escrow(self, worker: PublicKey) -> None:
        router, running, consent = self._router, self._running, self._opened.consent
        running.escrowed = True
        router.settling.escrow(consent)
        try:
            await router.ledger.create_task(router.identity, self._escrow_order(worker))
        except LedgerDown:
            raise
        except MeshError:
            running.escrowed = False
            router.settling.never_escrowed(consent)
            raise

    async def _move_escrow(self, worker: PublicKey) -> None:
        """Who had it before is lost: the ledger notes that, and pays *worker* for the whole."""
        router, consent = self._router, self._opened.consent
        await router.ledger.reassign_task(router.identity, consent.client, consent.task_id, address(worker))

    def _escrow_order(self, worker: PublicKey) -> EscrowOrder:
        done_by = -(-self.deadline_ms // 1_000)
        return EscrowOrder(
            consent=self._opened.consent,
            consent_signature=self._opened.sealed.body.consent_signature,
            orchestrator=address(worker),
            accept_by=min(self._router.clock() // 1_000 + ESCROW_ACCEPT_SECONDS, done_by),
            done_by=done_by,
        )

    async def in_escrow(self) -> None:
        """Wait until a high price is held for who has done the task, maybe without a token of its own."""
        self._hold_price()
        if self._escrow is not None:
            await self.let_go()
            await self._escrow.wait()
            await trio.lowlevel.checkpoint()  # a refusal has cancelled this task

    def record(self, report: Record, evidence: Evidence | None) -> None:
        receipt = evidence.receipt.body if evidence is not None else None
        claim = SettlementClaim.from_bcs(receipt.claim) if receipt and report.result == "completed" else None
        delegated = evidence is not None and bool(evidence.chain.delegations)
        self._router.outcomes.note(
            Outcome(
                task_id=self.task_id,
                orchestrator=report.candidate.orchestrator,
                delegate=evidence.chain.worker if evidence is not None and delegated else None,
                model_digest=report.candidate.offer.digest,
                result=report.result,
                complexity=claim.complexity if claim else 0,
                compute_ms=claim.compute_ms if claim else 0,
                first_token_ms=report.first_token_ms,
            )
        )


def need_of(opened: OpenRequest, stake_cover: float) -> Need:
    """What a request demands of an orchestrator; its stake must be *stake_cover* times the maximum price."""
    request = opened.sealed.body
    return Need(
        model=request.model,
        model_digest=request.model_digest,
        kind=kind_of(request.work),
        prompt_tokens=1,
        max_tokens=request.sampling.max_tokens,
        max_price=request.max_price,
        least_stake=math.ceil(stake_cover * request.max_price),
        without=frozenset({opened.client}),
    )
