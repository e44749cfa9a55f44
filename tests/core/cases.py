"""What the tests of the core begin from: candidates to rank, and honest orders and receipts to break."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec

from cactus_mesh.core.delegation import Chain, open_chain
from cactus_mesh.core.matching import Candidate, Need
from cactus_mesh.core.receipts import Work, pack_logprobs, receipt_for, receipt_over
from cactus_mesh.core.requests import Contract
from cactus_mesh.core.settlement import TaskConsent
from cactus_mesh.core.verification import Witnessed
from cactus_mesh.identity import PublicKey
from cactus_mesh.messages import Assignment, Body, Delegation, Order, Receipt, Sampling, Sealed, TaskRequest, seal
from cactus_mesh.ports import ServerView
from tests.samples import (
    CHAIN_ID,
    CLIENT,
    CONTRACT,
    DELEGATE,
    NOW_MS,
    OFFER,
    ORCHESTRATOR,
    ROUTER,
    VALID_MS,
    identity,
    request,
)

if TYPE_CHECKING:
    from cactus_mesh.identity import Identity

THIS_CONTRACT = Contract(CHAIN_ID, CONTRACT)
SECOND_DELEGATE, THIRD_DELEGATE, STRANGER = map(identity, ("second delegate", "third delegate", "stranger"))
WORKERS = (ORCHESTRATOR, DELEGATE, SECOND_DELEGATE, THIRD_DELEGATE)
"""Who works, by the number of delegations."""
AUTHORISED = ServerView("authorised", expires_at=NOW_MS // 1_000 + 3_600, max_budget=10**12, escrowed=0)
DEADLINE_MS = NOW_MS + VALID_MS


# --- matching ----------------------------------------------------------------------------------------------------


def key(name: str | int) -> PublicKey:
    return PublicKey(str(name).encode().rjust(32, b"\0"))


def candidate(name: str | int = "one", **changes: Any) -> Candidate:
    """An idle, cheap, well staked candidate; *offer* may be a dict of changes to the sample offer."""
    offer = changes.pop("offer", {})
    fields = {
        "orchestrator": key(name),
        "offer": msgspec.structs.replace(OFFER, **offer) if isinstance(offer, dict) else offer,
        "slots": 4,
        "busy": 0,
        "stake": 10**10,
        "success": 0.9,
        "ms_per_gflop": None,
        "rtt_ms": None,
        "lease_ends_ms": NOW_MS + 15_000,
    }
    return Candidate(**{**fields, **changes})


def need(**changes: Any) -> Need:
    fields = {
        "model": "fake",
        "model_digest": None,
        "kind": "generate",
        "prompt_tokens": 1,
        "max_tokens": 16,
        "max_price": 100_000,
    }
    return Need(**{**fields, **changes})


# --- orders ------------------------------------------------------------------------------------------------------


def sealed(body: Body, signer: Identity, recipient: PublicKey | None, **changes: Any) -> Sealed[Any]:
    times = {"now_ms": NOW_MS, "valid_ms": VALID_MS, **changes}
    return seal(body, signer, recipient=recipient, **times)


def sealed_request(body: TaskRequest | None = None, signer: Identity = CLIENT, **changes: Any) -> Sealed[TaskRequest]:
    return sealed(body or request(), signer, changes.pop("recipient", ROUTER.public_key), **changes)


def assignment_of(asked: Sealed[TaskRequest], **changes: Any) -> Assignment:
    fields = {
        "task_id": asked.body.task_id,
        "request_hash": asked.digest,
        "router_nonce": bytes(16),
        "attempt": 1,
        "offer": OFFER,
        "done_by_ms": asked.body.deadline_ms,
        "partial": None,
    }
    return Assignment(**{**fields, **changes})


def delegation_of(parent: Sealed[Any], place: int, **changes: Any) -> Delegation:
    fields = {
        "task_id": parent.body.task_id,
        "parent_hash": parent.digest,
        "depth": place,
        "max_price": 100_000 - place,
        "share_bps": 9_000 - 100 * place,
        "done_by_ms": parent.body.done_by_ms - 250,
        "partial": parent.body.partial,
    }
    return Delegation(**{**fields, **changes})


def order_of(
    depth: int = 0,
    *,
    body: TaskRequest | None = None,
    assignment: dict[str, Any] | None = None,
    links: dict[int, dict[str, Any]] | None = None,
) -> Order:
    """A properly signed order with *depth* delegations.

    *assignment* and *links* (by depth) change single fields of those bodies; ``signer``, ``recipient`` and the times
    change their envelopes.  What follows a changed link follows the changed one.
    """
    asked = sealed_request(body)
    changes = dict(assignment or {})
    envelope = {name: changes.pop(name) for name in ("now_ms", "valid_ms") if name in changes}
    signer, recipient = changes.pop("signer", ROUTER), changes.pop("recipient", ORCHESTRATOR.public_key)
    parent = first = sealed(assignment_of(asked, **changes), signer, recipient, **envelope)
    raw = []
    for number in range(1, depth + 1):
        changes = dict((links or {}).get(number, {}))
        envelope = {name: changes.pop(name) for name in ("now_ms", "valid_ms") if name in changes}
        signer = changes.pop("signer", WORKERS[number - 1])
        recipient = changes.pop("recipient", WORKERS[number].public_key)
        parent = sealed(delegation_of(parent, number, **changes), signer, recipient, **envelope)
        raw.append(parent.raw)
    return Order(asked.raw, first.raw, raw)


def chain_of(depth: int = 0, **changes: Any) -> Chain:
    return open_chain(order_of(depth, **changes), THIS_CONTRACT, now_ms=NOW_MS + 1)


def request_with(sampling: Sampling | None = None, **changes: Any) -> TaskRequest:
    """The sample request with another *sampling*, price, work or deadline, its consent signed to match."""
    base = request(**({"sampling": sampling} if sampling else {}), **changes)
    consent = replace(TaskConsent.from_bcs(base.consent), max_price=base.max_price).to_bcs()
    return msgspec.structs.replace(base, consent=consent, consent_signature=CLIENT.sign(consent))


# --- receipts ----------------------------------------------------------------------------------------------------


def work_of(tokens: int = 16, **changes: Any) -> Work:
    """Honest work: as many tokens as the sample request asks for, unless told otherwise."""
    fields = {
        "token_ids": list(range(100, 100 + tokens)),
        "logprobs": pack_logprobs([-0.5] * tokens),
        "text": " sand" * tokens,
        "finish": "length" if tokens == 16 else "stop",
        "prompt_tokens": 6,
        "compute_ms": 40,
        "engine": "fake/1",
    }
    return Work(**{**fields, **changes})


def receipts_of(chain: Chain, work: Work) -> list[Receipt]:
    """The receipts that an honest chain signs: the worker's own, then one over it at each step up to the liable."""
    signers = [*WORKERS[: len(chain.delegations) + 1]]
    orders = [chain.assignment, *chain.delegations]
    made = [receipt_for(chain, THIS_CONTRACT, work, signers[-1])]
    for depth in range(len(chain.delegations) - 1, -1, -1):
        below = sealed(made[-1], signers[depth + 1], signers[depth].public_key)
        made.append(receipt_over(below, orders[depth].digest, signers[depth]))
    return made


def liable_receipt(chain: Chain, work: Work, **changes: Any) -> Sealed[Receipt]:
    """What the router gets, with single fields changed."""
    body = msgspec.structs.replace(receipts_of(chain, work)[-1], **changes)
    return sealed(body, ORCHESTRATOR, ROUTER.public_key)


def seen_of(work: Work, **changes: Any) -> Witnessed:
    fields = {"token_ids": tuple(work.token_ids), "text": work.text, "elapsed_ms": 100}
    return Witnessed(**{**fields, **changes})
