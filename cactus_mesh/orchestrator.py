"""The orchestrator role: takes orders, runs them on its engine or delegates them, and signs for the result.

The I/O around `core.serving`, `core.delegation` and `core.receipts`.
"""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final

import trio

from cactus_mesh.clock import wall_clock
from cactus_mesh.concurrency import Stop, open_batches
from cactus_mesh.core.delegation import open_chain
from cactus_mesh.core.likelihoods import chunks_of
from cactus_mesh.core.matching import Need
from cactus_mesh.core.receipts import Work, pack_logprobs, receipt_for, receipt_over
from cactus_mesh.core.requests import Contract
from cactus_mesh.core.serving import Slots, refuse_unfit
from cactus_mesh.delegated import DelegatedTask
from cactus_mesh.dispatch import RUN_METHOD, STOP_METHOD
from cactus_mesh.errors import Busy, Cancelled, CannotContinue, DeadlinePassed, Draining, EngineFailed, MeshError
from cactus_mesh.identity import address
from cactus_mesh.messages import (
    MAX_VALIDITY_MS,
    Acceptance,
    Accepted,
    Done,
    ModelOffer,
    Order,
    Partial,
    PriceTerms,
    Receipt,
    decode_order,
    encode_unsigned,
    kind_of,
    seal,
    seed_of,
)
from cactus_mesh.ports import EngineFinish, EngineTokens
from cactus_mesh.spans import orchestrator_part, step, working_on
from cactus_mesh.verifying import serve_audits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from cactus_mesh.clock import Clock
    from cactus_mesh.config import PriceConfig
    from cactus_mesh.core.delegation import Chain
    from cactus_mesh.core.serving import Load, ServingPolicy
    from cactus_mesh.core.settlement import TaskConsent
    from cactus_mesh.dispatch import Dispatcher
    from cactus_mesh.identity import Identity, PublicKey
    from cactus_mesh.messages import B, Chunk, Sealed
    from cactus_mesh.ports import Call, Engine, EngineEvent, EngineMemory, EngineModel, Ledger, Network

COALESCE_SECONDS: Final = 0.025
"""Tokens of one task go out together at most this often: nobody reads faster, and each send costs two hops."""
DELEGATES: Final = 3
EVIDENCE_VALID_MS: Final = MAX_VALIDITY_MS
WAITING_CALLS: Final = 64
"""Calls beyond the slots that may be told "busy" at once."""
DRAIN_SECONDS: Final = 10.0

log = logging.getLogger(__name__)


def offers_of(engine: Engine, price: PriceConfig) -> list[ModelOffer]:
    """What an orchestrator with this engine and these prices advertises."""
    return [_offer(model, price) for model in engine.models]


def _offer(model: EngineModel, price: PriceConfig) -> ModelOffer:
    return ModelOffer(
        name=model.name,
        digest=model.digest,
        dtype=model.dtype,
        context_tokens=model.context_tokens,
        kinds=list(model.kinds),
        shape=model.shape,
        price=PriceTerms(price.base, price.input_per_1k, price.output_per_1k),
    )


@asynccontextmanager
async def open_orchestrator(
    identity: Identity,
    network: Network,
    ledger: Ledger,
    engine: Engine,
    dispatcher: Dispatcher,
    *,
    offers: Sequence[ModelOffer],
    policy: ServingPolicy,
    load_changed: Callable[[], None],
    clock: Clock = wall_clock,
    claimed: Callable[[TaskConsent], None] = lambda _: None,
    served: Callable[[Chain, Sealed[Receipt], list[bytes]], None] = lambda *_: None,
) -> AsyncIterator[Orchestrator]:
    """Serve routers.  Leaving the block refuses new orders and lets running ones end for a while.

    *load_changed* is called whenever a slot is taken or freed, *claimed* with the consent of each task before its
    receipt leaves: from then on this orchestrator answers for it.  *served* hears of each receipt that has left, with
    the delegations that lead to whoever did the work.
    """
    slots = Slots(engine.slots, policy, since_ms=clock())
    orchestrator = Orchestrator(
        identity, ledger, engine, dispatcher, offers, policy, slots, load_changed, clock, claimed, served
    )
    network.serve(RUN_METHOD, orchestrator._run, at_once=slots.load.slots + WAITING_CALLS)
    network.serve(STOP_METHOD, orchestrator._stop_order, at_once=slots.load.slots + WAITING_CALLS)
    serve_audits(network, identity, ledger, engine, clock)
    try:
        yield orchestrator
    finally:
        slots.drain()
        with trio.CancelScope(shield=True), trio.move_on_after(DRAIN_SECONDS):
            await orchestrator._until_idle()
        orchestrator._stop()
        with trio.CancelScope(shield=True), trio.move_on_after(1):
            await orchestrator._until_idle()


