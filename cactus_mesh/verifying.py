"""An orchestrator's part in audits: it replays an answer for a router, not told whose it is, and signs its numbers.

Unpaid: it costs a few hundredths of a generation, and protects those who are paid.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cactus_mesh.core.audit import finding_of, finding_of_texts
from cactus_mesh.core.readings import reads
from cactus_mesh.errors import BadParameters, RouterNotAuthorised, UnknownModel
from cactus_mesh.identity import address, peer_id
from cactus_mesh.messages import MAX_VALIDITY_MS, Audit, Finding, seal, unseal

if TYPE_CHECKING:
    from cactus_mesh.clock import Clock
    from cactus_mesh.identity import Identity
    from cactus_mesh.messages import Sealed
    from cactus_mesh.ports import Call, Engine, Ledger, Network

AUDIT_METHOD: Final = "task.audit"
AUDITS_AT_ONCE: Final = 2
"""Work for nothing must not crowd out work for money."""


def serve_audits(network: Network, identity: Identity, ledger: Ledger, engine: Engine, clock: Clock) -> None:
    """Answer ``task.audit``: a sealed `Audit` in, one sealed `Finding` out."""

    async def answer(call: Call) -> None:
        audit = unseal(call.payload, Audit, now_ms=clock(), sender=call.public_key, recipient=identity.public_key)
        router = await ledger.server(address(audit.sender))
        if router is None or not router.authorised(clock() / 1_000):
            raise RouterNotAuthorised(
                f"router {peer_id(audit.sender)} is not authorised on the ledger, so nothing is audited for it"
            )
        await call.send((await find(audit, identity, engine, clock)).raw)

    network.serve(AUDIT_METHOD, answer, at_once=AUDITS_AT_ONCE)


def can_replay(engine: Engine, audit: Audit) -> bool:
    return any(model.digest == audit.model_digest and model.dtype == audit.dtype for model in engine.models)


async def find(audit: Sealed[Audit], identity: Identity, engine: Engine, clock: Clock) -> Sealed[Finding]:
    """Replay on this engine and sign what it found.  Raises `UnknownModel` or what `Engine.replay` does."""
    asked = audit.body
    if not can_replay(engine, asked):
        raise UnknownModel(f"the model {asked.model_digest.hex()[:12]} in {asked.dtype} is not served here")
    if len(asked.token_ids) > asked.sampling.max_tokens:
        raise BadParameters("this answer is longer than was asked for")
    if reads(asked.work):
        again = await engine.reread(asked.model_digest, asked.work, asked.places)
        finding = finding_of_texts(audit.digest, again, engine.name)
    else:
        replay = await engine.replay(asked.model_digest, asked.work, asked.sampling, asked.seed, asked.token_ids)
        finding = finding_of(audit.digest, replay, engine.name)
    return seal(finding, identity, now_ms=clock(), valid_ms=MAX_VALIDITY_MS, recipient=audit.sender)
