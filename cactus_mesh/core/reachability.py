"""How others can reach this machine, decided from evidence.  Pure: evidence in, verdicts and a ladder of steps out.

Evidence is what peers say of us (where they see us, whether they reached us there), so one liar must not decide
anything: peers count by their IP address, and two that agree outweigh one that does not.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

Reach = Literal["unknown", "public", "mapped", "private"]
"""*mapped*: through a port that the gateway forwards on our request.  *private*: only through relays and holes."""
Nat = Literal["unknown", "none", "endpoint-independent", "symmetric"]
StepName = Literal["public", "mapped", "punch", "relayed"]
StepState = Literal["trying", "works", "failed", "not needed"]

AGREEING: Final = 2
"""Peers at different IP addresses whose word decides."""
MAX_ENDPOINTS: Final = 16
"""About which answers are kept: a few addresses of this machine, and a router that changes its own now and then."""
MAX_ANSWERS: Final = 8
"""About one endpoint, the newest; peers are asked three at a time."""
ANSWER_SECONDS: Final = 1_800.0
"""For which an answer counts.  Verdicts are checked anew long before."""
FIRM_SECONDS: Final = 600.0
WEAK_SECONDS: Final = 30.0
"""Until a verdict is checked again: one on which two agree, and one that hangs on a single peer's word."""


class Endpoint(NamedTuple):
    """An IP address and a TCP port."""

    host: str
    port: int

    @property
    def family(self) -> int:
        return 6 if ":" in self.host else 4

    def __str__(self) -> str:
        return f"/ip{self.family}/{self.host}/tcp/{self.port}"


# --- the NAT -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Observation:
    """A peer at the address *by* sees us at *endpoint*, on a connection that left from *local_port*."""

    by: str
    endpoint: Endpoint
    local_port: int


@dataclass(frozen=True, slots=True)
class NatView:
    """*hosts* are the addresses at which others see us, those that most agree on first; *mapped* the one endpoint at
    which all see us through the NAT, or the only one who does."""

    kind: Nat = "unknown"
    port_preserving: bool | None = None
    hosts: tuple[str, ...] = ()
    mapped: Endpoint | None = None


def nat_of(observations: Iterable[Observation], own: Collection[str], listening: Collection[int]) -> NatView:
    """What stands between us and those who see us; *own* are this machine's addresses, *listening* its ports.

    Only connections that left from a listening port tell how ports are changed.
    """
    by_peer = {seen.by: seen for seen in observations}
    hosts = Counter(seen.endpoint.host for seen in by_peer.values())
    ranked = tuple(host for host, _ in hosts.most_common())
    if not ranked:
        return NatView()
    telling = [seen for seen in by_peer.values() if seen.local_port in listening]
    if len(telling) < AGREEING:
        return NatView(hosts=ranked, mapped=telling[0].endpoint if telling and len(by_peer) == 1 else None)
    (common, votes), *others = Counter(seen.endpoint for seen in telling).most_common()
    if votes >= AGREEING and votes > sum(count for _, count in others):
        preserved = all(seen.local_port == common.port for seen in telling if seen.endpoint == common)
        if common.host in own and preserved:
            return NatView("none", None, ranked)
        return NatView("endpoint-independent", preserved, ranked, common)
    if ranked[0] in own:  # it is seen at its own address by most: there is no NAT, some dialled from other ports
        return NatView("none", None, ranked)
    return NatView("symmetric", False, ranked)


# --- being dialled -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether others reach us.  *firm* when two of them agree, *again_at* when to ask again, *why* in words."""

    state: Literal["unknown", "open", "closed"] = "unknown"
    firm: bool = False
    why: str = ""
    again_at: float = float("-inf")


class _Answer(NamedTuple):
    reached: bool
    why: str
    at: float