class Orchestrator:
    def __init__(
        self,
        identity: Identity,
        ledger: Ledger,
        engine: Engine,
        dispatcher: Dispatcher,
        offers: Sequence[ModelOffer],
        policy: ServingPolicy,
        slots: Slots,
        load_changed: Callable[[], None],
        clock: Clock,
        claimed: Callable[[TaskConsent], None],
        served: Callable[[Chain, Sealed[Receipt], list[bytes]], None],
    ) -> None:
        self.identity = identity
        self.contract = Contract(ledger.chain.chain_id, ledger.chain.contract)
        self.clock = clock
        self.policy = policy
        self._ledger = ledger
        self._engine = engine
        self._dispatcher = dispatcher
        self._offers = list(offers)
        self._slots = slots
        self._load_changed = load_changed
        self._claimed = claimed
        self._served = served
        self._scopes: set[trio.CancelScope] = set()
        self._orders: dict[tuple[PublicKey, bytes], Stop] = {}
        """What is under way, by who gave the order and the digest of its last link."""
        self._one_less = trio.Event()
        self._stopping = False
        self.served = 0
        """Tasks done since the start."""

    @property
    def load(self) -> Load:
        return self._slots.load

    @property
    def memory(self) -> EngineMemory | None:
        return self._engine.memory

    async def _run(self, call: Call) -> None:
        """``task.run``: an `Order` in; `Accepted`, `Chunk`s and one `Done` out."""
        now_ms = self.clock()
        order = decode_order(call.payload)
        chain = open_chain(order, self.contract, now_ms=now_ms, giver=call.public_key, worker=self.identity.public_key)
        givers = (chain.router, *(each.sender for each in chain.delegations))
        span = orchestrator_part(chain.request.consent.task_id, self.identity.public_key, givers, chain.request.client)
        with working_on(span, call.peer):
            await self._serve(call, order, chain)

    async def _serve(self, call: Call, order: Order, chain: Chain) -> None:
        router = await self._ledger.server(address(chain.router))
        refuse_unfit(chain, self._offers, router, self.policy, now_ms=self.clock())
        with self._in_slot(chain) as place, self._until_deadline(chain), self._stoppable(chain) as stop:
            acceptance = Acceptance(chain.request.consent.task_id, chain.order_hash)
            await call.send(encode_unsigned(Accepted(self.seal(acceptance, chain.giver).raw)))
            if place == "engine":
                await self._work(call, order, chain, stop)
            else:
                await self._delegate(call, order, chain, stop)
            self.served += 1

    @contextmanager
    def _in_slot(self, chain: Chain) -> Iterator[str]:
        place = self._slots.take(chain, now_ms=self.clock())
        self._load_changed()
        try:
            yield place
        finally:
            self._slots.release(chain)
            self._load_changed()

    @contextmanager
    def _until_deadline(self, chain: Chain) -> Iterator[None]:
        seconds = max(0.0, (chain.done_by_ms - self.clock()) / 1_000)
        with trio.move_on_after(seconds) as scope:
            self._scopes.add(scope)
            try:
                yield
            finally:
                self._scopes.discard(scope)
                self._one_less.set()
        if scope.cancelled_caught and self._stopping:
            raise Draining("this orchestrator shut down before the task was done; ask another one")
        if scope.cancelled_caught:
            raise DeadlinePassed("the work was not done by its deadline; ask again with a later one")

    @contextmanager
    def _stoppable(self, chain: Chain) -> Iterator[Stop]:
        name = chain.giver, chain.order_hash
        stop = self._orders[name] = Stop()
        try:
            yield stop
        finally:
            del self._orders[name]

    async def _stop_order(self, call: Call) -> None:
        """``task.stop``: the digest of an order's last link in, from who gave it; nothing out, also when it is over."""
        stop = self._orders.get((call.public_key, call.payload))
        if stop is not None:
            stop.ask()
        await call.send(b"")

    def seal(self, body: B, recipient: PublicKey) -> Sealed[B]:
        return seal(body, self.identity, now_ms=self.clock(), valid_ms=EVIDENCE_VALID_MS, recipient=recipient)

    # --- on the engine -----------------------------------------------------------------------------------------------

    async def _work(self, call: Call, order: Order, chain: Chain, stop: Stop) -> None:
        request, assignment = chain.request.sealed.body, chain.assignment.body
        seed = seed_of(request.nonce, assignment.router_nonce, request.task_id)
        offer = assignment.offer
        before = chain.partial.token_ids if chain.partial else ()
        with step("engine"):
            async with self._engine.generate(offer.digest, request.work, request.sampling, seed, before) as events:
                stop.then(events.stop)
                made, last = await self._stream(call, request.task_id, events, chain.partial)
        receipt = receipt_for(chain, self.contract, made, self.identity)
        await self._send_receipt(call, order, chain, receipt, last)

    async def _stream(
        self, call: Call, task_id: bytes, events: AsyncIterator[EngineEvent], partial: Partial | None
    ) -> tuple[Work, Sequence[Chunk]]:
        """Pass on tokens as they are made, coalesced in time.  What the receipt needs, and the last tokens, to
        leave with it.

        The engine begins with the tokens of *partial*, if any, which the client has; it must have their text as well.
        """
        token_ids: list[int] = []
        logprobs: list[float] = []
        text: list[str] = []
        finish: EngineFinish | None = None
        last: list[Chunk] = []
        async with open_batches(events, COALESCE_SECONDS) as batches:
            async for batch in batches:
                start, fresh = len(token_ids), list[EngineTokens]()
                for event in batch:
                    if isinstance(event, EngineTokens):
                        token_ids += event.token_ids
                        logprobs += event.logprobs
                        text.append(event.text)
                        fresh.append(event)
                    else:
                        finish = event
                    if partial is not None and (len(token_ids) >= len(partial.token_ids) or finish is not None):
                        _refuse_other(partial, token_ids, text)
                        start, fresh, partial = len(token_ids), [], None
                if partial is not None:
                    continue
                last = list(chunks_of(task_id, start, fresh))
                while last and finish is None:
                    await call.send(encode_unsigned(last.pop(0)))
        if finish is None:
            raise EngineFailed("the engine ended without saying how; the orchestrator's log has more")
        if not token_ids:
            raise Cancelled("this task was stopped before its first token")
        work = Work(
            token_ids=token_ids,
            logprobs=pack_logprobs(logprobs),
            text="".join(text),
            finish=finish.finish,
            prompt_tokens=finish.prompt_tokens,
            compute_ms=finish.compute_ms,
            engine=self._engine.name,
        )
        return work, last

    async def _send_receipt(
        self, call: Call, order: Order, chain: Chain, receipt: Receipt, last: Sequence[Chunk] = ()
    ) -> None:
        sealed = self.seal(receipt, chain.giver)
        self._claimed(chain.request.consent)
        for chunk in last:
            await call.send(encode_unsigned(chunk))
        await call.send(encode_unsigned(Done(order.assignment, order.delegations, sealed.raw, None)))
        self._served(chain, sealed, list(order.delegations))

    # --- at a delegate -----------------------------------------------------------------------------------------------

    async def _delegate(self, call: Call, order: Order, chain: Chain, stop: Stop) -> None:
        request = chain.request.sealed.body
        need = Need(
            model=request.model,
            model_digest=chain.assignment.body.offer.digest,
            kind=kind_of(request.work),
            prompt_tokens=1,
            max_tokens=request.sampling.max_tokens,
            max_price=chain.max_price,
            without=frozenset({self.identity.public_key, chain.giver, chain.liable, chain.request.client}),
        )
        try:
            candidates = self._dispatcher.directory.rank(need, limit=DELEGATES)
        except MeshError as error:
            raise Busy(f"this orchestrator is full and nobody can take the task for it ({error.code})") from None
        evidence = await self._dispatcher.dispatch(DelegatedTask(self, call, order, chain, stop), candidates)
        receipt = receipt_over(evidence.receipt, chain.order_hash, self.identity)
        await self._send_receipt(
            call, Order(order.request, order.assignment, evidence.done.delegations), chain, receipt
        )

    # --- shutting down -----------------------------------------------------------------------------------------------

    async def _until_idle(self) -> None:
        while self._scopes:
            self._one_less = trio.Event()
            await self._one_less.wait()

    def _stop(self) -> None:
        self._stopping = True
        for scope in self._scopes:
            scope.cancel()


def _refuse_other(partial: Partial, token_ids: Sequence[int], text: Sequence[str]) -> None:
    """Go on only from what this engine would have made itself: whoever signs the receipt answers for all of it."""
    if list(token_ids) != partial.token_ids or "".join(text) != partial.text:
        raise CannotContinue(
            "the text so far is not what this model makes of these tokens, so it is not continued here"
        )
