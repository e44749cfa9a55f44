"""One order that an orchestrator hands on: how it is placed with a delegate, examined and passed back."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from cactus_mesh.core.delegation import continue_chain
from cactus_mesh.core.serving import DELEGATE_DEADLINE_MS
from cactus_mesh.core.verification import failed_checks
from cactus_mesh.dispatch import Evidence, Placed
from cactus_mesh.messages import Delegation, Done, Order, Receipt, encode_unsigned, unseal

if TYPE_CHECKING:
    from cactus_mesh.concurrency import Stop
    from cactus_mesh.core.delegation import Chain
    from cactus_mesh.core.matching import Candidate
    from cactus_mesh.core.routing import Record
    from cactus_mesh.core.verification import Witnessed
    from cactus_mesh.messages import Chunk, Partial, Sealed
    from cactus_mesh.orchestrator import Orchestrator
    from cactus_mesh.ports import Call

log = logging.getLogger(__name__)


class DelegatedTask:
    """A task handed on, as a `dispatch.Plan`."""

    def __init__(self, orchestrator: Orchestrator, call: Call, order: Order, chain: Chain, stop: Stop) -> None:
        request = chain.request.sealed.body
        self.task_id = request.task_id
        self.sampling = request.sampling
        self.deadline_ms = chain.done_by_ms - DELEGATE_DEADLINE_MS
        self.partial = chain.partial
        self.stop = stop
        self._orchestrator = orchestrator
        self._call = call
        self._order = order
        self._chain = chain
        self._link: Sealed[Delegation] | None = None

    def place(self, candidate: Candidate, attempt: int, partial: Partial | None) -> Placed:
        policy = self._orchestrator.policy
        delegation = Delegation(
            task_id=self.task_id,
            parent_hash=self._chain.order_hash,
            depth=len(self._chain.delegations) + 1,
            max_price=self._chain.max_price,
            share_bps=min(self._chain.share_bps, policy.delegate_share_bps),
            done_by_ms=self.deadline_ms,
            partial=partial,
        )
        self._link = self._orchestrator.seal(delegation, candidate.orchestrator)
        chain = [*self._order.delegations, self._link.raw]
        return Placed(Order(self._order.request, self._order.assignment, chain), self._link.digest)

    def examine(self, candidate: Candidate, done: Done, seen: Witnessed) -> Evidence:
        assert self._link is not None, "what is examined was placed"
        contract = self._orchestrator.contract
        ours = [*self._order.delegations, self._link.raw]
        deeper = done.delegations[len(ours) :]
        whole = [*ours, *deeper]
        chain = continue_chain(self._chain.request, self._chain.assignment, whole, now_ms=None)
        receipt = unseal(done.receipt, Receipt, now_ms=self._orchestrator.clock(), sender=candidate.orchestrator)
        return Evidence(
            Done(self._order.assignment, whole, done.receipt, None),
            chain,
            receipt,
            failed_checks(receipt, chain, contract, seen, below=len(ours)),
        )

    async def progress(self, candidate: Candidate, attempt: int) -> None:
        log.info("delegated", extra={"task": self.task_id.hex(), "attempt": attempt})

    async def forward(self, chunk: Chunk) -> None:
        await self._call.send(encode_unsigned(chunk))

    async def let_go(self) -> None:
        """Nothing is held back here."""

    def record(self, report: Record, evidence: Evidence | None) -> None:
        log.info("a delegate's task ended", extra={"task": self.task_id.hex(), "result": report.result})