class DialBacks:
    """What peers said about endpoints of ours, by endpoint and by the peer's IP address."""

    def __init__(self) -> None:
        self._answers: OrderedDict[Endpoint, OrderedDict[str, _Answer]] = OrderedDict()

    def note(self, endpoint: Endpoint, by: str, reached: bool, why: str, now: float) -> None:
        answers = self._answers.setdefault(endpoint, OrderedDict())
        self._answers.move_to_end(endpoint)
        answers[by] = _Answer(reached, why, now)
        answers.move_to_end(by)
        if len(answers) > MAX_ANSWERS:
            answers.popitem(last=False)
        if len(self._answers) > MAX_ENDPOINTS:
            self._answers.popitem(last=False)

    def forget(self) -> None:
        """The network has changed: nothing that was said holds any more."""
        self._answers.clear()

    def asked(self, endpoint: Endpoint) -> dict[str, float]:
        """Who was asked about *endpoint*, and when."""
        return {by: answer.at for by, answer in self._answers.get(endpoint, OrderedDict()).items()}

    def verdict(self, endpoint: Endpoint, now: float) -> Verdict:
        """The majority's, of those who answered lately; in doubt that it is closed, which relays make good."""
        every = self._answers.get(endpoint, OrderedDict()).values()
        answers = [answer for answer in every if now - answer.at < ANSWER_SECONDS]
        if not answers:
            return Verdict()
        reached = sum(answer.reached for answer in answers)
        missed = len(answers) - reached
        opened = reached > missed
        firm = max(reached, missed) >= AGREEING and reached != missed
        last = max(answer.at for answer in answers if answer.reached is opened)
        again = last + (FIRM_SECONDS if firm else WEAK_SECONDS)
        if opened:
            return Verdict("open", firm, f"{reached} of {len(answers)} peers asked reached {endpoint}", again)
        reasons = Counter(answer.why for answer in answers if not answer.reached)
        why = f"{missed} of {len(answers)} peers asked did not reach {endpoint}: {reasons.most_common(1)[0][0]}"
        return Verdict("closed", firm, why, again)


def best(verdicts: Iterable[Verdict]) -> Verdict:
    """Of several endpoints: one that is open will do."""
    order = {"open": 0, "unknown": 1, "closed": 2}
    return min(verdicts, key=lambda verdict: (order[verdict.state], not verdict.firm), default=Verdict())


# --- the ladder --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Step:
    """One rung of the ladder: what was tried, what came of it (*detail*), how long that took.

    *seconds* from its beginning to its outcome, or until now; *since* when it came to its state, in Unix seconds.
    """

    name: StepName
    state: StepState
    detail: str
    seconds: float
    since: float


@dataclass(slots=True)
class _Rung:
    state: StepState
    detail: str
    began: float
    ended: float | None
    since: float


@dataclass(slots=True)
class Ladder:
    """The steps, in their order from the top, as far as they were taken."""

    _rungs: dict[StepName, _Rung] = field(default_factory=dict)

    def note(self, name: StepName, state: StepState, detail: str, now: float, wall: float) -> bool:
        """*name* stands like this at *now*, which is *wall* in Unix seconds; whether that is news."""
        rung = self._rungs.get(name)
        if rung is not None and (rung.state, rung.detail) == (state, detail):
            return False
        over = None if state == "trying" else now
        if rung is None:
            self._rungs[name] = _Rung(state, detail, now, over, wall)
            return True
        if rung.state != state:
            rung.since = wall
            if state == "trying":
                rung.began, rung.ended = now, None
            elif rung.ended is None:
                rung.ended = now
        rung.state, rung.detail = state, detail
        return True

    def steps(self, now: float) -> tuple[Step, ...]:
        order: tuple[StepName, ...] = ("public", "mapped", "punch", "relayed")
        found = []
        for name in order:
            rung = self._rungs.get(name)
            if rung is not None:
                seconds = (now if rung.ended is None else rung.ended) - rung.began
                found.append(Step(name, rung.state, rung.detail, round(seconds, 3), round(rung.since, 3)))
        return tuple(found)
