"""One task at a router, as a machine: events in, effects out.

Decides whom to ask next, when waiting has lasted too long, what to forward and how the task ends.  Keeps the accepted
token ids.  Knows no network: the shell in `cactus_mesh.router` turns effects into calls and calls into events.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, assert_never

from cactus_mesh.core.likelihoods import chosen_of, fault_in
from cactus_mesh.errors import (
    Busy,
    Cancelled,
    DeadlinePassed,
    Draining,
    EngineFailed,
    MeshError,
    NoOrchestrator,
    OrchestratorLost,
    ProtocolViolation,
    ReceiptRejected,
    TaskError,
    UnreachableError,
    UsageError,
)
from cactus_mesh.identity import peer_id
from cactus_mesh.messages import MAX_PARTIAL_CHARACTERS, Partial

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cactus_mesh.core.matching import Candidate
    from cactus_mesh.messages import Likelihood, ModelOffer, Sampling

MAX_ATTEMPTS: Final = 16
"""Whom a task is offered to at most; being told "full" costs a round trip."""
MAX_FAILURES: Final = 5
"""Silence and breakdowns, each of which may cost a wait of `Patience.accept_ms`: five are not bad luck any more."""
MAX_CHARACTERS_PER_TOKEN: Final = 1_024
"""Over all tokens so far.  The longest tokens of real vocabularies have some hundred characters."""

STOP_MS: Final = 5_000
"""For an orchestrator that is told to stop to sign for what it has made; it takes a round trip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to wait for an orchestrator: to accept, for the first token, and between tokens, in milliseconds."""

    accept_ms: int = 5_000
    first_token_ms: int = 60_000
    stall_ms: int = 20_000

    def __post_init__(self) -> None:
        if min(self.accept_ms, self.first_token_ms, self.stall_ms) < 1:
            raise UsageError("a router's patience must be at least 1 ms")


# --- events ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Accepted:
    attempt: int


@dataclass(frozen=True, slots=True)
class Tokens:
    attempt: int
    start: int
    token_ids: Sequence[int]
    text: str
    likelihoods: Sequence[Likelihood] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """A receipt came; *failed_checks* is what `core.verification` says of it."""

    attempt: int
    failed_checks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AttemptFailed:
    attempt: int
    error: MeshError


@dataclass(frozen=True, slots=True)
class Woke:
    """The time asked for by `WakeAt` has come."""


@dataclass(frozen=True, slots=True)
class Unwanted:
    """The client wants no more of it, or has gone."""


Event = Accepted | Tokens | Finished | AttemptFailed | Woke | Unwanted


# --- effects -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Assign:
    """*partial* is what the task goes on from, when others have begun it."""

    attempt: int
    candidate: Candidate
    partial: Partial | None = None


@dataclass(frozen=True, slots=True)
class Abandon:
    """Stop the attempt at its orchestrator, wherever it stands."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Have the attempt's orchestrator end it, and sign for what it has made."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Forward:
    start: int
    token_ids: Sequence[int]
    text: str
    likelihoods: Sequence[Likelihood] = ()


@dataclass(frozen=True, slots=True)
class WakeAt:
    at_ms: int


@dataclass(frozen=True, slots=True)
class Record:
    """What this attempt says of its orchestrator."""

    candidate: Candidate
    result: ResultOfAttempt
    first_token_ms: int


