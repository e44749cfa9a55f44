"""The envelope and its bodies: what is accepted, and by which name everything else is refused."""

from __future__ import annotations

import json
from pathlib import Path

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.signing import VerifyKey

from cactus_mesh import messages
from cactus_mesh.errors import (
    MessageBadSignature,
    MessageError,
    MessageExpired,
    MessageFromFuture,
    MessageMalformed,
    MessageMisdirected,
    MessageNotCanonical,
    MessageOverload,
    MessageReplayed,
    MessageTooLarge,
    MessageUnknownType,
    MessageUnknownVersion,
    MessageWrongSender,
    UsageError,
)
from cactus_mesh.messages import TYPES, Cancel, ReplayCache, seal, unseal
from tests.samples import CLIENT, NOW_MS, ORCHESTRATOR, ROUTER, TASK_ID, VALID_MS, bodies, identity, sealed

VECTORS = json.loads((Path(__file__).parent / "vectors" / "messages.json").read_text())
NAMES = sorted(bodies())
CANCEL = sealed(Cancel(TASK_ID, "enough"), "cancel")


def resealed(header: dict[str, object] | None = None, body: bytes | None = None, **outer: object) -> bytes:
    """The cancel message with changes, signed again, so that only the change can be what is refused."""
    envelope = msgpack.unpackb(CANCEL.raw)
    fields = {**msgpack.unpackb(envelope["header"]), **(header or {})}
    packed, content = msgpack.packb(fields), envelope["body"] if body is None else body
    prefix = f"cactus-mesh/1/{fields['type']}".encode() + b"\x00" + len(packed).to_bytes(4, "big")
    envelope |= {"header": packed, "body": content, "signature": CLIENT.sign(prefix + packed + content), **outer}
    return msgpack.packb(envelope)


@pytest.mark.parametrize("name", NAMES)
def test_every_type_survives_the_journey(name):
    sent = sealed(bodies()[name], name)
    received = unseal(sent.raw, TYPES[name], now_ms=NOW_MS + 1, sender=CLIENT.public_key, recipient=ROUTER.public_key)
    assert received == sent


@pytest.mark.parametrize("vector", VECTORS["messages"], ids=lambda vector: vector["type"])
def test_the_vectors_are_what_this_implementation_sends(vector):
    assert sealed(bodies()[vector["type"]], vector["type"]).raw.hex() == vector["envelope"]


@pytest.mark.parametrize("vector", VECTORS["messages"], ids=lambda vector: vector["type"])
def test_another_library_opens_the_vectors_with_the_written_rules_alone(vector):
    envelope = msgpack.unpackb(bytes.fromhex(vector["envelope"]), strict_map_key=True)
    header = msgpack.unpackb(envelope["header"])
    signed = f"cactus-mesh/{envelope['v']}/{header['type']}".encode() + b"\x00"
    signed += len(envelope["header"]).to_bytes(4, "big") + envelope["header"] + envelope["body"]
    VerifyKey(header["sender"]).verify(signed, envelope["signature"])
    assert _printable(msgpack.unpackb(envelope["body"])) == vector["body"]


