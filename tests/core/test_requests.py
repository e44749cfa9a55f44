"""What a client has signed, and whether its consent to pay covers what it asks."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest

from cactus_mesh.core.requests import MAX_CONSENT_SECONDS, SETTLE_MARGIN_SECONDS, Contract, open_request
from cactus_mesh.core.settlement import TaskConsent
from cactus_mesh.errors import (
    BadParameters,
    ConsentRejected,
    DeadlinePassed,
    MessageExpired,
    MessageMisdirected,
    MessageUnknownType,
    MessageWrongSender,
)
from cactus_mesh.messages import Cancel
from tests.core.cases import DEADLINE_MS, STRANGER, THIS_CONTRACT, sealed, sealed_request
from tests.samples import CHAIN_ID, CLIENT, CONTRACT, NOW_MS, ROUTER, TASK_ID, VALID_MS, consent, request


def opened(body=None, *, contract=THIS_CONTRACT, now_ms=NOW_MS + 1, sender=CLIENT.public_key, **envelope):
    raw = sealed_request(body, **envelope).raw
    return open_request(raw, contract, router=ROUTER.public_key, now_ms=now_ms, sender=sender)


def with_consent(signer=CLIENT, **changes):
    data = consent(**changes).to_bcs()
    return request(consent=data, consent_signature=signer.sign(data))


def test_an_honest_request_opens_with_its_consent():
    task = opened()
    assert (task.client, task.router) == (CLIENT.public_key, ROUTER.public_key)
    assert task.consent == consent()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("chain_id", CHAIN_ID + 1),
        ("contract", "0x" + "00" * 32),
        ("client", STRANGER.address),
        ("router", STRANGER.address),
        ("task_id", bytes(16)),
        ("max_price", 100_001),
    ],
)
def test_a_consent_that_differs_names_the_field(field, value):
    with pytest.raises(ConsentRejected, match=f"names another {field} than the request"):
        opened(with_consent(**{field: value}))


def test_every_field_of_a_consent_is_either_compared_or_free():
    free = {"nonce", "expires_at"}
    compared = {"chain_id", "contract", "client", "router", "task_id", "max_price"}
    assert {field.name for field in dataclasses.fields(TaskConsent)} == free | compared


def test_all_fields_that_differ_are_named():
    with pytest.raises(ConsentRejected, match="another router, max_price than"):
        opened(with_consent(router=STRANGER.address, max_price=1))


def test_a_request_asking_for_more_than_its_consent_is_refused():
    with pytest.raises(ConsentRejected, match="max_price"):
        opened(msgspec.structs.replace(request(), max_price=10**9))


def test_a_consent_for_another_contract_is_refused_by_this_one():
    for contract in (Contract(CHAIN_ID + 1, CONTRACT), Contract(CHAIN_ID, STRANGER.address)):
        with pytest.raises(ConsentRejected):
            opened(contract=contract)


@pytest.mark.parametrize("data", [b"", b"x" * 512, consent().to_bcs()[:-1], consent().to_bcs() + b"\0"])
def test_a_consent_that_is_none_is_refused(data):
    with pytest.raises(ConsentRejected, match="malformed"):
        opened(request(consent=data, consent_signature=CLIENT.sign(data)))


def test_a_consent_that_the_client_did_not_sign_is_refused():
    with pytest.raises(ConsentRejected, match="signature"):
        opened(with_consent(signer=STRANGER))


def test_a_consent_must_leave_time_to_settle():
    enough = -(-DEADLINE_MS // 1_000) + SETTLE_MARGIN_SECONDS
    assert opened(with_consent(expires_at=enough))
    with pytest.raises(ConsentRejected, match="must outlive the deadline"):
        opened(with_consent(expires_at=enough - 1))


def test_a_consent_must_not_be_remembered_for_ever():
    longest = DEADLINE_MS // 1_000 + MAX_CONSENT_SECONDS
    assert opened(with_consent(expires_at=longest))
    for too_long in (longest + 1, 2**64 - 1):
        with pytest.raises(ConsentRejected, match="must not outlive the deadline"):
            opened(with_consent(expires_at=too_long))


def test_a_deadline_ends_a_request_though_its_envelope_lasts():
    with pytest.raises(DeadlinePassed):
        opened(request(deadline_ms=NOW_MS + 10), now_ms=NOW_MS + 10)
    with pytest.raises(MessageExpired):
        opened(now_ms=NOW_MS + VALID_MS)


@pytest.mark.parametrize("deadline_ms", [DEADLINE_MS + 1, 2**63 - 1])
def test_a_task_cannot_run_for_longer_than_replays_are_remembered(deadline_ms):
    body = msgspec.structs.replace(with_consent(expires_at=2**64 - 1), deadline_ms=deadline_ms)
    with pytest.raises(BadParameters, match="deadline"):
        opened(body)


def test_a_request_is_for_its_own_router_and_from_its_own_client():
    with pytest.raises(MessageMisdirected):
        opened(recipient=STRANGER.public_key)
    with pytest.raises(MessageMisdirected):
        opened(recipient=None)
    with pytest.raises(MessageWrongSender):
        opened(sender=STRANGER.public_key)


def test_a_stranger_cannot_take_over_a_clients_consent():
    with pytest.raises(ConsentRejected, match="another client"):
        opened(signer=STRANGER, sender=STRANGER.public_key)


def test_another_message_is_no_request():
    raw = sealed(Cancel(TASK_ID, ""), CLIENT, ROUTER.public_key).raw
    with pytest.raises(MessageUnknownType):
        open_request(raw, THIS_CONTRACT, router=ROUTER.public_key, now_ms=NOW_MS)