@dataclass(frozen=True, slots=True)
class Succeed:
    """The task is done: send the evidence to the client and settle it."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Fail:
    """The task has failed: tell the client."""

    error: MeshError


ResultOfAttempt = Literal["completed", "failed", "rejected", "timed_out"]
Effect = Assign | Abandon | Stop | Forward | WakeAt | Record | Succeed | Fail
Phase = Literal["asked", "accepted", "streaming", "ended"]


class TaskMachine:
    """Feed it `begin`, then every event as it happens; do its effects in order.

    *partial* is what had been streamed before this machine's first candidate.
    """

    def __init__(
        self,
        candidates: Sequence[Candidate],
        *,
        sampling: Sampling,
        deadline_ms: int,
        patience: Patience,
        partial: Partial | None = None,
    ) -> None:
        self._waiting = deque(candidates[:MAX_ATTEMPTS])
        self._sampling = sampling
        self._deadline_ms = deadline_ms
        self._patience = patience
        self._errors: list[MeshError] = []
        self._lost: OrchestratorLost | None = None
        self._failures = 0
        self._attempt = 0
        self._candidate: Candidate | None = None
        self._asked_at_ms = 0
        self._first_token_ms = 0
        self._wake_at_ms = 0
        self._stop_at_ms = 0
        self.phase: Phase = "asked"
        self.unwanted = False
        """The client wants no more: who works on it has been told to stop."""
        self.token_ids: list[int] = list(partial.token_ids) if partial else []
        """Accepted so far, in order: what another orchestrator goes on from."""
        self.logprobs = bytearray(4 * len(self.token_ids))
        """As streamed with these tokens, where they are asked for; 0 of those in *partial*."""
        self._pieces: list[str] = [partial.text] if partial else []
        self._characters = len(self.text)

    @property
    def text(self) -> str:
        """What the accepted tokens read as."""
        return "".join(self._pieces)

    def begin(self, now_ms: int) -> list[Effect]:
        return self._ask_next(now_ms)

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        """The effects of *event*; none once the task has ended, or for an attempt that was abandoned."""
        if self.phase == "ended":
            return []
        if not isinstance(event, Woke | Unwanted) and event.attempt != self._attempt:
            return []
        match event:
            case Accepted():
                return self._accepted(now_ms)
            case Tokens():
                return self._tokens(event, now_ms)
            case Finished():
                return self._finished(event)
            case AttemptFailed(error=error):
                return self._attempt_failed(error, _blame(error), now_ms)
            case Woke():
                return self._woke(now_ms)
            case Unwanted():
                return self._stop(now_ms)
            case _:
                assert_never(event)

    def _ask_next(self, now_ms: int) -> list[Effect]:
        if now_ms >= self._deadline_ms:
            return self._end(Fail(self._deadline_passed()))
        if not self._waiting:
            return self._end(Fail(self._lost or _most_telling(self._errors)))
        self.phase = "asked"
        self._attempt += 1
        self._candidate = self._waiting.popleft()
        self._asked_at_ms = now_ms
        self._first_token_ms = 0
        partial = Partial(list(self.token_ids), self.text) if self.token_ids else None
        return [Assign(self._attempt, self._candidate, partial), self._wait(now_ms, self._patience.accept_ms)]

    def _wait(self, now_ms: int, patience_ms: int) -> WakeAt:
        until_ms = self._stop_at_ms if self.unwanted else now_ms + patience_ms
        self._wake_at_ms = min(self._deadline_ms, until_ms)
        return WakeAt(self._wake_at_ms)

    def _accepted(self, now_ms: int) -> list[Effect]:
        if self.phase != "asked":
            return self._violation("accepted the task twice", now_ms)
        self.phase = "accepted"
        return [self._wait(now_ms, self._patience.first_token_ms)]

    def _tokens(self, event: Tokens, now_ms: int) -> list[Effect]:
        if self.phase == "asked":
            return self._violation("sent tokens before accepting the task", now_ms)
        count, characters = len(self.token_ids) + len(event.token_ids), self._characters + len(event.text)
        if not event.token_ids:
            return self._violation("sent text without tokens", now_ms)
        if event.start != len(self.token_ids):
            return self._violation(f"sent token {event.start} in place {len(self.token_ids)}", now_ms)
        if count > self._sampling.max_tokens:
            return self._violation(f"sent more than the {self._sampling.max_tokens} tokens asked for", now_ms)
        if characters > count * MAX_CHARACTERS_PER_TOKEN:
            return self._violation(f"sent {characters} characters with {count} tokens", now_ms)
        if fault := fault_in(event.likelihoods, event.token_ids, self._sampling, self._offer().dtype):
            return self._violation(f"sent log-probabilities {fault}", now_ms)
        if self.phase == "accepted":
            self._first_token_ms = now_ms - self._asked_at_ms
        self.phase = "streaming"
        self.token_ids += event.token_ids
        self.logprobs += chosen_of(event.likelihoods)
        self._pieces.append(event.text)
        self._characters = characters
        return [
            Forward(event.start, event.token_ids, event.text, event.likelihoods),
            self._wait(now_ms, self._patience.stall_ms),
        ]

    def _stop(self, now_ms: int) -> list[Effect]:
        """Before the first token nobody is owed anything; then what is made is signed for, as any answer."""
        if self.unwanted:
            return []
        self.unwanted = True
        if self.phase != "streaming":
            return [Abandon(self._attempt), *self._end(Fail(self._cancelled()))]
        self._stop_at_ms = now_ms + STOP_MS
        return [Stop(self._attempt), self._wait(now_ms, STOP_MS)]

    def _finished(self, event: Finished) -> list[Effect]:
        if self.phase == "asked" and not event.failed_checks:
            event = Finished(event.attempt, ("acceptance",))
        if event.failed_checks:
            names = ", ".join(event.failed_checks)
            error = ReceiptRejected(
                f"the receipt of {self._name()} does not hold ({names}); nothing is paid for this task, ask again"
            )
            return [self._record("rejected"), *self._end(Fail(error))]
        return [self._record("completed"), *self._end(Succeed(event.attempt))]

    def _attempt_failed(self, error: MeshError, blame: ResultOfAttempt | None, now_ms: int) -> list[Effect]:
        effects: list[Effect] = [] if blame is None else [self._record(blame)]
        if self.unwanted:
            return effects + self._end(Fail(self._cancelled()))
        if self.phase == "streaming":
            self._lost = self._lost_by(error)
            if self._characters > MAX_PARTIAL_CHARACTERS:
                return effects + self._end(Fail(self._lost))
            digest = self._offer().digest
            self._waiting = deque(each for each in self._waiting if each.offer.digest == digest)
        self._errors.append(error)
        self._failures += not isinstance(error, Busy | Draining)
        if self._failures >= MAX_FAILURES:
            self._waiting.clear()
        return effects + self._ask_next(now_ms)

    def _lost_by(self, error: MeshError) -> OrchestratorLost:
        return OrchestratorLost(
            f"{self._name()} stopped after {len(self.token_ids)} tokens ({error.code}) and nobody could go on; "
            "nothing is paid for this task, ask again"
        )

    def _offer(self) -> ModelOffer:
        assert self._candidate is not None, "tokens come from a candidate"
        return self._candidate.offer

    def _violation(self, how: str, now_ms: int) -> list[Effect]:
        stop = Abandon(self._attempt)
        return [stop, *self._attempt_failed(ProtocolViolation(f"{self._name()} {how}"), "failed", now_ms)]

    def _woke(self, now_ms: int) -> list[Effect]:
        if now_ms < self._wake_at_ms:
            return [WakeAt(self._wake_at_ms)]
        stop = Abandon(self._attempt)
        if self.unwanted:
            return [stop, *self._end(Fail(self._cancelled()))]
        if now_ms >= self._deadline_ms:
            # who accepts knows the deadline and the tokens; who is still being asked may have been asked too late
            blame = [] if self.phase == "asked" else [self._record("timed_out")]
            return [stop, *blame, *self._end(Fail(self._deadline_passed()))]
        waited = {"asked": "to accept", "accepted": "for its first token", "streaming": "for its next token"}
        silent = NoOrchestrator(f"{self._name()} kept us waiting {waited[self.phase]}")
        return [stop, *self._attempt_failed(silent, "timed_out", now_ms)]

    def _cancelled(self) -> Cancelled:
        return Cancelled(
            f"the client cancelled this task after {len(self.token_ids)} tokens; nothing is paid without a receipt"
        )

    def _deadline_passed(self) -> DeadlinePassed:
        return DeadlinePassed(
            f"the deadline passed after {len(self.token_ids)} tokens; ask again with a later deadline"
        )

    def _record(self, result: ResultOfAttempt) -> Record:
        assert self._candidate is not None, "only an attempt is recorded"
        return Record(self._candidate, result, self._first_token_ms)

    def _name(self) -> str:
        assert self._candidate is not None, "only an attempt is named"
        return f"orchestrator {peer_id(self._candidate.orchestrator)}"

    def _end(self, effect: Succeed | Fail) -> list[Effect]:
        self.phase = "ended"
        return [effect]


def _blame(error: MeshError) -> ResultOfAttempt | None:
    """A refusal says nothing bad of an orchestrator; breaking down or breaking the rules does."""
    if isinstance(error, EngineFailed | UnreachableError | ProtocolViolation | ReceiptRejected):
        return "failed"
    return None


def _most_telling(errors: Sequence[MeshError]) -> MeshError:
    """What is wrong with the task itself tells the client more than that somebody was busy or away."""
    for error in errors:
        if isinstance(error, TaskError) and not error.retry:
            return error
    return errors[-1] if errors else NoOrchestrator("no orchestrator took the task; try again in a minute")