def _printable(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {key: _printable(each) for key, each in value.items()}
    return [_printable(each) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize("vector", VECTORS["refused"], ids=lambda vector: vector["why"])
def test_the_refused_vectors_are_refused_by_their_code(vector):
    with pytest.raises(MessageError) as caught:
        unseal(bytes.fromhex(vector["envelope"]), Cancel, now_ms=NOW_MS + 1)
    assert caught.value.code == vector["code"]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_mutation_of_any_byte_is_refused(name, data):
    raw = sealed(bodies()[name], name).raw
    place = data.draw(st.integers(0, len(raw) - 1))
    value = data.draw(st.integers(0, 255).filter(lambda value: value != raw[place]))
    with pytest.raises(MessageError):
        unseal(raw[:place] + bytes([value]) + raw[place + 1 :], TYPES[name], now_ms=NOW_MS + 1)


def test_every_value_of_every_byte_of_one_message_is_refused_but_its_own():
    accepted = 0
    for place in range(len(CANCEL.raw)):
        for bit in range(8):
            changed = bytearray(CANCEL.raw)
            changed[place] ^= 1 << bit
            try:
                unseal(bytes(changed), Cancel, now_ms=NOW_MS + 1)
                accepted += 1
            except MessageError:
                pass
    assert accepted == 0


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=600))
def test_no_bytes_crash_the_decoder(data):
    for kind in TYPES.values():
        with pytest.raises(MessageError):
            unseal(data, kind, now_ms=NOW_MS)


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (CANCEL.raw + b"\x00", MessageMalformed),
        (CANCEL.raw[:-1], MessageMalformed),
        (b"", MessageMalformed),
        (b"\x91" * 100_000, MessageMalformed),
        (b"\xdf\xff\xff\xff\xff", MessageMalformed),
        (bytes(messages.MAX_MESSAGE_BYTES + 1), MessageTooLarge),
        (msgpack.packb({"v": 2, "parts": []}), MessageUnknownVersion),
        (resealed(v=2), MessageUnknownVersion),
        (resealed(header={"type": "verdict"}), MessageUnknownType),
        (resealed(header={"type": "x" * 32}), MessageUnknownType),
        (resealed(header={"extra": 1}), MessageMalformed),
        (resealed(body=msgpack.packb({"task_id": TASK_ID})), MessageMalformed),
        (resealed(body=msgpack.packb({"task_id": TASK_ID[:8], "reason": ""})), MessageMalformed),
        (resealed(body=msgpack.packb({"task_id": TASK_ID, "reason": "x" * 1001})), MessageMalformed),
        (resealed(body=b"\x82\xa7task_id\xc4\x10" + TASK_ID + b"\xa6reason\xd9\x01x"), MessageNotCanonical),
        (resealed(body=msgpack.packb({"reason": "x", "task_id": TASK_ID})), MessageNotCanonical),
        (
            resealed(body=b"\x83\xa7task_id\xc4\x10" + TASK_ID + b"\xa6reason\xa1x\xa6reason\xa1y"),
            MessageNotCanonical,
        ),
        (resealed(signature=bytes(64)), MessageBadSignature),
        (resealed(signature=bytes(63)), MessageMalformed),
        (resealed(header={"sender": ROUTER.public_key}), MessageBadSignature),
        (resealed(header={"expires_at_ms": NOW_MS}), MessageExpired),
        (resealed(header={"issued_at_ms": NOW_MS + 31_000}), MessageFromFuture),
        (resealed(header={"expires_at_ms": NOW_MS + 3_600_001}), MessageFromFuture),
    ],
)
def test_each_fault_is_refused_by_its_own_name(raw, error):
    with pytest.raises(error) as caught:
        unseal(raw, Cancel, now_ms=NOW_MS)
    assert type(caught.value) is error


def test_a_message_from_another_sender_or_for_another_peer_is_refused():
    with pytest.raises(MessageWrongSender):
        unseal(CANCEL.raw, Cancel, now_ms=NOW_MS, sender=ORCHESTRATOR.public_key)
    with pytest.raises(MessageMisdirected):
        unseal(CANCEL.raw, Cancel, now_ms=NOW_MS, recipient=ORCHESTRATOR.public_key)


def test_evidence_is_read_after_its_expiry():
    assert unseal(CANCEL.raw, Cancel, now_ms=None).body.reason == "enough"
    with pytest.raises(MessageExpired):
        unseal(CANCEL.raw, Cancel, now_ms=NOW_MS + VALID_MS)


def test_a_message_cannot_be_made_valid_for_longer_than_the_bound():
    with pytest.raises(UsageError):
        seal(Cancel(TASK_ID, ""), CLIENT, now_ms=NOW_MS, valid_ms=messages.MAX_VALIDITY_MS + 1)


def test_a_replay_is_refused_until_the_message_has_expired():
    cache = ReplayCache()
    cache.admit(CANCEL, NOW_MS)
    with pytest.raises(MessageReplayed):
        cache.admit(CANCEL, NOW_MS + 1)


def test_a_sender_at_its_bound_is_refused_and_not_forgotten(monkeypatch):
    monkeypatch.setattr(ReplayCache, "MAX_PER_SENDER", 3)
    cache = ReplayCache()
    sent = [sealed(Cancel(TASK_ID, ""), str(n)) for n in range(4)]
    for message in sent[:3]:
        cache.admit(message, NOW_MS)
    with pytest.raises(MessageOverload):
        cache.admit(sent[3], NOW_MS)
    cache.admit(sent[3], NOW_MS + VALID_MS)  # the three have expired


def test_other_senders_are_not_held_up_by_a_busy_one(monkeypatch):
    monkeypatch.setattr(ReplayCache, "MAX_SENDERS", 2)
    cache = ReplayCache()
    for name in ("a", "b", "c"):
        cache.admit(seal(Cancel(TASK_ID, ""), identity(name), now_ms=NOW_MS, valid_ms=1), NOW_MS)
    assert len(cache._seen) == 2
