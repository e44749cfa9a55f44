"""The chain of responsibility: every rule, broken one by one with properly signed links."""

from __future__ import annotations

import msgspec
import pytest

from cactus_mesh.core.delegation import continue_chain, open_chain
from cactus_mesh.core.pricing import BPS
from cactus_mesh.core.requests import open_request
from cactus_mesh.errors import (
    ConsentRejected,
    DeadlinePassed,
    DelegationRejected,
    MeshError,
    MessageBadSignature,
    MessageError,
    MessageExpired,
    MessageFromFuture,
    MessageMisdirected,
    MessageUnknownType,
)
from cactus_mesh.messages import (
    MAX_CHAIN,
    MAX_CLOCK_SKEW_MS,
    Assignment,
    Order,
    Partial,
    decode_order,
    encode_unsigned,
    unseal,
)
from tests.core.cases import (
    DEADLINE_MS,
    SECOND_DELEGATE,
    STRANGER,
    THIS_CONTRACT,
    WORKERS,
    chain_of,
    order_of,
    sealed,
    sealed_request,
)
from tests.samples import CLIENT, DELEGATE, NOW_MS, ORCHESTRATOR, ROUTER, VALID_MS, consent, request

SOON_MS = NOW_MS + 1
SO_FAR = Partial([5, 6], "so")


@pytest.mark.parametrize("depth", range(MAX_CHAIN + 1))
def test_an_honest_chain_tells_who_gives_who_works_and_who_is_liable(depth):
    givers = (ROUTER, *WORKERS)
    worker, giver = WORKERS[depth].public_key, givers[depth].public_key
    chain = open_chain(order_of(depth), THIS_CONTRACT, now_ms=SOON_MS, giver=giver, worker=worker)
    assert (chain.router, chain.liable) == (ROUTER.public_key, ORCHESTRATOR.public_key)
    assert (chain.giver, chain.worker) == (giver, worker)
    assert chain.max_price == 100_000 - depth
    assert chain.share_bps == (9_000 - 100 * depth if depth else BPS)
    assert chain.done_by_ms == DEADLINE_MS - 250 * depth
    assert chain.order_hash == chain.last.digest


@pytest.mark.parametrize("depth", range(MAX_CHAIN + 1))
def test_an_order_travels_whole_and_is_read_as_evidence_long_after(depth):
    order = decode_order(encode_unsigned(order_of(depth)))
    assert open_chain(order, THIS_CONTRACT, now_ms=None).worker == WORKERS[depth].public_key
    with pytest.raises(MessageExpired):
        open_chain(order, THIS_CONTRACT, now_ms=NOW_MS + VALID_MS)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"request_hash": bytes(32)}, "for another request"),
        ({"task_id": bytes(16)}, "for another request"),
        ({"done_by_ms": DEADLINE_MS + 1}, "after the client's deadline"),
        ({"recipient": None}, "must name who is to carry it out"),
    ],
)
def test_an_assignment_that_breaks_a_rule_is_refused_by_its_name(changes, rule):
    with pytest.raises(DelegationRejected, match=rule):
        chain_of(0, assignment=changes)


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"signer": STRANGER}, "not signed by the orchestrator before it"),
        ({"parent_hash": bytes(32)}, "follows another order"),
        ({"task_id": bytes(16)}, "is for another task"),
        ({"max_price": 100_001}, "raises the price"),
        ({"done_by_ms": DEADLINE_MS + 1}, "moves the deadline out"),
        ({"recipient": ORCHESTRATOR.public_key}, "goes round in a loop"),
        ({"recipient": None}, "must name who is to carry it out"),
        ({"partial": None}, "forgets tokens"),
        ({"partial": Partial([5], "so")}, "forgets tokens"),
        ({"partial": Partial([5, 6, 7], "no be")}, "forgets tokens"),
    ],
)
def test_a_link_that_breaks_a_rule_is_refused_by_its_name(depth, changes, rule):
    with pytest.raises(DelegationRejected, match=rule):
        chain_of(depth, assignment={"partial": SO_FAR}, links={depth: changes})


def test_a_link_may_know_more_tokens_than_the_one_above():
    more = Partial([5, 6, 7], "so be")
    chain = chain_of(2, assignment={"partial": SO_FAR}, links={2: {"partial": more}})
    assert chain.partial == more
    assert chain_of(1, links={1: {"partial": more}}).partial == more
    assert chain_of(1).partial is None


def test_price_share_and_deadline_may_stay_as_they_are():
    same = {"max_price": 100_000, "share_bps": 10_000, "done_by_ms": DEADLINE_MS}
    chain = chain_of(2, links={1: same, 2: same})
    assert (chain.max_price, chain.share_bps, chain.done_by_ms) == (100_000, 10_000, DEADLINE_MS)


@pytest.mark.parametrize("depth", [2, 3])
def test_a_share_only_shrinks(depth):
    with pytest.raises(DelegationRejected, match="raises the share"):
        chain_of(depth, links={depth: {"share_bps": 9_000}})


@pytest.mark.parametrize("said", [2, 3])
def test_the_depth_in_a_link_is_its_place(said):
    with pytest.raises(DelegationRejected, match=f"delegation 1 has depth {said} in place 1"):
        chain_of(1, links={1: {"depth": said}})


def test_nobody_hands_a_task_to_itself():
    with pytest.raises(DelegationRejected, match="loop"):
        chain_of(2, links={2: {"recipient": DELEGATE.public_key}})


