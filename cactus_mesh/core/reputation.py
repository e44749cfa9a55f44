"""What routers say of orchestrators, folded into one standing each.

Own experience counts in full; another router's word, however often repeated, counts as at most `WORD_OF_ONE_ROUTER`
tasks and as one voice on speed.  Old experience fades.  Whether a router may speak at all (its authorisation) is the
caller's to check.
"""

from __future__ import annotations

import math
import statistics
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from cactus_mesh.identity import PublicKey
    from cactus_mesh.messages import Outcome

HALF_LIFE_SECONDS: Final = 3_600.0
WORD_OF_ONE_ROUTER: Final = 20.0
MAX_ROUTERS_HEARD: Final = 64
"""Per orchestrator, besides oneself; who spoke longest ago makes room."""
MAX_ORCHESTRATORS: Final = 200_000
MAX_REMEMBERED_WORDS: Final = 100_000
"""Against counting the same gossip twice; it is gossiped for two minutes."""
_NEWEST_SHARE: Final = 0.2
"""Weight of the newest observation in the moving averages of speed."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What to expect of an orchestrator.  *success* is 0 to 1; speeds are None while nobody has seen it work."""

    success: float
    ms_per_gflop: float | None = None
    first_token_ms: float | None = None


@dataclass(slots=True)
class _Voice:
    """What one router says of one orchestrator."""

    completed: float = 0.0
    failed: float = 0.0
    as_of: float = 0.0
    ms_per_gflop: float | None = None
    first_token_ms: float | None = None

    def faded(self, now: float) -> tuple[float, float]:
        kept = 0.5 ** (max(0.0, now - self.as_of) / HALF_LIFE_SECONDS)
        return self.completed * kept, self.failed * kept

    def add(self, outcome: Outcome, now: float) -> None:
        self.completed, self.failed = self.faded(now)
        self.as_of = max(now, self.as_of)
        if outcome.result != "completed":
            self.failed += 1
            return
        self.completed += 1
        self.first_token_ms = _blend(self.first_token_ms, outcome.first_token_ms)
        if outcome.complexity:
            self.ms_per_gflop = _blend(self.ms_per_gflop, outcome.compute_ms * 1_000 / outcome.complexity)


class _Record:
    """All that was heard of one orchestrator."""

    def __init__(self) -> None:
        self.own = _Voice()
        self.others: OrderedDict[PublicKey, _Voice] = OrderedDict()

    def other(self, router: PublicKey) -> _Voice:
        voice = self.others.setdefault(router, _Voice())
        self.others.move_to_end(router)
        if len(self.others) > MAX_ROUTERS_HEARD:
            self.others.popitem(last=False)
        return voice

    @property
    def ms_per_gflop(self) -> float | None:
        return _first_hand(self.own.ms_per_gflop, [voice.ms_per_gflop for voice in self.others.values()])

    @property
    def first_token_ms(self) -> float | None:
        return _first_hand(self.own.first_token_ms, [voice.first_token_ms for voice in self.others.values()])


def _first_hand(own: float | None, said: list[float | None]) -> float | None:
    """What oneself has measured, else the median of what others say, so that a lying minority does not decide."""
    if own is not None:
        return own
    known = [value for value in said if value is not None]
    return statistics.median(known) if known else None


class Reputation:
    """Standings as router *me* sees them."""

    def __init__(self, me: PublicKey) -> None:
        self._me = me
        self._records: OrderedDict[PublicKey, _Record] = OrderedDict()
        self._heard: OrderedDict[tuple[PublicKey, bytes, PublicKey, bool], None] = OrderedDict()

    def fold(self, outcome: Outcome, router: PublicKey, now: float) -> bool:
        """Take in one router's word on one orchestrator's part in a task; False when that word was heard before."""
        # a task that one orchestrator failed and the next completed is a word on each of them
        # ... and an audit may reject later what had been completed
        key = (router, outcome.task_id, outcome.orchestrator, outcome.result == "rejected")
        if key in self._heard:
            return False
        self._heard[key] = None
        if len(self._heard) > MAX_REMEMBERED_WORDS:
            self._heard.popitem(last=False)
        # the orchestrator named first is liable, so the outcome is its own even where a delegate did the work
        record = self._record(outcome.orchestrator)
        voice = record.own if router == self._me else record.other(router)
        voice.add(outcome, now)
        return True

    def _record(self, orchestrator: PublicKey) -> _Record:
        record = self._records.setdefault(orchestrator, _Record())
        self._records.move_to_end(orchestrator)
        if len(self._records) > MAX_ORCHESTRATORS:
            self._records.popitem(last=False)
        return record

    def standing(self, orchestrator: PublicKey, now: float, *, on_ledger: tuple[int, int] = (0, 0)) -> Standing:
        """*on_ledger* is (completed, failed) from the contract's metrics: one more voice among the routers'."""
        record = self._records.get(orchestrator)
        completed, failed = _at_most(WORD_OF_ONE_ROUTER, *on_ledger)
        if record is None:
            return Standing(_success(completed, failed))
        voices = [(math.inf, record.own), *((WORD_OF_ONE_ROUTER, voice) for voice in record.others.values())]
        for limit, voice in voices:
            good, bad = _at_most(limit, *voice.faded(now))
            completed += good
            failed += bad
        return Standing(_success(completed, failed), record.ms_per_gflop, record.first_token_ms)


def _at_most(limit: float, good: float, bad: float) -> tuple[float, float]:
    """The same proportion, of at most *limit* tasks."""
    share = min(1.0, limit / max(good + bad, 1e-9))
    return good * share, bad * share


def _success(completed: float, failed: float) -> float:
    """As `core.pricing.success_ppm`, over fractions of tasks."""
    return (completed + 9.0) / (completed + failed + 10.0)


def _blend(old: float | None, new: float) -> float:
    return new if old is None else old + _NEWEST_SHARE * (new - old)
