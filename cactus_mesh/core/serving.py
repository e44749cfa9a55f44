"""An orchestrator's own decisions: which orders it takes, how many at once, and when it hands one on.

Refuses to know how the work is done or how orders arrive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from cactus_mesh.core.memory import Seen
from cactus_mesh.core.pricing import BPS, asked_price
from cactus_mesh.core.verification import most_prompt_tokens
from cactus_mesh.errors import (
    Busy,
    DeadlinePassed,
    DelegationRejected,
    Draining,
    DuplicateTask,
    PriceTooLow,
    RouterNotAuthorised,
    UnknownModel,
    UsageError,
)
from cactus_mesh.identity import peer_id
from cactus_mesh.messages import MAX_CHAIN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cactus_mesh.core.delegation import Chain
    from cactus_mesh.identity import PublicKey
    from cactus_mesh.messages import ModelOffer
    from cactus_mesh.ports import ServerView

MAX_REMEMBERED_TASKS: Final = 100_000
"""Kept until their deadline, against being made to do one task twice by one router."""
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
    """What an operator chooses.  *delegated_slots* 0 means never to delegate; shares are of the payout, in 1/10000.

    Another's order is taken when its share of the payout comes to at least *least_share_bps* of one's own price.
    """

    delegated_slots: int = 0
    delegate_share_bps: int = 8_000
    least_share_bps: int = 5_000
    deepest_chain: int = 1

    def __post_init__(self) -> None:
        if self.delegated_slots < 0 or not 0 <= self.deepest_chain <= MAX_CHAIN:
            raise UsageError(f"delegated_slots must be 0 or more, deepest_chain 0 to {MAX_CHAIN}")
        if not (0 <= self.delegate_share_bps <= BPS and 0 <= self.least_share_bps <= BPS):
            raise UsageError(f"shares must be 0 to {BPS}, in ten-thousandths of the payout")


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
    mine = _offer_for(chain, offers)
    if chain.delegations:
        _refuse_low_share(chain, mine, policy)
    work = chain.request.sealed.body
    least = asked_price(chain.assignment.body.offer.price, 1, work.sampling.max_tokens)
    if least > chain.max_price:
        raise PriceTooLow(f"this task may cost {least} octas and its maximum price is {chain.max_price}")
    if chain.done_by_ms <= now_ms:
        raise DeadlinePassed("this order's deadline has passed")


def _standing(router: ServerView, now_ms: int) -> str:
    return "expired" if router.status == "authorised" and router.expires_at <= now_ms / 1000 else router.status


def _offer_for(chain: Chain, offers: Sequence[ModelOffer]) -> ModelOffer:
    """Which offer of one's own an order is on.

    A router's order must be on the offer as advertised.  A delegated one is on the liable orchestrator's offer, which
    may differ from one's own in name and price, but not in what the receipt is computed and checked with.
    """
    asked = chain.assignment.body.offer
    mine = [offer for offer in offers if offer.digest == asked.digest]
    if not mine:
        served = ", ".join(offer.name for offer in offers) or "none"
        raise UnknownModel(f"this orchestrator does not serve {asked.name!r} with that digest; it serves: {served}")
    if not chain.delegations and asked not in mine:
        raise PriceTooLow(f"the terms for {asked.name!r} have changed since that advert; fetch the new one")
    for offer in mine:
        if asked == offer or (chain.delegations and _same_model(asked, offer)):
            return offer
    raise DelegationRejected(f"the offer of {asked.name!r} describes that model in another way than this orchestrator")


def _same_model(asked: ModelOffer, mine: ModelOffer) -> bool:
    same = asked.shape == mine.shape and asked.dtype == mine.dtype
    return same and asked.context_tokens >= mine.context_tokens


def _refuse_low_share(chain: Chain, mine: ModelOffer, policy: ServingPolicy) -> None:
    """Compare at the fewest and the most tokens that the task may have: both prices are linear in between."""
    request = chain.request.sealed.body
    theirs = chain.assignment.body.offer.price
    for prompt_tokens in (1, most_prompt_tokens(request.work)):
        for output_tokens in (1, request.sampling.max_tokens):
            payout = asked_price(theirs, prompt_tokens, output_tokens) * chain.share_bps
            least = asked_price(mine.price, prompt_tokens, output_tokens) * policy.least_share_bps
            if payout < least:
                raise DelegationRejected(
                    f"{chain.share_bps / 100:g} % of the liable orchestrator's price is less than this orchestrator's "
                    f"least, {policy.least_share_bps / 100:g} % of its own price"
                )


_TaskKey = tuple["PublicKey", bytes]
"""Task ids are their client's own: nobody can use up another's."""


def _key(chain: Chain) -> _TaskKey:
    return chain.request.client, chain.request.consent.task_id


class Slots:
    """Which tasks are under way, in the engine and at delegates, and which have been here before.

    Two different results signed for one task are proof of fraud on the ledger, so a task that may have been done here
    already is not done again: not one of before *since_ms*, when this memory began, and none while it is full.
    """

    def __init__(self, engine_slots: int, policy: ServingPolicy, since_ms: int = 0) -> None:
        self._since_ms = since_ms
        self._limit: dict[Place, int] = {"engine": engine_slots, "delegate": policy.delegated_slots}
        self._deepest = min(policy.deepest_chain, MAX_CHAIN)
        self._running: dict[_TaskKey, Place] = {}
        self._given: Seen[tuple[_TaskKey, PublicKey]] = Seen(MAX_REMEMBERED_TASKS)
        self._draining = False

    @property
    def load(self) -> Load:
        return Load(sum(self._limit.values()), len(self._running))

    def drain(self) -> None:
        """Take no new task from now on."""
        self._draining = True

    def take(self, chain: Chain, *, now_ms: int) -> Place:
        """Enter the task of *chain* and say where it is to be done.  `release` it at its end, whatever the end."""
        task = _key(chain)
        if self._draining:
            raise Draining("this orchestrator is shutting down; ask another one")
        # a client whose router died asks another one, which may well choose this orchestrator again
        if self._given.has((task, chain.router), now_ms):
            raise DuplicateTask("this orchestrator has been given this task before")
        if task in self._running:
            raise Busy("this orchestrator is still at work on this task for another router; ask another one")
        if chain.request.sealed.issued_at_ms < self._since_ms:
            raise Busy("this orchestrator has only just started and takes requests that were signed since; try again")
        if self._given.full(now_ms):
            raise Busy("this orchestrator has been given too many tasks lately; ask another one")
        place = self._free_place(chain)
        if place is None:
            raise Busy(f"all {self.load.slots} slots of this orchestrator are taken; ask another one")
        self._running[task] = place
        self._given.add((task, chain.router), chain.done_by_ms, now_ms)
        return place

    def _free_place(self, chain: Chain) -> Place | None:
        in_use = list(self._running.values())
        if in_use.count("engine") < self._limit["engine"]:
            return "engine"
        if len(chain.delegations) < self._deepest and in_use.count("delegate") < self._limit["delegate"]:
            return "delegate"
        return None

    def release(self, chain: Chain) -> None:
        self._running.pop(_key(chain), None)
