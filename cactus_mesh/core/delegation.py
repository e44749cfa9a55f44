"""The chain of responsibility: request → assignment → delegations, each signed and naming the one before by hash.

Down the chain depth grows and deadline, price and share only shrink; nobody appears twice.  The orchestrator that the
router assigned stays liable, whoever works.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cactus_mesh.core.pricing import BPS
from cactus_mesh.core.requests import open_request
from cactus_mesh.errors import DeadlinePassed, DelegationRejected
from cactus_mesh.messages import Assignment, Delegation, unseal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cactus_mesh.core.requests import Contract, OpenRequest
    from cactus_mesh.identity import PublicKey
    from cactus_mesh.messages import Order, Partial, Sealed


@dataclass(frozen=True, slots=True)
class Chain:
    """A checked order."""

    request: OpenRequest
    assignment: Sealed[Assignment]
    delegations: tuple[Sealed[Delegation], ...]

    @property
    def last(self) -> Sealed[Assignment] | Sealed[Delegation]:
        return self.delegations[-1] if self.delegations else self.assignment

    @property
    def order_hash(self) -> bytes:
        return self.last.digest

    @property
    def giver(self) -> PublicKey:
        """Who gave the last order: the router, or the orchestrator that delegates."""
        return self.last.sender

    @property
    def worker(self) -> PublicKey:
        return _recipient(self.last)

    @property
    def liable(self) -> PublicKey:
        """The orchestrator that the router assigned."""
        return _recipient(self.assignment)

    @property
    def router(self) -> PublicKey:
        return self.assignment.sender

    @property
    def max_price(self) -> int:
        return self.delegations[-1].body.max_price if self.delegations else self.request.sealed.body.max_price

    @property
    def share_bps(self) -> int:
        """The delegate's share of the payout; all of it where there is no delegate."""
        return self.delegations[-1].body.share_bps if self.delegations else BPS

    @property
    def partial(self) -> Partial | None:
        """What the worker goes on from."""
        return self.last.body.partial

    @property
    def done_by_ms(self) -> int:
        return self.last.body.done_by_ms


def _recipient(link: Sealed[Assignment] | Sealed[Delegation]) -> PublicKey:
    if link.recipient is None:
        raise DelegationRejected("an order must name who is to carry it out")
    return link.recipient


def open_chain(
    order: Order,
    contract: Contract,
    *,
    now_ms: int | None,
    giver: PublicKey | None = None,
    worker: PublicKey | None = None,
) -> Chain:
    """Check a whole order, that *giver* hands to *worker* where these are given.

    *now_ms* None reads a finished task's evidence, whose deadlines have passed.  Raises a `MessageError`,
    `ConsentRejected`, `DeadlinePassed`, or `DelegationRejected` with the rule that is broken.
    """
    assignment = unseal(order.assignment, Assignment, now_ms=now_ms)
    request = open_request(
        order.request, contract, router=assignment.sender, now_ms=assignment.issued_at_ms if now_ms is None else now_ms
    )
    chain = continue_chain(request, assignment, order.delegations, now_ms=now_ms)
    if worker is not None and chain.worker != worker:
        raise DelegationRejected("this order is for another orchestrator")
    if giver is not None and chain.giver != giver:
        raise DelegationRejected("this order is signed by another peer than the one that hands it over")
    if now_ms is not None and chain.done_by_ms <= now_ms:
        raise DeadlinePassed("this order's deadline has passed")
    return chain


def continue_chain(
    request: OpenRequest, assignment: Sealed[Assignment], delegations: Sequence[bytes], *, now_ms: int | None
) -> Chain:
    """The chain from a request and an assignment that are known to be genuine, through *delegations* that are not yet.

    Raises as `open_chain`.
    """
    if assignment.body.request_hash != request.sealed.digest or assignment.body.task_id != request.consent.task_id:
        raise DelegationRejected("the assignment is for another request")
    if assignment.sender != request.router:
        raise DelegationRejected("the assignment is by another router than the one that was asked")
    if assignment.body.done_by_ms > request.sealed.body.deadline_ms:
        raise DelegationRejected("the assignment ends after the client's deadline")
    chain = Chain(request, assignment, tuple(unseal(raw, Delegation, now_ms=now_ms) for raw in delegations))
    _check_links(chain)
    return chain


def _check_links(chain: Chain) -> None:
    parent: Sealed[Assignment] | Sealed[Delegation] = chain.assignment
    price, share = chain.request.sealed.body.max_price, BPS
    taken = {chain.liable}
    for depth, link in enumerate(chain.delegations, start=1):
        body = link.body
        broken = (
            (link.sender != _recipient(parent), "is not signed by the orchestrator before it"),
            (body.parent_hash != parent.digest, "follows another order"),
            (body.task_id != chain.assignment.body.task_id, "is for another task"),
            (body.depth != depth, f"has depth {body.depth} in place {depth}"),
            (body.max_price > price, "raises the price"),
            (body.share_bps > share, "raises the share"),
            (body.done_by_ms > parent.body.done_by_ms, "moves the deadline out"),
            (_recipient(link) in taken, "goes round in a loop"),
            (not goes_on_from(parent.body.partial, body.partial), "forgets tokens of the order above"),
        )
        for is_broken, how in broken:
            if is_broken:
                raise DelegationRejected(f"delegation {depth} {how}")
        taken.add(_recipient(link))
        parent, price, share = link, body.max_price, body.share_bps


def goes_on_from(earlier: Partial | None, later: Partial | None) -> bool:
    """Whether *later* begins with all of *earlier*."""
    if earlier is None:
        return True
    return (
        later is not None
        and later.token_ids[: len(earlier.token_ids)] == earlier.token_ids
        and later.text.startswith(earlier.text)
    )
