from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cactus_mesh.core.reachability import (
    ANSWER_SECONDS,
    FIRM_SECONDS,
    MAX_ANSWERS,
    MAX_ENDPOINTS,
    WEAK_SECONDS,
    DialBacks,
    Endpoint,
    Ladder,
    NatView,
    Observation,
    Verdict,
    best,
    nat_of,
)

OWN, OUTSIDE, PORT = "192.168.1.5", "203.0.113.7", 4101
HERE = Endpoint(OUTSIDE, PORT)


def seen(*endpoints: tuple[str, int], local_port: int = PORT) -> list[Observation]:
    """Each by a peer of its own."""
    return [
        Observation(f"198.51.100.{number}", Endpoint(*endpoint), local_port)
        for number, endpoint in enumerate(endpoints)
    ]


# --- the NAT -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("observations", "kind", "preserving"),
    [
        (seen(), "unknown", None),
        (seen((OUTSIDE, PORT)), "unknown", None),
        (seen((OUTSIDE, PORT), (OUTSIDE, PORT)), "endpoint-independent", True),
        (seen((OUTSIDE, 999), (OUTSIDE, 999)), "endpoint-independent", False),
        (seen((OUTSIDE, 1), (OUTSIDE, 2)), "symmetric", False),
        (seen((OUTSIDE, 1), (OUTSIDE, 2), (OUTSIDE, 3)), "symmetric", False),
        (seen((OWN, PORT), (OWN, PORT)), "none", None),
        (seen((OUTSIDE, 1), (OUTSIDE, 2), local_port=50_000), "unknown", None),
    ],
)
def test_the_kind_of_nat_is_read_off_what_two_peers_see(observations, kind, preserving):
    view = nat_of(observations, {OWN}, {PORT})
    assert (view.kind, view.port_preserving) == (kind, preserving)
    assert (view.mapped is not None) == (kind == "endpoint-independent" or len(observations) == 1)


def test_one_peer_with_many_connections_is_one_witness():
    same = [Observation("198.51.100.1", Endpoint(OUTSIDE, PORT), PORT)] * 5
    assert nat_of(same, {OWN}, {PORT}).kind == "unknown"


@given(st.tuples(st.ip_addresses(v=4).map(str), st.integers(1, 65_535)))
def test_one_liar_among_three_changes_nothing(lie):
    honest = seen((OUTSIDE, PORT), (OUTSIDE, PORT))
    liar = Observation("198.51.100.200", Endpoint(*lie), PORT)
    view = nat_of([liar, *honest], {OWN}, {PORT})
    assert (view.kind, view.hosts[0], view.mapped) == ("endpoint-independent", OUTSIDE, HERE)


@given(st.lists(st.builds(Observation, st.text(max_size=3), st.builds(Endpoint, st.text(max_size=3), st.integers()))))
def test_nothing_that_peers_say_breaks_the_view(observations):
    assert isinstance(nat_of(observations, {OWN}, {PORT}), NatView)


# --- being dialled -----------------------------------------------------------------------------------------------


def answers(*reached: bool, at: float = 0.0) -> DialBacks:
    told = DialBacks()
    for number, each in enumerate(reached):
        told.note(HERE, f"198.51.100.{number}", each, "" if each else "connection refused", at)
    return told


@pytest.mark.parametrize(
    ("reached", "state", "firm"),
    [
        ((), "unknown", False),
        ((True,), "open", False),
        ((False,), "closed", False),
        ((True, True), "open", True),
        ((False, False), "closed", True),
        ((True, False), "closed", False),
        ((True, True, False), "open", True),
        ((False, True, False), "closed", True),
    ],
)
def test_two_that_agree_decide(reached, state, firm):
    verdict = answers(*reached).verdict(HERE, 1.0)
    assert (verdict.state, verdict.firm) == (state, firm)


def test_a_peer_may_change_its_mind_and_counts_once():
    told = answers(False, False)
    for number in range(2):
        told.note(HERE, f"198.51.100.{number}", True, "", 5.0)
    assert told.verdict(HERE, 6.0) == Verdict("open", True, f"2 of 2 peers asked reached {HERE}", 5.0 + FIRM_SECONDS)


def test_a_single_word_is_checked_soon_and_an_old_one_does_not_count():
    told = answers(True, at=10.0)
    assert told.verdict(HERE, 11.0).again_at == 10.0 + WEAK_SECONDS
    assert told.verdict(HERE, 10.0 + ANSWER_SECONDS).state == "unknown"
    told.forget()
    assert told.verdict(HERE, 11.0) == Verdict()


def test_a_closed_endpoint_says_why():
    why = answers(False, False, True).verdict(HERE, 1.0).why
    assert why == f"2 of 3 peers asked did not reach {HERE}: connection refused"


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40), st.booleans()), max_size=300))
def test_what_is_kept_of_answers_is_bounded(words):
    told = DialBacks()
    for number, (port, by, reached) in enumerate(words):
        told.note(Endpoint(OUTSIDE, port), f"198.51.100.{by}", reached, "", float(number))
    kept = [told.asked(Endpoint(OUTSIDE, port)) for port in range(41)]
    assert sum(1 for each in kept if each) <= MAX_ENDPOINTS
    assert max(map(len, kept)) <= MAX_ANSWERS


def test_one_open_endpoint_will_do():
    opened, closed = Verdict("open"), Verdict("closed", True)
    assert best([closed, opened]) is opened
    assert best([closed, Verdict()]).state == "unknown"
    assert best([closed]) is closed
    assert best([]) == Verdict()


# --- the ladder --------------------------------------------------------------------------------------------------


def test_a_step_is_news_once_and_knows_how_long_it_took():
    ladder = Ladder()
    assert ladder.note("relayed", "trying", "no relay is known", 10.0, 1_000.0)
    assert ladder.note("public", "trying", "", 10.0, 1_000.0)
    assert not ladder.note("public", "trying", "", 11.0, 1_001.0)
    assert ladder.note("public", "failed", "refused", 14.0, 1_004.0)
    assert ladder.note("public", "failed", "refused by two", 20.0, 1_010.0)
    public, relayed = ladder.steps(30.0)
    assert (public.name, public.state, public.detail) == ("public", "failed", "refused by two")
    assert (public.seconds, public.since) == (4.0, 1_004.0)
    assert (relayed.name, relayed.seconds, relayed.since) == ("relayed", 20.0, 1_000.0)


def test_a_step_that_is_tried_again_is_timed_again():
    ladder = Ladder()
    ladder.note("public", "works", "", 1.0, 1.0)
    ladder.note("public", "trying", "the network changed", 100.0, 100.0)
    ladder.note("public", "works", "", 103.0, 103.0)
    (step,) = ladder.steps(200.0)
    assert (step.seconds, step.since) == (3.0, 103.0)
