"""What each role notes of a task that has ended: a `TaskRecord` made of what it holds anyway, and none of its words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from cactus_mesh.clock import wall_clock
from cactus_mesh.core.proofs import Proof, pack
from cactus_mesh.core.settlement import SettlementClaim, TaskConsent
from cactus_mesh.identity import peer_id
from cactus_mesh.messages import Delegation, kind_of, unseal
from cactus_mesh.records import TaskRecord

if TYPE_CHECKING:
    from collections.abc import Callable

    from cactus_mesh.answer import Job
    from cactus_mesh.clock import Clock
    from cactus_mesh.core.delegation import Chain
    from cactus_mesh.core.pricing import Split
    from cactus_mesh.dispatch import Evidence
    from cactus_mesh.identity import Identity, PeerId
    from cactus_mesh.messages import Done, Receipt, Sealed
    from cactus_mesh.ports import Chain as Ledger
    from cactus_mesh.records import Recorder, State

MS: Final = 1_000


def chain_name(ledger: Ledger) -> str:
    return f"{ledger.chain_id}:{ledger.contract}"


@dataclass(frozen=True, slots=True)
class Notes:
    """The hooks that `node` gives to the roles of one key on one ledger."""

    recorder: Recorder
    identity: Identity
    ledger: Ledger
    clock: Clock = wall_clock

    def asked(self, job: Job) -> None:
        """A client's task has ended, well or not."""
        ask, result, done = job.ask, job.result, job.done
        lasted_ms = int((trio.current_time() - job.began) * MS)
        self.recorder.note(
            TaskRecord(
                task_id=ask.task_id,
                role="client",
                party=self.identity.peer_id,
                chain=chain_name(self.ledger),
                at=(self.clock() - lasted_ms) / MS,
                state=_state(job),
                code="" if job.error is None else job.error.code,
                model=ask.model,
                kind=kind_of(ask.work),
                client=self.identity.address,
                router=None if job.router is None else peer_id(job.router),
                orchestrator=job.orchestrator,
                delegate=result.delegate if result else None,
                prompt_tokens=result.prompt_tokens if result else None,
                tokens=len(result.token_ids) if result else None,
                first_token_ms=None if job.first_at is None else int((job.first_at - job.began) * MS),
                latency_ms=lasted_ms,
                compute_ms=result.receipt.body.compute_ms if result else None,
                max_price=ask.max_price,
                price=result.price if result else None,
                until=ask.deadline_ms // MS if job.request is None else _consent(job.request.body.consent).expires_at,
                proof=self._clients_proof(job, done) if done is not None else None,
            )
        )

    def _clients_proof(self, job: Job, done: Done) -> bytes | None:
        """Also of a receipt that was refused: that is when it is needed."""
        if job.request is None or not self.recorder.keeps_receipts:
            return None
        request = job.request.body
        return pack(
            Proof(
                client=self.identity.public_key,
                consent=request.consent,
                consent_signature=request.consent_signature,
                receipt=done.receipt,
                verdict=done.verdict or b"",
                assignment=done.assignment,
                delegations=list(done.delegations),
            )
        )

    def served(self, chain: Chain, receipt: Sealed[Receipt], delegations: list[bytes]) -> None:
        """This orchestrator has sent its receipt; *delegations* lead to whoever did the work."""
        delegate = _last(delegations) if delegations else None
        self.recorder.note(self._of_chain("orchestrator", chain, receipt, delegate, delegations))

    def routed(self, evidence: Evidence) -> Callable[[Split | None], None]:
        """A router hands a task on to be settled; the result takes what the ledger paid, None where that is unknown."""
        chain = evidence.chain
        delegate = peer_id(chain.worker) if chain.delegations else None
        record = self._of_chain("router", chain, evidence.receipt, delegate, list(evidence.done.delegations))

        def settled(split: Split | None) -> None:
            self.recorder.note(record if split is None else record.settled(split))

        return settled

    def _of_chain(
        self,
        role: str,
        chain: Chain,
        receipt: Sealed[Receipt],
        delegate: PeerId | None,
        delegations: list[bytes],
    ) -> TaskRecord:
        request, body, consent = chain.request.sealed.body, receipt.body, chain.request.consent
        assert role in ("orchestrator", "router"), "a client has no chain of its own"
        return TaskRecord(
            task_id=request.task_id,
            role="router" if role == "router" else "orchestrator",
            party=self.identity.peer_id,
            chain=chain_name(self.ledger),
            at=self.clock() / MS,
            state="cancelled" if body.finish == "cancelled" else "done",
            model=chain.assignment.body.offer.name,
            kind=kind_of(request.work),
            client=consent.client,
            router=peer_id(chain.router),
            orchestrator=peer_id(chain.liable),
            delegate=delegate,
            prompt_tokens=body.prompt_tokens,
            tokens=len(body.token_ids),
            compute_ms=body.compute_ms,
            max_price=consent.max_price,
            price=SettlementClaim.from_bcs(body.claim).price,
            until=consent.expires_at,
            proof=self._proof(chain, receipt, delegations) if self.recorder.keeps_receipts else None,
        )

    def _proof(self, chain: Chain, receipt: Sealed[Receipt], delegations: list[bytes]) -> bytes:
        request = chain.request.sealed.body
        return pack(
            Proof(
                client=chain.request.client,
                consent=request.consent,
                consent_signature=request.consent_signature,
                receipt=receipt.raw,
                assignment=chain.assignment.raw,
                delegations=delegations,
            )
        )


def _state(job: Job) -> State:
    if job.result is not None:
        return "cancelled" if job.result.finish == "cancelled" else "done"
    return "cancelled" if job.stop.asked else "failed"


def _consent(data: bytes) -> TaskConsent:
    return TaskConsent.from_bcs(data)


def _last(delegations: list[bytes]) -> PeerId | None:
    recipient = unseal(delegations[-1], Delegation, now_ms=None).recipient
    return None if recipient is None else peer_id(recipient)