def test_a_broken_link_in_the_middle_is_found():
    with pytest.raises(DelegationRejected, match="delegation 2 raises the price"):
        chain_of(3, links={2: {"max_price": 100_000}})


@pytest.mark.parametrize("dropped", [0, 1])
def test_no_link_can_be_left_out(dropped):
    order = order_of(3)
    del order.delegations[dropped]
    with pytest.raises(DelegationRejected, match=f"delegation {dropped + 1} is not signed by"):
        open_chain(order, THIS_CONTRACT, now_ms=SOON_MS)


def test_links_of_another_chain_do_not_fit():
    other = order_of(1, assignment={"attempt": 2})
    mixed = msgspec.structs.replace(order_of(0), delegations=other.delegations)
    with pytest.raises(DelegationRejected, match="follows another order"):
        open_chain(mixed, THIS_CONTRACT, now_ms=SOON_MS)


def test_only_the_router_that_was_asked_assigns_a_request():
    with pytest.raises(MessageMisdirected):
        chain_of(0, assignment={"signer": STRANGER})


def test_a_chain_is_continued_from_its_own_request_and_router_only():
    order, other = order_of(1), order_of(0, body=request(max_price=100_000, nonce=b"x" * 16))
    asked = open_request(order.request, THIS_CONTRACT, router=ROUTER.public_key, now_ms=SOON_MS)
    ours, theirs = (unseal(each.assignment, Assignment, now_ms=None) for each in (order, other))
    assert continue_chain(asked, ours, order.delegations, now_ms=None).worker == DELEGATE.public_key
    with pytest.raises(DelegationRejected, match="for another request"):
        continue_chain(asked, theirs, [], now_ms=None)
    forged = sealed(ours.body, STRANGER, ORCHESTRATOR.public_key)
    with pytest.raises(DelegationRejected, match="by another router"):
        continue_chain(asked, forged, [], now_ms=None)


def test_whoever_hands_an_order_over_must_have_signed_it_and_the_worker_be_meant():
    order = order_of(1)
    with pytest.raises(DelegationRejected, match="for another orchestrator"):
        open_chain(order, THIS_CONTRACT, now_ms=SOON_MS, worker=SECOND_DELEGATE.public_key)
    with pytest.raises(DelegationRejected, match="signed by another peer"):
        open_chain(order, THIS_CONTRACT, now_ms=SOON_MS, giver=ROUTER.public_key)


@pytest.mark.parametrize("where", [{"assignment": {"valid_ms": 10}}, {"links": {1: {"valid_ms": 10}}}])
def test_an_expired_link_is_refused_but_stays_evidence(where):
    order = order_of(1, **where)
    with pytest.raises(MessageExpired):
        open_chain(order, THIS_CONTRACT, now_ms=NOW_MS + 10)
    open_chain(order, THIS_CONTRACT, now_ms=None)


def test_a_link_from_the_future_is_refused():
    with pytest.raises(MessageFromFuture):
        chain_of(1, links={1: {"now_ms": NOW_MS + MAX_CLOCK_SKEW_MS + 2}})


def test_an_order_whose_own_deadline_has_passed_is_not_begun():
    order = order_of(1, links={1: {"done_by_ms": NOW_MS + 5}})
    with pytest.raises(DeadlinePassed):
        open_chain(order, THIS_CONTRACT, now_ms=NOW_MS + 5)


def test_an_assignment_made_after_the_request_had_expired_is_no_evidence():
    with pytest.raises(MessageExpired):
        open_chain(order_of(0, assignment={"now_ms": NOW_MS + VALID_MS}), THIS_CONTRACT, now_ms=None)


def test_a_consent_that_does_not_fit_refuses_the_whole_chain():
    forged = consent(max_price=99_999)
    body = request(consent=forged.to_bcs(), consent_signature=CLIENT.sign(forged.to_bcs()))
    with pytest.raises(ConsentRejected):
        chain_of(1, body=body)


@pytest.mark.parametrize("part", ["request", "assignment", "delegations"])
def test_a_changed_byte_anywhere_is_refused(part):
    order = order_of(1)
    raw = getattr(order, part)
    envelope = raw[0] if isinstance(raw, list) else raw
    for place in range(0, len(envelope), 7):
        spoilt = envelope[:place] + bytes([envelope[place] ^ 1]) + envelope[place + 1 :]
        broken = msgspec.structs.replace(order, **{part: [spoilt] if isinstance(raw, list) else spoilt})
        with pytest.raises(MeshError) as caught:
            open_chain(broken, THIS_CONTRACT, now_ms=SOON_MS)
        assert isinstance(caught.value, MessageError | DelegationRejected)


def test_the_parts_of_an_order_cannot_change_places():
    order = order_of(1)
    for mixed in (
        Order(order.assignment, order.assignment, []),
        Order(order.request, order.request, []),
        Order(order.request, order.assignment, [order.assignment]),
        Order(order.request, order.delegations[0], []),
    ):
        with pytest.raises(MessageUnknownType):
            open_chain(mixed, THIS_CONTRACT, now_ms=SOON_MS)


def test_a_chain_longer_than_the_bound_is_not_even_decoded():
    order = order_of(3)
    longer = msgspec.structs.replace(order, delegations=order.delegations * 2)
    with pytest.raises(MessageError):
        decode_order(encode_unsigned(longer))


def test_a_request_that_somebody_else_changed_is_no_order():
    other = sealed_request(signer=STRANGER)
    with pytest.raises((ConsentRejected, MessageBadSignature)):
        open_chain(msgspec.structs.replace(order_of(0), request=other.raw), THIS_CONTRACT, now_ms=SOON_MS)
