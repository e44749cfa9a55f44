"""Is this request what its client signed, and does its consent cover it?  Router and orchestrator both ask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cactus_mesh.core.settlement import TaskConsent
from cactus_mesh.errors import BadParameters, ConsentRejected, DeadlinePassed
from cactus_mesh.identity import address, verify
from cactus_mesh.messages import TaskRequest, unseal

if TYPE_CHECKING:
    from cactus_mesh.identity import Address, PublicKey
    from cactus_mesh.messages import Sealed

SETTLE_MARGIN_SECONDS: Final = 600
"""A consent must outlive the task's deadline by this, so that a router can settle in batches and retry."""

MAX_CONSENT_SECONDS: Final = 86_400
"""How long beyond its deadline a router may have to remember a task, and try to have it paid."""


@dataclass(frozen=True, slots=True)
class Contract:
    """Which contract a consent or claim must be for."""

    chain_id: int
    address: Address


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """A request whose signature, consent and deadline hold."""

    sealed: Sealed[TaskRequest]
    consent: TaskConsent

    @property
    def client(self) -> PublicKey:
        return self.sealed.sender

    @property
    def router(self) -> PublicKey:
        assert self.sealed.recipient is not None, "open_request checks the recipient"
        return self.sealed.recipient


def open_request(
    raw: bytes, contract: Contract, *, router: PublicKey, now_ms: int, sender: PublicKey | None = None
) -> OpenRequest:
    """Open a request that was addressed to *router*.

    Raises a `MessageError`, `ConsentRejected` naming the field that differs, `DeadlinePassed`, or `BadParameters` when
    the deadline lies beyond the request's own validity: replays are only remembered for that long.
    """
    sealed = unseal(raw, TaskRequest, now_ms=now_ms, sender=sender, recipient=router)
    request = sealed.body
    if request.deadline_ms <= now_ms:
        raise DeadlinePassed("this task's deadline has passed; ask again with a later one")
    if request.deadline_ms > sealed.expires_at_ms:
        raise BadParameters("a task's deadline must not be later than its request expires; sign a request that lasts")
    try:
        consent = TaskConsent.from_bcs(request.consent)
    except ValueError as error:
        raise ConsentRejected(f"the consent to pay is malformed: {error}") from None
    expected = TaskConsent(
        chain_id=contract.chain_id,
        contract=contract.address,
        client=address(sealed.sender),
        router=address(router),
        task_id=request.task_id,
        nonce=consent.nonce,
        max_price=request.max_price,
        expires_at=consent.expires_at,
    )
    if consent != expected:
        names = [name for name in TaskConsent.__slots__ if getattr(consent, name) != getattr(expected, name)]
        raise ConsentRejected(f"the consent to pay names another {', '.join(names)} than the request; sign it again")
    if consent.expires_at * 1000 < request.deadline_ms + SETTLE_MARGIN_SECONDS * 1000:
        raise ConsentRejected(f"the consent to pay must outlive the deadline by {SETTLE_MARGIN_SECONDS} s")
    if consent.expires_at * 1000 > request.deadline_ms + MAX_CONSENT_SECONDS * 1000:
        raise ConsentRejected(f"the consent to pay must not outlive the deadline by more than {MAX_CONSENT_SECONDS} s")
    if not verify(sealed.sender, request.consent, request.consent_signature):
        raise ConsentRejected("the signature of the consent to pay does not match the client's key")
    return OpenRequest(sealed, consent)
