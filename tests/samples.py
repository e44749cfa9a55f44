"""Valid messages to start from: one sealed example of every type, fixed in every byte."""

from __future__ import annotations

import hashlib

from cactus_mesh.core.settlement import TaskConsent
from cactus_mesh.identity import Identity
from cactus_mesh.messages import (
    Acceptance,
    Advert,
    Assignment,
    Audit,
    Body,
    Cancel,
    Chat,
    ChatMessage,
    Constraint,
    Delegation,
    Embed,
    Finding,
    Generate,
    Hello,
    ModelOffer,
    ModelShape,
    Outcome,
    Partial,
    PriceTerms,
    Receipt,
    Sampling,
    Sealed,
    TaskRequest,
    Verdict,
    seal,
)

NOW_MS = 1_800_000_000_000
VALID_MS = 60_000
TASK_ID = bytes(range(16))
CONTRACT = "0x" + "cac7" * 16
CHAIN_ID = 203


def identity(name: str) -> Identity:
    return Identity.from_seed(hashlib.sha256(name.encode()).digest())


CLIENT, ROUTER, ORCHESTRATOR, DELEGATE = map(identity, ("client", "router", "orchestrator", "delegate"))

OFFER = ModelOffer(
    name="fake",
    digest=hashlib.sha256(b"fake").digest(),
    dtype="float32",
    context_tokens=4_096,
    kinds=["chat", "generate"],
    shape=ModelShape(matmul_parameters=1_000_000, layers=2, heads=4, head_dim=32),
    price=PriceTerms(base=1_000, input_per_1k=2_000, output_per_1k=10_000),
)


def consent(max_price: int = 100_000, **changes: object) -> TaskConsent:
    fields = {
        "chain_id": CHAIN_ID,
        "contract": CONTRACT,
        "client": CLIENT.address,
        "router": ROUTER.address,
        "task_id": TASK_ID,
        "nonce": 7,
        "max_price": max_price,
        "expires_at": NOW_MS // 1_000 + 1_200,
    }
    return TaskConsent(**{**fields, **changes})  # type: ignore[arg-type]


def request(**changes: object) -> TaskRequest:
    agreed = consent()
    fields = {
        "task_id": TASK_ID,
        "nonce": bytes(16),
        "model": "fake",
        "model_digest": None,
        "work": Generate("Tell me of the desert"),
        "sampling": Sampling(max_tokens=16),
        "max_price": agreed.max_price,
        "deadline_ms": NOW_MS + VALID_MS,
        "consent": agreed.to_bcs(),
        "consent_signature": CLIENT.sign(agreed.to_bcs()),
    }
    return TaskRequest(**{**fields, **changes})  # type: ignore[arg-type]


def bodies() -> dict[str, Body]:
    """One body of every type."""
    some_hash = hashlib.sha256(b"something").digest()
    return {
        "hello": Hello("local", CHAIN_ID, bytes.fromhex(CONTRACT[2:]), 1, ["router"], "cactus-mesh/0.1.0"),
        "advert": Advert(
            sequence=NOW_MS,
            roles=["orchestrator"],
            addresses=["/ip4/192.0.2.1/tcp/4101"],
            models=[OFFER],
            slots=4,
            busy=1,
            region="eu",
            engine="torch/1",
        ),
        "task_request": request(
            work=Chat([ChatMessage("user", "Wie heißt du? 🌵")]),
            sampling=Sampling(
                max_tokens=16,
                temperature_milli=700,
                top_p_milli=900,
                top_k=40,
                stop=["\n"],
                min_p_milli=50,
                frequency_milli=-100,
                constraint=Constraint("regex", "[a-z ]+"),
            ),
        ),
        "assignment": Assignment(TASK_ID, some_hash, bytes(16), 1, OFFER, NOW_MS + VALID_MS, Partial([5, 6], "so be")),
        "delegation": Delegation(TASK_ID, some_hash, 1, 90_000, 8_000, NOW_MS + VALID_MS - 250, None),
        "acceptance": Acceptance(TASK_ID, some_hash),
        "receipt": Receipt(
            task_id=TASK_ID,
            order_hash=some_hash,
            model_digest=OFFER.digest,
            dtype="float32",
            prompt_hash=some_hash,
            sampling_hash=some_hash,
            token_ids=[1, 300, 70_000],
            logprobs=bytes.fromhex("0000003f0000003f0000003f"),
            text_hash=some_hash,
            finish="stop",
            prompt_tokens=5,
            compute_ms=12,
            engine="torch/1",
            claim=b"claim",
            claim_signature=bytes(64),
            delegate_receipt=None,
        ),
        "verdict": Verdict(TASK_ID, some_hash, "pass", False, [], bytes(range(32)), 50_000),
        "audit": Audit(
            OFFER.digest,
            "float32",
            Embed(["sand", "stone", "a cactus"], "cls"),
            Sampling(max_tokens=16),
            some_hash,
            [0],
            [0, 2],
        ),
        "finding": Finding(
            audit_hash=some_hash,
            logprobs=b"",
            gaps=b"",
            text_hash=some_hash,
            finish="stop",
            prompt_tokens=5,
            engine="torch/1",
            numbers=bytes.fromhex("0000803f00000000000000000000803f"),
        ),
        "outcome": Outcome(TASK_ID, ORCHESTRATOR.public_key, None, OFFER.digest, "completed", 123, 12, 40),
        "cancel": Cancel(TASK_ID, "enough"),
    }


def sealed(body: Body, name: str) -> Sealed[Body]:
    """*body* sealed by the client for the router, with a message id that follows from *name*."""
    message_id = hashlib.sha256(name.encode()).digest()[:16]
    return seal(body, CLIENT, now_ms=NOW_MS, valid_ms=VALID_MS, recipient=ROUTER.public_key, message_id=message_id)
