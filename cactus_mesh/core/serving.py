"""An orchestrator's own decisions: which orders it takes, how many at once, and when it hands one on.

Refuses to know how the work is done or how orders arrive.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from cactus_mesh.core.pricing import asked_price
from cactus_mesh.errors import (
    Busy,
    DeadlinePassed,
    DelegationRejected,
    Draining,
    DuplicateTask,
    PriceTooLow,
    RouterNotAuthorised,
    UnknownModel,
)
from cactus_mesh.identity import peer_id
from cactus_mesh.messages import MAX_CHAIN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cactus_mesh.core.delegation import Chain
    from cactus_mesh.messages import ModelOffer
    from cactus_mesh.ports import ServerView

MAX_REMEMBERED_TASKS: Final = 100_000
"""Task ids kept until their deadline, against being made to do one task twice."""
DELEGATE_DEADLINE_MS: Final = 250
"""How much earlier a delegate must be done, so that its result still travels up the chain in time."""

Place = Literal["engine", "delegate"]


@dataclass(frozen=True, slots=True)
class Load:
    """How many tasks a peer can take, and how many it has."""

    slots: int
    busy: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingPolicy:
    """What an operator chooses.  *delegated_slots* 0 means never to delegate; shares are of the payout, in 1/10000."""

    delegated_slots: int = 0
    delegate_share_bps: int = 8_000
    least_share_bps: int = 5_000
    deepest_chain: int = 1


def refuse_unfit(
    chain: Chain, offers: Sequence[ModelOffer], router: ServerView | None, policy: ServingPolicy, *, now_ms: int
) -> None:
    """Raise the reason not to take the order of *chain*; return when it is fit to be taken."""
    if router is None or not router.authorised(now_ms / 1000):
        state = "is not registered" if router is None else f"is {_standing(router, now_ms)}"
        raise RouterNotAuthorised(
            f"router {peer_id(chain.router)} {state} on the ledger, so its orders are refused; "
            "use another router, or have the contract's administrator authorise this one"
        )
    _refuse_other_terms(chain, offers)
    if chain.delegations and chain.share_bps < policy.least_share_bps:
        raise DelegationRejected(
            f"a share of {chain.share_bps / 100:g} % is below this orchestrator's {policy.least_share_bps / 100:g} %"
        )
    work = chain.request.sealed.body
    least = asked_price(chain.assignment.body.offer.price, 1, work.sampling.max_tokens)
    if least > chain.max_price:
        raise PriceTooLow(f"this task may cost {least} octas and its maximum price is {chain.max_price}")
    if chain.done_by_ms <= now_ms:
        raise DeadlinePassed("this order's deadline has passed")


def _standing(router: ServerView, now_ms: int) -> str:
    return "expired" if router.status == "authorised" and router.expires_at <= now_ms / 1000 else router.status


def _refuse_other_terms(chain: Chain, offers: Sequence[ModelOffer]) -> None:
    """A router's order must be on the offer as advertised; a delegated one is on the liable orchestrator's offer."""
    asked = chain.assignment.body.offer
    mine = [offer for offer in offers if offer.digest == asked.digest]
    if not mine:
        served = ", ".join(offer.name for offer in offers) or "none"
        raise UnknownModel(f"this orchestrator does not serve {asked.name!r} with that digest; it serves: {served}")
    if not chain.delegations and asked not in mine:
        raise PriceTooLow(f"the terms for {asked.name!r} have changed since that advert; fetch the new one")


class Slots:
    """Which tasks are under way, in the engine and at delegates, and which ids have been here before."""

    def __init__(self, engine_slots: int, policy: ServingPolicy) -> None:
        self._limit: dict[Place, int] = {"engine": engine_slots, "delegate": policy.delegated_slots}
        self._deepest = min(policy.deepest_chain, MAX_CHAIN)
        self._running: dict[bytes, Place] = {}
        self._remembered: OrderedDict[bytes, int] = OrderedDict()
        self._draining = False

    @property
    def load(self) -> Load:
        return Load(sum(self._limit.values()), len(self._running))

    def drain(self) -> None:
        """Take no new task from now on."""
        self._draining = True

    def take(self, chain: Chain, *, now_ms: int) -> Place:
        """Enter the task of *chain* and say where it is to be done.  `release` it at its end, whatever the end."""
        task_id = chain.request.consent.task_id
        if self._draining:
            raise Draining("this orchestrator is shutting down; ask another one")
        self._forget_past(now_ms)
        if task_id in self._remembered:
            raise DuplicateTask("this orchestrator has been given this task before")
        place = self._free_place(chain)
        if place is None:
            raise Busy(f"all {self.load.slots} slots of this orchestrator are taken; ask another one")
        self._running[task_id] = place
        self._remembered[task_id] = chain.done_by_ms
        if len(self._remembered) > MAX_REMEMBERED_TASKS:
            self._remembered.popitem(last=False)
        return place

    def _free_place(self, chain: Chain) -> Place | None:
        in_use = list(self._running.values())
        if in_use.count("engine") < self._limit["engine"]:
            return "engine"
        if len(chain.delegations) < self._deepest and in_use.count("delegate") < self._limit["delegate"]:
            return "delegate"
        return None

    def release(self, chain: Chain) -> None:
        self._running.pop(chain.request.consent.task_id, None)

    def _forget_past(self, now_ms: int) -> None:
        while self._remembered:
            task_id, until = next(iter(self._remembered.items()))
            if until > now_ms or task_id in self._running:
                return
            del self._remembered[task_id]
