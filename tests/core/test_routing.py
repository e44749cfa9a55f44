"""One task at a router: every transition by example, and any order of events whatever."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec import structs

from cactus_mesh.core.likelihoods import likelihood_of
from cactus_mesh.core.receipts import pack_logprobs
from cactus_mesh.core.routing import (
    MAX_ATTEMPTS,
    MAX_CHARACTERS_PER_TOKEN,
    MAX_FAILURES,
    STOP_MS,
    Abandon,
    Accepted,
    Assign,
    AttemptFailed,
    Fail,
    Finished,
    Forward,
    Patience,
    Record,
    Stop,
    Succeed,
    TaskMachine,
    Tokens,
    Unwanted,
    WakeAt,
    Woke,
)
from cactus_mesh.errors import (
    Busy,
    Cancelled,
    CannotContinue,
    DeadlinePassed,
    Draining,
    EngineFailed,
    NoOrchestrator,
    OrchestratorLost,
    PeerLost,
    PeerUnreachable,
    PromptTooLong,
    ProtocolViolation,
    ReceiptRejected,
    UsageError,
)
from cactus_mesh.messages import MAX_PARTIAL_CHARACTERS, Partial, Sampling
from tests.core.cases import candidate

ACCEPT_MS, FIRST_TOKEN_MS, STALL_MS, DEADLINE_MS, MAX_TOKENS = 100, 1_000, 300, 10_000, 8
PATIENCE = Patience(accept_ms=ACCEPT_MS, first_token_ms=FIRST_TOKEN_MS, stall_ms=STALL_MS)
CANDIDATES = [candidate(name) for name in "abcdefghijklmnopqrst"]
A, B = CANDIDATES[:2]


def machine(candidates=2):
    return TaskMachine(
        CANDIDATES[:candidates], sampling=Sampling(max_tokens=MAX_TOKENS), deadline_ms=DEADLINE_MS, patience=PATIENCE
    )


def begun(candidates=2):
    task = machine(candidates)
    task.begin(0)
    return task


def accepted(candidates=2):
    task = begun(candidates)
    task.handle(Accepted(1), 10)
    return task


def telling():
    """One that has accepted, of which log-probabilities are asked for."""
    wanted = Sampling(max_tokens=MAX_TOKENS, top_logprobs=0)
    task = TaskMachine([A, B], sampling=wanted, deadline_ms=DEADLINE_MS, patience=PATIENCE)
    task.begin(0)
    task.handle(Accepted(1), 10)
    return task


def likely(token, logprob):
    return likelihood_of([token], [logprob], [(b"x", False)])


def streaming(candidates=2):
    task = accepted(candidates)
    task.handle(Tokens(1, 0, (5, 6), "so"), 50)
    return task


def failure(effects):
    """The error of the `Fail` that *effects* end with."""
    assert isinstance(effects[-1], Fail)
    return effects[-1].error


# --- the way of an honest task -----------------------------------------------------------------------------------


def test_the_best_candidate_is_asked_and_given_time_to_accept():
    assert machine().begin(7) == [Assign(1, A), WakeAt(7 + ACCEPT_MS)]


def test_whoever_accepts_is_given_time_for_the_first_token():
    assert begun().handle(Accepted(1), 10) == [WakeAt(10 + FIRST_TOKEN_MS)]


def test_tokens_are_passed_on_and_kept():
    task = accepted()
    assert task.handle(Tokens(1, 0, (5, 6), "so"), 50) == [Forward(0, (5, 6), "so"), WakeAt(50 + STALL_MS)]
    assert task.handle(Tokens(1, 2, (7,), " be"), 90) == [Forward(2, (7,), " be"), WakeAt(90 + STALL_MS)]
    assert (task.token_ids, task.text) == ([5, 6, 7], "so be")


def test_log_probabilities_are_passed_on_and_the_chosen_tokens_kept():
    task, told = telling(), [likely(5, -0.5), likely(6, -1.0)]
    assert task.handle(Tokens(1, 0, (5, 6), "so", told), 50)[0] == Forward(0, (5, 6), "so", told)
    task.handle(Tokens(1, 2, (7,), " be", [likely(7, -0.25)]), 60)
    assert task.logprobs == pack_logprobs([-0.5, -1.0, -0.25])


@pytest.mark.parametrize("told", [[], [("of", 6, -0.5)], [("of", 5, 0.5)]], ids=["none", "another's", "impossible"])
def test_who_sends_log_probabilities_that_cannot_be_is_passed_over_for_the_next(told):
    task = telling()
    effects = task.handle(Tokens(1, 0, (5,), "so", [likely(*each[1:]) for each in told]), 50)
    assert effects[:3] == [Abandon(1), Record(A, "failed", 0), Assign(2, B)]
    assert (task.token_ids, task.logprobs) == ([], b"")


def test_where_others_went_before_their_log_probabilities_have_their_places():
    wanted = Sampling(max_tokens=9, top_logprobs=0)
    task = TaskMachine([A], sampling=wanted, deadline_ms=DEADLINE_MS, patience=PATIENCE, partial=SO_FAR)
    task.begin(0)
    task.handle(Accepted(1), 10)
    task.handle(Tokens(1, 2, (7,), " be", [likely(7, -0.25)]), 20)
    assert task.logprobs == pack_logprobs([0, 0, -0.25])


def test_as_many_tokens_as_were_asked_for_are_passed_on():
    assert accepted().handle(Tokens(1, 0, (5,) * MAX_TOKENS, "x"), 50)[0] == Forward(0, (5,) * MAX_TOKENS, "x")


def test_the_first_token_is_timed_from_when_its_orchestrator_was_asked():
    task = begun()
    task.handle(AttemptFailed(1, Busy("full")), 40)
    task.handle(Accepted(2), 45)
    task.handle(Tokens(2, 0, (5,), "x"), 47)
    assert task.handle(Finished(2, ()), 60)[0] == Record(B, "completed", 7)


def test_a_receipt_that_holds_ends_the_task_well():
    assert streaming().handle(Finished(1, ()), 60) == [Record(A, "completed", 50), Succeed(1)]


def test_no_wait_goes_beyond_the_deadline():
    task = machine()
    assert task.begin(DEADLINE_MS - 1)[1] == WakeAt(DEADLINE_MS)


# --- who fails before its first token is replaced ------------------------------------------------------------------


@pytest.mark.parametrize("error", [Busy("full"), PromptTooLong("too long")])
def test_a_refusal_is_passed_over_and_held_against_nobody(error):
    assert begun().handle(AttemptFailed(1, error), 20) == [Assign(2, B), WakeAt(20 + ACCEPT_MS)]


@pytest.mark.parametrize("error", [EngineFailed(""), PeerLost(""), PeerUnreachable(""), ProtocolViolation("")])
def test_a_breakdown_is_passed_over_and_remembered(error):
    effects = accepted().handle(AttemptFailed(1, error), 20)
    assert effects == [Record(A, "failed", 0), Assign(2, B), WakeAt(20 + ACCEPT_MS)]


@pytest.mark.parametrize(
    ("task", "at"), [(begun, ACCEPT_MS), (accepted, 10 + FIRST_TOKEN_MS)], ids=["no answer", "no token"]
)
def test_silence_is_given_up_and_replaced(task, at):
    task = task()
    assert task.handle(Woke(), at - 1) == [WakeAt(at)]
    assert task.handle(Woke(), at) == [Abandon(1), Record(A, "timed_out", 0), Assign(2, B), WakeAt(at + ACCEPT_MS)]


def test_what_an_abandoned_attempt_still_sends_is_ignored():
    task = begun()
    task.handle(Woke(), ACCEPT_MS)
    for late in (Accepted(1), Tokens(1, 0, (5,), "x"), Finished(1, ()), AttemptFailed(1, Busy(""))):
        assert task.handle(late, ACCEPT_MS + 1) == []
    assert task.handle(Accepted(2), ACCEPT_MS + 1) == [WakeAt(ACCEPT_MS + 1 + FIRST_TOKEN_MS)]


def test_no_more_than_the_bound_are_asked():
    task = machine(MAX_ATTEMPTS + 2)
    task.begin(0)
    for attempt in range(1, MAX_ATTEMPTS):
        assert task.handle(AttemptFailed(attempt, Busy("full")), 1)[0] == Assign(attempt + 1, CANDIDATES[attempt])
    assert isinstance(failure(task.handle(AttemptFailed(MAX_ATTEMPTS, Busy("full")), 1)), Busy)


def test_breakdowns_end_a_task_sooner_than_refusals():
    task = machine(MAX_ATTEMPTS)
    task.begin(0)
    for attempt in range(1, MAX_FAILURES):
        effects = task.handle(AttemptFailed(attempt, EngineFailed("broken")), 1)
        assert Assign(attempt + 1, CANDIDATES[attempt]) in effects
    assert isinstance(failure(task.handle(AttemptFailed(MAX_FAILURES, EngineFailed("broken")), 1)), EngineFailed)


def test_without_candidates_the_task_fails_at_once():
    assert isinstance(failure(machine(0).begin(0)), NoOrchestrator)


def test_of_all_refusals_the_client_hears_what_is_wrong_with_its_task():
    task = begun(4)
    task.handle(AttemptFailed(1, ProtocolViolation("nonsense")), 1)
    task.handle(AttemptFailed(2, PromptTooLong("the prompt is too long")), 2)
    task.handle(AttemptFailed(3, PeerLost("gone")), 3)
    assert failure(task.handle(AttemptFailed(4, Busy("full")), 4)).code == "task.prompt_too_long"


def test_nobody_is_asked_once_the_deadline_has_passed():
    effects = begun().handle(AttemptFailed(1, Busy("full")), DEADLINE_MS)
    assert len(effects) == 1
    assert isinstance(failure(effects), DeadlinePassed)


# --- once tokens have been seen, the next one goes on from them ----------------------------------------------------

SO_FAR = Partial([5, 6], "so")


def test_who_is_lost_mid_stream_is_replaced_by_the_next_who_goes_on():
    task = streaming()
    effects = task.handle(AttemptFailed(1, PeerLost("gone")), 60)
    assert effects == [Record(A, "failed", 50), Assign(2, B, SO_FAR), WakeAt(60 + ACCEPT_MS)]
    task.handle(Accepted(2), 70)
    assert task.handle(Tokens(2, 2, (7,), " be"), 75)[0] == Forward(2, (7,), " be")
    assert task.handle(Finished(2, ()), 80) == [Record(B, "completed", 15), Succeed(2)]
    assert (task.token_ids, task.text) == ([5, 6, 7], "so be")


def test_who_shuts_down_mid_stream_is_replaced_without_blame():
    assert streaming().handle(AttemptFailed(1, Draining("bye")), 60)[0] == Assign(2, B, SO_FAR)


def test_a_stalled_stream_goes_on_elsewhere():
    effects = streaming().handle(Woke(), 50 + STALL_MS)
    assert effects[:3] == [Abandon(1), Record(A, "timed_out", 50), Assign(2, B, SO_FAR)]


def test_who_goes_on_may_have_nothing_to_add():
    task = streaming()
    task.handle(AttemptFailed(1, PeerLost("gone")), 60)
    task.handle(Accepted(2), 70)
    assert task.handle(Finished(2, ()), 80) == [Record(B, "completed", 0), Succeed(2)]


def test_when_nobody_can_go_on_the_error_tells_where_the_stream_stopped():
    task = streaming()
    task.handle(AttemptFailed(1, PeerLost("gone")), 60)
    error = failure(task.handle(AttemptFailed(2, CannotContinue("other tokens")), 70))
    assert isinstance(error, OrchestratorLost)
    assert "stopped after 2 tokens (unreachable.peer_lost) and nobody could go on" in error.message


def test_only_the_same_model_can_go_on():
    other = candidate("b", offer=structs.replace(A.offer, digest=bytes(32)))
    task = TaskMachine([A, other], sampling=Sampling(max_tokens=MAX_TOKENS), deadline_ms=DEADLINE_MS, patience=PATIENCE)
    task.begin(0)
    task.handle(Accepted(1), 10)
    task.handle(Tokens(1, 0, (5, 6), "so"), 50)
    assert isinstance(failure(task.handle(AttemptFailed(1, PeerLost("gone")), 60)), OrchestratorLost)


def test_a_task_that_is_very_long_does_not_move():
    task = TaskMachine(CANDIDATES[:2], sampling=Sampling(max_tokens=100), deadline_ms=DEADLINE_MS, patience=PATIENCE)
    task.begin(0)
    task.handle(Accepted(1), 10)
    task.handle(Tokens(1, 0, (5,) * 80, "x" * (MAX_PARTIAL_CHARACTERS + 1)), 50)
    assert isinstance(failure(task.handle(AttemptFailed(1, PeerLost("gone")), 60)), OrchestratorLost)


def test_a_task_that_others_have_begun_goes_on_where_they_stopped():
    task = TaskMachine([A], sampling=Sampling(max_tokens=3), deadline_ms=DEADLINE_MS, patience=PATIENCE, partial=SO_FAR)
    assert task.begin(0)[0] == Assign(1, A, SO_FAR)
    task.handle(Accepted(1), 10)
    assert task.handle(Tokens(1, 2, (7,), " be"), 20)[0] == Forward(2, (7,), " be")
    assert task.text == "so be"


# --- broken rules --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "event", "how"),
    [
        (begun, Tokens(1, 0, (5,), "x"), "before accepting"),
        (accepted, Accepted(1), "accepted the task twice"),
        (accepted, Tokens(1, 1, (5,), "x"), "token 1 in place 0"),
        (accepted, Tokens(1, 0, (), "x"), "text without tokens"),
        (accepted, Tokens(1, 0, (), ""), "text without tokens"),
        (accepted, Tokens(1, 0, tuple(range(9)), "x"), "more than the 8 tokens"),
        (accepted, Tokens(1, 0, (5,), "x" * (MAX_CHARACTERS_PER_TOKEN + 1)), "1025 characters with 1 tokens"),
    ],
)
def test_who_breaks_a_rule_is_stopped_blamed_and_replaced(task, event, how):
    task = task(1)
    effects = task.handle(event, 50)
    assert effects[:2] == [Abandon(1), Record(A, "failed", 0)]
    assert how in failure(effects).message
    assert task.token_ids == []


@pytest.mark.parametrize(
    "event", [Tokens(1, 0, (5,), "again"), Tokens(1, 3, (5,), "gap"), Tokens(1, 2, (5,) * 7, "too many")]
)
def test_who_breaks_a_rule_mid_stream_is_replaced_and_what_broke_it_is_not_passed_on(event):
    task = streaming()
    assert task.handle(event, 60)[:3] == [Abandon(1), Record(A, "failed", 50), Assign(2, B, SO_FAR)]
    assert task.token_ids == [5, 6]


def test_text_that_was_held_back_may_come_with_a_later_token():
    task = accepted()
    task.handle(Tokens(1, 0, (5,), ""), 50)
    assert task.handle(Tokens(1, 1, (6,), "x" * 2 * MAX_CHARACTERS_PER_TOKEN), 51)[0].start == 1


def test_a_receipt_that_does_not_hold_is_not_paid_and_names_its_faults():
    effects = streaming().handle(Finished(1, ("tokens", "claim")), 60)
    assert effects[0] == Record(A, "rejected", 50)
    assert isinstance(failure(effects), ReceiptRejected)
    assert "(tokens, claim)" in failure(effects).message


def test_a_receipt_without_an_acceptance_does_not_hold():
    effects = begun().handle(Finished(1, ()), 5)
    assert effects[0] == Record(A, "rejected", 0)
    assert "acceptance" in failure(effects).message


# --- the deadline --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("task", "blamed"), [(begun, False), (accepted, True), (streaming, True)])
def test_the_deadline_ends_the_task_and_blames_only_who_had_accepted(task, blamed):
    effects = task().handle(Woke(), DEADLINE_MS)
    assert effects[0] == Abandon(1)
    assert [type(effect) for effect in effects[1:]] == ([Record, Fail] if blamed else [Fail])
    assert isinstance(failure(effects), DeadlinePassed)


# --- what nobody wants any more --------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [begun, accepted])
def test_what_is_unwanted_before_its_first_token_is_just_left(task):
    effects = task().handle(Unwanted(), 60)
    assert effects[0] == Abandon(1)
    assert isinstance(failure(effects), Cancelled)


def test_what_is_unwanted_later_is_stopped_and_its_receipt_counts():
    task = streaming()
    assert task.handle(Unwanted(), 60) == [Stop(1), WakeAt(60 + STOP_MS)]
    assert task.handle(Unwanted(), 61) == []
    assert task.handle(Tokens(1, 2, (7,), "x"), 70) == [Forward(2, (7,), "x"), WakeAt(60 + STOP_MS)]
    assert task.handle(Finished(1, ()), 80) == [Record(A, "completed", 50), Succeed(1)]


@pytest.mark.parametrize(
    ("event", "at", "blamed"), [(Woke(), 60 + STOP_MS, False), (AttemptFailed(1, PeerLost("gone")), 70, True)]
)
def test_nobody_goes_on_with_what_is_unwanted(event, at, blamed):
    task = streaming()
    task.handle(Unwanted(), 60)
    effects = task.handle(event, at)
    assert isinstance(failure(effects), Cancelled)
    assert [type(effect) for effect in effects] == ([Record, Fail] if blamed else [Abandon, Fail])


def test_nothing_follows_the_end():
    task = streaming()
    task.handle(Finished(1, ()), 60)
    for event in (Accepted(1), Tokens(1, 2, (7,), "x"), Finished(1, ()), AttemptFailed(1, Busy("")), Woke()):
        assert task.handle(event, DEADLINE_MS) == []


@pytest.mark.parametrize("name", ["accept_ms", "first_token_ms", "stall_ms"])
def test_no_patience_at_all_is_refused(name):
    assert getattr(Patience(**{name: 1}), name) == 1
    with pytest.raises(UsageError):
        Patience(**{name: 0})


# --- any events in any order -----------------------------------------------------------------------------------------

attempts = st.integers(0, MAX_ATTEMPTS + 1)
errors = st.sampled_from([Busy("x"), PromptTooLong("x"), PeerLost("x"), EngineFailed("x"), ProtocolViolation("x")])
steps = st.integers(0, 400)


class AnyEvents(RuleBasedStateMachine):
    """A driver that obeys the effects, and a world that sends sense and nonsense."""

    @initialize(candidates=st.integers(0, 7))
    def start(self, candidates):
        self.task = machine(candidates)
        self.now, self.wake_at = 0, None
        self.effects, self.good_finish, self.phase_before = [], False, "asked"
        self.do(self.task.begin(0))

    def do(self, effects):
        for effect in effects:
            assert not self.ended, "nothing may follow the end"
            if isinstance(effect, Assign):
                assert not self.task.unwanted, "nobody is asked for what nobody wants"
                forwarded = [token for each in self.of(Forward) for token in each.token_ids]
                assert (effect.partial.token_ids if effect.partial else []) == forwarded, "all of it, and no more"
            if isinstance(effect, WakeAt):
                assert self.now <= effect.at_ms <= DEADLINE_MS or self.now >= DEADLINE_MS
                self.wake_at = effect.at_ms
            if isinstance(effect, Succeed):
                assert self.good_finish, "no success without a receipt that holds"
            self.effects.append(effect)

    def of(self, *kinds):
        return [effect for effect in self.effects if isinstance(effect, kinds)]

    @property
    def ended(self):
        return bool(self.of(Succeed, Fail))

    def send(self, event, step):
        """Let time pass, waking the machine whenever it asked for that, then send *event*."""
        until = self.now + step
        while not self.ended and self.wake_at is not None and self.wake_at <= until:
            self.now = max(self.now, self.wake_at)
            self.do(self.task.handle(Woke(), self.now))
            assert self.ended or self.wake_at > self.now, "a timer that goes round in a circle"
        self.now = until
        if event is not None:
            self.good_finish = isinstance(event, Finished) and not event.failed_checks
            self.do(self.task.handle(event, self.now))

    @property
    def current(self):
        return len(self.of(Assign))

    @rule(attempt=attempts, step=steps)
    def accept_whatever(self, attempt, step):
        self.send(Accepted(attempt), step)

    @rule(step=steps)
    def accept(self, step):
        self.send(Accepted(self.current), step)

    @rule(count=st.integers(1, 4), step=steps)
    def stream(self, count, step):
        place = len(self.task.token_ids)
        self.send(Tokens(self.current, place, tuple(range(place, place + count)), "x" * count), step)

    @rule(attempt=attempts, start=st.integers(0, 9), count=st.integers(0, 9), step=steps)
    def stream_whatever(self, attempt, start, count, step):
        self.send(Tokens(attempt, start, tuple(range(start, start + count)), "x" * count), step)

    @rule(attempt=attempts, failed=st.sampled_from([(), ("claim",)]), step=steps)
    def finish_whatever(self, attempt, failed, step):
        self.send(Finished(attempt, failed), step)

    @rule(attempt=attempts, error=errors, step=steps)
    def fail_whatever(self, attempt, error, step):
        self.send(AttemptFailed(attempt, error), step)

    @rule(error=errors, step=steps)
    def fail(self, error, step):
        self.send(AttemptFailed(self.current, error), step)

    @rule(step=steps)
    def nobody_wants_it(self, step):
        self.send(Unwanted(), step)

    @rule(step=steps)
    def wake_early(self, step):
        self.send(Woke(), step)

    @rule(step=st.integers(0, 5_000))
    def wait(self, step):
        self.send(None, step)

    @invariant()
    def tokens_are_forwarded_once_and_in_order(self):
        if not hasattr(self, "task"):
            return
        forwarded = [token for effect in self.of(Forward) for token in effect.token_ids]
        assert forwarded == self.task.token_ids == list(range(len(forwarded)))
        assert len(forwarded) <= MAX_TOKENS
        assert "".join(effect.text for effect in self.of(Forward)) == self.task.text

    @invariant()
    def attempts_are_bounded_and_counted(self):
        if hasattr(self, "task"):
            assert [effect.attempt for effect in self.of(Assign)] == list(range(1, self.current + 1))
            assert self.current <= MAX_ATTEMPTS
            asked = [effect.candidate.orchestrator for effect in self.of(Assign)]
            assert len(set(asked)) == len(asked)
            assert len(self.of(Record)) <= self.current

    @invariant()
    def ends_once_and_by_the_deadline(self):
        if hasattr(self, "task"):
            assert len(self.of(Succeed, Fail)) == (self.task.phase == "ended") <= 1
            assert self.ended or self.wake_at is not None
            assert self.ended or self.now < DEADLINE_MS

    def teardown(self):
        if hasattr(self, "task"):
            self.send(None, DEADLINE_MS)
            assert len(self.of(Succeed, Fail)) == 1


AnyEvents.TestCase.settings = settings(max_examples=100, stateful_step_count=25, deadline=None)
TestAnyEvents = AnyEvents.TestCase
