"""The router role: takes clients' tasks, has the best orchestrator do them, verifies, settles and tells the others.

The I/O around `core.requests`, `core.matching`, `core.routing` and `core.verification`.
"""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from cactus_mesh.auditing import open_auditor
from cactus_mesh.clock import wall_clock
from cactus_mesh.concurrency import open_service_nursery
from cactus_mesh.core.budgets import Promised
from cactus_mesh.core.catalogue import catalogue_of
from cactus_mesh.core.draws import is_drawn
from cactus_mesh.core.memory import Seen
from cactus_mesh.core.pricing import PPM
from cactus_mesh.core.requests import Contract, open_request
from cactus_mesh.core.routing import MAX_ATTEMPTS
from cactus_mesh.core.settlement import Settlement, SettlementClaim
from cactus_mesh.core.verification import verdict_on
from cactus_mesh.dispatch import Dispatcher, Evidence
from cactus_mesh.disputing import Disputer
from cactus_mesh.errors import (
    Draining,
    DuplicateTask,
    MeshError,
    NoFunds,
    RouterNotAuthorised,
    to_wire,
)
from cactus_mesh.identity import address
from cactus_mesh.journal import MAX_REMEMBERED_TASKS
from cactus_mesh.messages import (
    MAX_VALIDITY_MS,
    Cancel,
    Done,
    ReplayCache,
    encode_unsigned,
    seal,
    unseal,
)
from cactus_mesh.outcomes import Outcomes
from cactus_mesh.routed import RoutedTask, Running, need_of
from cactus_mesh.settling import Failed, Finished, open_settler
from cactus_mesh.spans import router_part, working_on
from cactus_mesh.verifiers import Verifiers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator

    from cactus_mesh.auditing import AuditMeans, Auditor
    from cactus_mesh.clock import Clock
    from cactus_mesh.config import RouterConfig
    from cactus_mesh.core.matching import Candidate
    from cactus_mesh.core.pricing import Split
    from cactus_mesh.core.requests import OpenRequest
    from cactus_mesh.core.routing import Patience
    from cactus_mesh.core.settlement import TaskConsent
    from cactus_mesh.directory import Directory
    from cactus_mesh.identity import Address, Identity, PublicKey
    from cactus_mesh.journal import Journal, Used
    from cactus_mesh.messages import B, Sealed
    from cactus_mesh.ports import Call, Ledger, Network, Settled
    from cactus_mesh.settling import Settler

SUBMIT_METHOD: Final = "task.submit"
CANCEL_METHOD: Final = "task.cancel"
MODELS_METHOD: Final = "mesh.models"
MODELS_AT_ONCE: Final = 16
"""Questions for the list of models, which takes a millisecond or a few to make."""
EVIDENCE_VALID_MS: Final = MAX_VALIDITY_MS
DRAIN_SECONDS: Final = 10.0
"""How long running tasks may still take when the node shuts down."""

log = logging.getLogger(__name__)


@asynccontextmanager
async def open_router(
    identity: Identity,
    network: Network,
    ledger: Ledger,
    directory: Directory,
    *,
    name: str,
    config: RouterConfig,
    patience: Patience,
    stake_cover: float,
    journal: Journal,
    audits: AuditMeans,
    clock: Clock = wall_clock,
    routed: Callable[[Evidence], Callable[[Split | None], None]] = lambda _: lambda _: None,
) -> AsyncIterator[Router]:
    """Serve clients.  Leaving the block refuses new tasks, lets running ones end for a while, and settles.

    *routed* hears of each task that is to be settled, and what it returns of what the ledger paid, None if unknown.
    """
    async with AsyncExitStack() as stack:
        settler = await stack.enter_async_context(open_settler(identity, ledger, config, journal, clock))
        nursery = await stack.enter_async_context(open_service_nursery())
        dispatcher = Dispatcher(network, directory, clock, patience)
        outcomes = Outcomes(identity, network, directory, name, clock)
        router = Router(identity, ledger, settler, dispatcher, outcomes, config, stake_cover, nursery, routed)
        router._remember(journal.used())
        verifiers = Verifiers(identity, network, ledger, directory, router.contract, clock, audits.engine)
        router._auditor = await stack.enter_async_context(
            open_auditor(ledger, directory, verifiers, audits, failed=outcomes.convicted)
        )
        nursery.start_soon(Disputer(identity, ledger, audits.dossier, clock, audits.disputed).run)
        nursery.start_soon(outcomes.gossip)
        network.serve(SUBMIT_METHOD, router._submit, at_once=config.tasks_at_once)
        network.serve(CANCEL_METHOD, router._cancel, at_once=config.tasks_at_once)
        network.serve(MODELS_METHOD, router._models, at_once=MODELS_AT_ONCE)
        try:
            yield router
        finally:
            with trio.CancelScope(shield=True):
                await router._drain()


_Key = tuple["Address", bytes | int]


