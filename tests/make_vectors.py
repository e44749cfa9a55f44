"""Writes tests/vectors/messages.json and settlement.json: ``python -m tests.make_vectors``.

The vectors are for implementations in other languages.  A change of them is a change of the protocol.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import msgpack

from cactus_mesh import messages
from cactus_mesh.core.settlement import NOBODY, SettlementClaim
from cactus_mesh.errors import MessageError
from cactus_mesh.messages import Cancel, unseal
from tests.samples import (
    CHAIN_ID,
    CLIENT,
    CONTRACT,
    DELEGATE,
    NOW_MS,
    OFFER,
    ORCHESTRATOR,
    ROUTER,
    TASK_ID,
    bodies,
    sealed,
)
from tests.samples import consent as sample_consent

FOLDER = Path(__file__).parent / "vectors"


def printable(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {key: printable(each) for key, each in value.items()}
    return [printable(each) for each in value] if isinstance(value, list) else value


def message_vectors() -> dict[str, object]:
    accepted = []
    for name, body in sorted(bodies().items()):
        raw = sealed(body, name).raw
        envelope = msgpack.unpackb(raw)
        header = printable(msgpack.unpackb(envelope["header"]))
        content = printable(msgpack.unpackb(envelope["body"]))
        accepted.append({"type": name, "header": header, "body": content, "envelope": raw.hex()})
    return {
        "about": "one signed envelope of every type; sender is the seed sha256('client'), recipient sha256('router')",
        "seed": CLIENT.seed.hex(),
        "peer_id": CLIENT.peer_id,
        "address": CLIENT.address,
        "messages": accepted,
        "refused": refused_vectors(),
        "digests": {
            "work": messages.work_digest(messages.Generate("Tell me of the desert")).hex(),
            "sampling": messages.sampling_digest(messages.Sampling(max_tokens=16)).hex(),
            "sampling_with_top_logprobs": messages.sampling_digest(
                messages.Sampling(max_tokens=16, top_logprobs=5)
            ).hex(),
            "output_of_1_300_70000": messages.output_digest([1, 300, 70_000]).hex(),
            "text_of_cactus": messages.text_digest("cactus").hex(),
            "seed": messages.seed_of(bytes(16), bytes(range(16)), TASK_ID).hex(),
        },
    }


def refused_vectors() -> list[dict[str, str]]:
    """The cancel message with one thing wrong, and the code of the refusal (at one millisecond past its issue)."""
    good = sealed(Cancel(TASK_ID, "enough"), "cancel").raw
    envelope = msgpack.unpackb(good)
    wrong = {
        "one bit of the signature": good[:-1] + bytes([good[-1] ^ 1]),
        "a trailing byte": good + b"\x00",
        "cut short": good[:-1],
        "version 2": msgpack.packb({**envelope, "v": 2}),
        "an unknown field": msgpack.packb({**envelope, "x": 1}),
        "an envelope not in order": msgpack.packb(dict(reversed(envelope.items()))),
        "another type": sealed(bodies()["verdict"], "verdict").raw,
    }
    vectors = []
    for why, raw in wrong.items():
        try:
            unseal(raw, Cancel, now_ms=NOW_MS + 1)
        except MessageError as error:
            vectors.append({"why": why, "code": error.code, "envelope": raw.hex()})
    assert len(vectors) == len(wrong), "each of these must be refused"
    return vectors


def settlement_vectors() -> dict[str, object]:
    consent = sample_consent()
    claim = SettlementClaim(
        chain_id=CHAIN_ID,
        contract=CONTRACT,
        client=CLIENT.address,
        router=ROUTER.address,
        orchestrator=ORCHESTRATOR.address,
        delegate=NOBODY,
        delegate_bps=0,
        task_id=TASK_ID,
        model_digest=OFFER.digest,
        complexity=123,
        compute_ms=45,
        price=6_789,
        result_hash=messages.output_digest([1, 300, 70_000]),
    )
    delegated = dataclasses.replace(claim, delegate=DELEGATE.address, delegate_bps=8_000)
    return {
        "about": "BCS bytes that the contract rebuilds, and Ed25519 signatures over them; seeds are sha256(name)",
        "consent": _signed(consent, CLIENT),
        "claims": [_signed(claim, ORCHESTRATOR), _signed(delegated, ORCHESTRATOR)],
    }


def _signed(value, signer) -> dict[str, object]:
    data = value.to_bcs()
    fields = {name: printable(each) for name, each in dataclasses.asdict(value).items()}
    return {
        "fields": fields,
        "bcs": data.hex(),
        "public_key": signer.public_key.hex(),
        "signature": signer.sign(data).hex(),
    }


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, vectors in (("messages", message_vectors()), ("settlement", settlement_vectors())):
        text = json.dumps(vectors, indent=1, ensure_ascii=False)
        (FOLDER / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