def _keys(spent: TaskConsent | Used) -> tuple[_Key, _Key]:
    """What the ledger spends once for each client: the task's id and the consent's nonce."""
    return (spent.client, spent.task_id), (spent.client, spent.nonce)


class Router:
    def __init__(
        self,
        identity: Identity,
        ledger: Ledger,
        settler: Settler,
        dispatcher: Dispatcher,
        outcomes: Outcomes,
        config: RouterConfig,
        stake_cover: float,
        nursery: trio.Nursery,
        routed: Callable[[Evidence], Callable[[Split | None], None]],
    ) -> None:
        self.identity = identity
        self.contract = Contract(ledger.chain.chain_id, ledger.chain.contract)
        self.clock = dispatcher.clock
        self.directory = dispatcher.directory
        self.ledger = ledger
        self._settler = settler
        self._dispatcher = dispatcher
        self.outcomes = outcomes
        self.escrow_above = config.escrow_above
        self._stake_cover = stake_cover
        self._routed = routed
        self._nursery = nursery
        """Where tasks are done: they end in order also when their client's call does not."""
        self._replays = ReplayCache()
        self._promised = Promised()
        self._auditor: Auditor | None = None
        self._running: dict[_Key, Running] = {}
        self._finished: Seen[_Key] = Seen(2 * MAX_REMEMBERED_TASKS)
        self._draining = False
        self._waited_for = 0
        """Calls that have not been told yet how their tasks ended."""
        self._one_less = trio.Event()

    @property
    def running(self) -> int:
        return len(self._running) // 2  # each has two keys

    @property
    def audits(self) -> dict[str, int]:
        """How audits have ended since the start, and how many are under way."""
        assert self._auditor is not None, "a router is obtained from open_router"
        results = self._auditor.results
        return {"auditing": self._auditor.waiting, **{f"audits_{name}": results[name] for name in sorted(results)}}

    @property
    def unsettled(self) -> int:
        return self._settler.waiting

    @property
    def settling(self) -> Settler:
        return self._settler

    # --- calls ---------------------------------------------------------------------------------------------------

    async def _submit(self, call: Call) -> None:
        """``task.submit``: a sealed `TaskRequest` in; `Progress`, `Chunk`s and one `Done` out."""
        now_ms = self.clock()
        opened = open_request(
            call.payload, self.contract, router=self.identity.public_key, now_ms=now_ms, sender=call.public_key
        )
        self._replays.admit(opened.sealed, now_ms)
        with working_on(router_part(opened.consent.task_id, self.identity.public_key, opened.client), call.peer):
            await self._route(call, opened)

    async def _route(self, call: Call, opened: OpenRequest) -> None:
        if self._draining:
            raise Draining("this router is shutting down; use another one")
        self._settler.refuse_when_full()
        await self._refuse_unauthorised()
        deposit = await self._deposit(opened)
        self._promised.check(opened.consent.client, opened.consent.max_price, deposit)
        candidates = self.directory.rank(need_of(opened, self._stake_cover), limit=MAX_ATTEMPTS)
        running = Running()
        self._nursery.start_soon(self._do, call, opened, deposit, candidates, running)
        self._waited_for += 1
        try:
            await running.over.wait()
            for item in running.held:
                await call.send(item)
        except trio.Cancelled:
            running.leave()
            raise
        finally:
            self._waited_for -= 1
            self._one_less.set()
        if running.error is not None:
            raise running.error

    async def _do(
        self, call: Call, opened: OpenRequest, deposit: int, candidates: list[Candidate], running: Running
    ) -> None:
        """The task, from its order to its receipt; what goes wrong is for its client's call to tell."""
        running.error = Draining("this router shut down before the task was done; ask again")
        try:
            with self._entered(opened, deposit, running), running.scope:
                await self._serve(call, opened, candidates, running)
            running.error = running.why_cancelled if running.scope.cancelled_caught else None
        except Exception as error:
            running.error = error
            if running.alone:
                about = {"task": opened.consent.task_id.hex(), "code": to_wire(error).code}
                log.info("a task without a client failed", extra=about, exc_info=not isinstance(error, MeshError))
        finally:
            running.over.set()

    async def _refuse_unauthorised(self) -> None:
        mine = await self.ledger.server(self.identity.address)
        if mine is None or not mine.authorised(self.clock() / 1_000):
            raise RouterNotAuthorised(
                f"router {self.identity.peer_id} is not authorised on the ledger, so nobody would take its orders; "
                "use another router, or have the contract's administrator authorise this one"
            )

    async def _deposit(self, opened: OpenRequest) -> int:
        account = await self.ledger.client(opened.consent.client)
        if account is None:
            raise NoFunds(
                f"account {opened.consent.client} has no deposit with the contract; "
                f"make one with: cactus-mesh deposit {opened.consent.max_price}"
            )
        return account.deposit

    @contextmanager
    def _entered(self, opened: OpenRequest, deposit: int, running: Running) -> Iterator[None]:
        """The task is under way.  What was promised for it is released at its end, unless it goes on to be settled."""
        keys = _keys(opened.consent)
        if any(key in self._running or self._finished.has(key, self.clock()) for key in keys):
            raise DuplicateTask("this router has had this task id or nonce before; make new ones for each task")
        self._promised.promise(opened.consent.client, opened.consent.max_price, deposit)
        self._running |= dict.fromkeys(keys, running)
        try:
            yield
        finally:
            for key in keys:
                del self._running[key]
            self._one_less.set()
            if running.escrowed and not running.handed_over:
                consent, told = opened.consent, partial(self._release, opened)
                self._settler.put(Failed(consent.client, consent.task_id, consent.expires_at, told))
            elif not running.handed_over:
                self._release(opened)

    def _release(self, opened: OpenRequest) -> None:
        self._promised.release(opened.consent.client, opened.consent.max_price)

    async def _serve(self, call: Call, opened: OpenRequest, candidates: list[Candidate], running: Running) -> None:
        async with open_service_nursery() as nursery:
            task = RoutedTask(self, call, opened, running, nursery)
            evidence = await self._dispatcher.dispatch(task, candidates)
            await task.in_escrow()
            rate_ppm = self._hand_over(opened, evidence, running, task.draw_secret)
        judged = verdict_on(evidence.receipt, evidence.failed_checks, task.draw_secret, rate_ppm)
        verdict, done = self.seal(judged, opened.client), evidence.done
        last = Done(done.assignment, done.delegations, done.receipt, verdict.raw)
        running.held.append(encode_unsigned(last))  # leaves with the end of its call

    def _hand_over(self, opened: OpenRequest, evidence: Evidence, running: Running, draw_secret: bytes) -> int:
        """Give a verified task to the settler, by way of the auditor when it is drawn; the rate it was drawn at."""
        receipt = evidence.receipt.body
        settlement = Settlement(
            consent=opened.consent,
            consent_signature=opened.sealed.body.consent_signature,
            claim=SettlementClaim.from_bcs(receipt.claim),
            claim_signature=receipt.claim_signature,
            quality_ppm=PPM,
        )
        finished = Finished(settlement, running.escrowed, partial(self._settled, opened, self._routed(evidence)))
        assert self._auditor is not None, "a router is obtained from open_router"
        rate_ppm = self._auditor.rate_ppm(evidence)
        if is_drawn(draw_secret, evidence.receipt.digest, rate_ppm):
            self._settler.hold(finished)
            self._auditor.take(evidence, draw_secret, partial(self._pay, finished))
        else:
            self._settler.put(finished)
        running.handed_over = True
        self._remember([opened.consent])
        return rate_ppm

    def _pay(self, finished: Finished, borne_out: bool) -> None:
        """Also what was not borne out is settled: only then does the ledger take a dispute about it."""
        quality_ppm = finished.settlement.quality_ppm if borne_out else 0
        settlement = replace(finished.settlement, quality_ppm=quality_ppm)
        self._settler.release(replace(finished, settlement=settlement))

    def _remember(self, spent: Iterable[TaskConsent | Used]) -> None:
        """A task is paid once, however often it is done: so it is done once."""
        for each in spent:
            for key in _keys(each):
                self._finished.add(key, each.expires_at * 1_000, self.clock())

    def _settled(self, opened: OpenRequest, noted: Callable[[Split | None], None], result: Settled | None) -> None:
        self._release(opened)
        split = result.split if result is not None else None
        noted(split)
        paid = split.paid if split is not None else 0
        log.info("settled", extra={"task": opened.consent.task_id.hex(), "paid_octas": paid})

    async def _cancel(self, call: Call) -> None:
        """``task.cancel``: a sealed `Cancel` from the task's own client in; nothing out."""
        now_ms = self.clock()
        message = unseal(
            call.payload, Cancel, now_ms=now_ms, sender=call.public_key, recipient=self.identity.public_key
        )
        self._replays.admit(message, now_ms)
        running = self._running.get((address(message.sender), message.body.task_id))
        if running is not None:
            running.stop.ask()
        await call.send(b"")

    async def _models(self, call: Call) -> None:
        """``mesh.models``: nothing in; a `Catalogue` out."""
        await call.send(encode_unsigned(catalogue_of(self.directory.index)))

    def seal(self, body: B, recipient: PublicKey) -> Sealed[B]:
        return seal(body, self.identity, now_ms=self.clock(), valid_ms=EVIDENCE_VALID_MS, recipient=recipient)

    # --- shutting down -----------------------------------------------------------------------------------------------

    async def _drain(self) -> None:
        """Take no new task; let the running ones end, and stop those that take too long."""
        self._draining = True
        with trio.move_on_after(DRAIN_SECONDS):
            await self._until_idle()
        for running in set(self._running.values()):
            running.cancel(Draining("this router shut down before the task was done; ask again"))
        with trio.move_on_after(1):
            await self._until_idle()

    async def _until_idle(self) -> None:
        while self._running or self._waited_for:
            self._one_less = trio.Event()
            await self._one_less.wait()
