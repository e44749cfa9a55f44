"""The client role: finds an authorised router, signs what it asks for and consents to, and checks what comes back.

A task keeps its id when it goes to a second router, so it can be done twice but never paid twice.
"""

from __future__ import annotations

import contextlib
import secrets
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final, Literal

import trio

from cactus_mesh.answer import Answer, Ask, Job, Result, Stream
from cactus_mesh.asking import ask_of, pieces_for
from cactus_mesh.clock import wall_clock
from cactus_mesh.concurrency import beside, open_service_nursery
from cactus_mesh.core.delegation import continue_chain
from cactus_mesh.core.draws import is_drawn, is_fair
from cactus_mesh.core.likelihoods import chosen_of
from cactus_mesh.core.prompts import conversation, several, short_enough
from cactus_mesh.core.requests import SETTLE_MARGIN_SECONDS, Contract, OpenRequest
from cactus_mesh.core.routing import STOP_MS
from cactus_mesh.core.settlement import SettlementClaim, TaskConsent
from cactus_mesh.core.verification import Witnessed, failed_checks
from cactus_mesh.errors import (
    Busy,
    CallTimeout,
    Cancelled,
    DeadlinePassed,
    Draining,
    LedgerDown,
    LedgerError,
    MeshError,
    PeerError,
    ProtocolViolation,
    ReceiptRejected,
    UnreachableError,
)
from cactus_mesh.events import Broadcast, TaskDone, TaskFailed, TaskSent
from cactus_mesh.identity import address, peer_id
from cactus_mesh.messages import (
    MAX_VALIDITY_MS,
    Assignment,
    Cancel,
    Classify,
    Done,
    Embed,
    Generate,
    Receipt,
    Rerank,
    TaskRequest,
    Verdict,
    decode_catalogue,
    decode_item,
    seal,
    unseal,
)
from cactus_mesh.purse import open_purse
from cactus_mesh.router import CANCEL_METHOD, MODELS_METHOD, SUBMIT_METHOD
from cactus_mesh.routers import ROUTERS_TRIED, Routers
from cactus_mesh.spans import client_part, working_on

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path
    from typing import Unpack

    from cactus_mesh.asking import Options
    from cactus_mesh.clock import Clock
    from cactus_mesh.config import ClientConfig
    from cactus_mesh.core.pricing import Split
    from cactus_mesh.events import Event
    from cactus_mesh.identity import Identity, PublicKey
    from cactus_mesh.messages import Listed, Sealed, Work
    from cactus_mesh.ports import Ledger, Network
    from cactus_mesh.purse import Purse

TASKS_AT_ONCE: Final = 256
"""Of one client; more wait their turn."""
DEADLINE_GRACE_SECONDS: Final = 5.0
"""Beyond the deadline, for the router's own word on it to arrive."""
STOP_SECONDS: Final = STOP_MS / 1_000 + 2.0
"""For the receipt of a cancelled task: what its router waits for its orchestrator, and the way there and back."""
CANCEL_VALID_MS: Final = 60_000
PAID_POLL_SECONDS: Final = 0.25
MODELS_SECONDS: Final = 5.0
LOOK_UP_SECONDS: Final = 60.0
"""Between questions to the ledger about tasks that failed; there are few, and none is urgent."""


@asynccontextmanager
async def open_client_role(
    identity: Identity,
    network: Network,
    ledger: Ledger,
    config: ClientConfig,
    clock: Clock = wall_clock,
    *,
    consented: Callable[[TaskConsent], None] = lambda _: None,
    ended: Callable[[Job], None] = lambda _: None,
    purse_file: Path | None = None,
    own_router: bool = False,
) -> AsyncIterator[Client]:
    """A client on an open network and ledger.  Leaving the block cancels its tasks.

    What it has spent is kept in *purse_file*, or in memory.  *consented* hears of each consent before it leaves: from
    then on its task may be put into escrow.  *ended* hears of each task when it is over.
    *own_router*: *identity* is a router itself, which *network* lets it ask.
    """
    caps = {"per_task": config.cap_per_task, "per_day": config.cap_per_day}
    with open_purse(purse_file, identity.address, **caps) as purse:
        async with open_service_nursery() as nursery:
            routers = Routers(network, ledger, clock, identity.public_key if own_router else None)
            client = Client(identity, network, ledger, config, nursery, clock, consented, ended, purse, routers)
            nursery.start_soon(client.look_up_prices)
            yield client


def _consent_ends(ask: Ask) -> int:
    """In Unix seconds: until then the ledger settles the task."""
    return ask.deadline_ms // 1_000 + 2 * SETTLE_MARGIN_SECONDS


def _without_receipt(job: Job) -> Cancelled:
    if job.orchestrator is None:
        return Cancelled("this task was cancelled before anybody had taken it; nothing is paid")
    return Cancelled("this task was cancelled and no receipt has come; what is paid for it the ledger tells later")


class Client:
    """Asks the mesh.  Every task is checked when it ends; a receipt that does not hold is a `ReceiptRejected`."""

    def __init__(
        self,
        identity: Identity,
        network: Network,
        ledger: Ledger,
        config: ClientConfig,
        nursery: trio.Nursery,
        clock: Clock,
        consented: Callable[[TaskConsent], None],
        ended: Callable[[Job], None],
        purse: Purse,
        routers: Routers,
    ) -> None:
        self.identity = identity
        self.network = network
        self.ledger = ledger
        self._config = config
        self._nursery = nursery
        self._clock = clock
        self._consented = consented
        self._ended = ended
        self._purse = purse
        self._events = Broadcast()
        self._contract = Contract(ledger.chain.chain_id, ledger.chain.contract)
        self._turns = trio.Semaphore(TASKS_AT_ONCE)
        self._routers = routers

    def generate(self, prompt: str, *, model: str, **options: Unpack[Options]) -> Answer:
        """Continue *prompt*.  Raises `BadParameters` for what no router would take, `PriceOverBudget` for a cap."""
        return self._start(model, Generate(short_enough(prompt)), options)

    def chat(self, messages: Sequence[Mapping[str, str]], *, model: str, **options: Unpack[Options]) -> Answer:
        """Answer *messages* (``{"role": "user", "content": "…"}``) in the model's template.  Raises as `generate`."""
        return self._start(model, conversation(messages), options)

    def embed(
        self, texts: Sequence[str], *, model: str, pooling: Literal["cls", "mean"] = "mean", **options: Unpack[Options]
    ) -> Answer:
        """A vector of length 1 for each of *texts*: `Result.vectors`.  Raises as `generate`."""
        return self._start(model, Embed(several(texts), pooling), pieces_for(options, len(texts)))

    def classify(self, texts: Sequence[str], *, model: str, **options: Unpack[Options]) -> Answer:
        """The probability of each of the model's labels for each of *texts*: `Result.labels`.  Raises as `generate`."""
        return self._start(model, Classify(several(texts)), pieces_for(options, len(texts)))

    def rerank(self, query: str, documents: Sequence[str], *, model: str, **options: Unpack[Options]) -> Answer:
        """How well each of *documents* answers *query*: `Result.scores`.  Raises as `generate`."""
        work = Rerank(short_enough(query), several(documents))
        return self._start(model, work, pieces_for(options, len(documents)))

    async def models(self) -> list[Listed]:
        """What can be asked for now and what it costs, as the nearest router that answers has it; it may be wrong."""
        failed: MeshError | None = None
        for router in (await self._routers.nearest())[:ROUTERS_TRIED]:
            try:
                with trio.fail_after(MODELS_SECONDS):
                    return decode_catalogue(await self.network.ask(peer_id(router), MODELS_METHOD, b"")).models
            except trio.TooSlowError:
                failed = CallTimeout(f"router {peer_id(router)} did not say what it can place; try again")
            except MeshError as error:
                failed = error
        assert failed is not None, "there is at least one router"
        raise failed

    def watch(self) -> AbstractContextManager[trio.MemoryReceiveChannel[Event]]:
        """What this client does from now on.  A watcher that falls behind misses what is newest."""
        return self._events.watch()

    def spent_today(self) -> int:
        """In octas, since midnight UTC, by this home's account; running tasks count with their maximum price."""
        return self._purse.spent(self._clock() / 1_000)

    async def paid(self, result: Result) -> Split:
        """Wait until the ledger has settled *result*, and tell where the money went.  Deadlines are the caller's."""
        while True:
            task = await self.ledger.task(self.identity.address, result.task_id)
            if task is not None and task.split is not None:
                return task.split
            await trio.sleep(PAID_POLL_SECONDS)

    # --- one task ------------------------------------------------------------------------------------------------

    def _start(self, model: str, work: Work, options: Options) -> Answer:
        now_ms = self._clock()
        ask = ask_of(model, work, options, self._config, now_ms)
        self._purse.reserve(ask.task_id, ask.max_price, now=now_ms / 1_000, known_by=_consent_ends(ask) + 1)
        job = Job(ask)
        job.stop.then(partial(self._nursery.start_soon, self._cancel, job))
        self._nursery.start_soon(self._work, ask, job, (ask.deadline_ms - now_ms) / 1_000 + DEADLINE_GRACE_SECONDS)
        return Answer(job)

    async def _work(self, ask: Ask, job: Job, patience_seconds: float) -> None:
        with job.into, job.scope:
            try:
                with trio.fail_after(patience_seconds), working_on(client_part(ask.task_id, self.identity.public_key)):
                    async with self._turns:
                        job.result = await self._ask_routers(ask, job)
            except MeshError as error:
                job.error = error
            except trio.TooSlowError:
                job.error = DeadlinePassed("no answer came by the deadline; ask again with a later one")
            finally:
                if job.stop.asked and job.result is None and job.error is None:
                    job.error = _without_receipt(job)
                self._account(ask, job)
                job.accepted.set()
                job.over.set()

    def _account(self, ask: Ask, job: Job) -> None:
        """What a task that somebody worked on and that did not end well costs is for the ledger to say, later."""
        if job.error is not None:
            self._events.tell(TaskFailed(ask.task_id, job.error))
        elif job.result is not None:
            self._events.tell(TaskDone(ask.task_id, job.result))
        if job.result is not None:
            self._purse.known(ask.task_id, job.result.price)
        elif job.orchestrator is None:
            self._purse.known(ask.task_id, 0)
        self._ended(job)

    async def look_up_prices(self) -> None:
        """Find out, for ever, what the tasks have cost that did not end well."""
        while True:
            with contextlib.suppress(LedgerError):
                for task_id in self._purse.to_look_up(self._clock() / 1_000):
                    task = await self.ledger.task(self.identity.address, task_id)
                    paid = 0 if task is None or task.split is None else task.split.paid
                    self._purse.known(task_id, paid)
            await trio.sleep(LOOK_UP_SECONDS)

    async def _ask_routers(self, ask: Ask, job: Job) -> Result:
        """Ask the nearest routers and, when none of them can, others that the DHT names."""
        failed: MeshError | None = None
        tried: set[PublicKey] = set()
        for find in (self._routers.nearest, self._routers.others):
            for router in [router for router in await find() if router not in tried][:ROUTERS_TRIED]:
                tried.add(router)
                stream = Stream(ask, job)
                try:
                    job.router = router
                    return await self._ask_router(router, ask, stream)
                except (UnreachableError, Draining, Busy, LedgerDown, PeerError) as error:
                    self._routers.forget()
                    if stream.token_ids or job.stop.asked:
                        raise
                    failed = error
        assert failed is not None, "there is at least one router"
        raise failed

    async def _ask_router(self, router: PublicKey, ask: Ask, stream: Stream) -> Result:
        request = self._request(ask, router)
        stream.sent(request)
        self._events.tell(TaskSent(ask.task_id, ask.model, peer_id(router), ask.max_price))
        async with self.network.call(peer_id(router), SUBMIT_METHOD, request.raw) as reply:
            async for raw in reply:
                done = await stream.take(decode_item(raw))
                if done is not None:
                    return await beside(sum(map(len, stream.text)), partial(self._check, request, done, stream))
        raise ProtocolViolation(f"router {peer_id(router)} ended the task without a receipt; ask again")

    async def _cancel(self, job: Job) -> None:
        """Have the task's router end it; nobody is owed anything where nobody has taken it."""
        if job.router is None or job.orchestrator is None:
            job.scope.cancel()
            return
        job.scope.deadline = trio.current_time() + STOP_SECONDS
        wish, now_ms = Cancel(job.ask.task_id, ""), self._clock()
        sealed = seal(wish, self.identity, now_ms=now_ms, valid_ms=CANCEL_VALID_MS, recipient=job.router)
        with contextlib.suppress(MeshError), trio.move_on_after(STOP_SECONDS):
            await self.network.ask(peer_id(job.router), CANCEL_METHOD, sealed.raw)

    def _request(self, ask: Ask, router: PublicKey) -> Sealed[TaskRequest]:
        now_ms = self._clock()
        consent = TaskConsent(
            chain_id=self._contract.chain_id,
            contract=self._contract.address,
            client=self.identity.address,
            router=address(router),
            task_id=ask.task_id,
            nonce=secrets.randbits(63),
            max_price=ask.max_price,
            expires_at=_consent_ends(ask),
        )
        self._consented(consent)
        promise = consent.to_bcs()
        body = TaskRequest(
            task_id=ask.task_id,
            nonce=secrets.token_bytes(16),
            model=ask.model,
            model_digest=ask.model_digest,
            work=ask.work,
            sampling=ask.sampling,
            max_price=ask.max_price,
            deadline_ms=ask.deadline_ms,
            consent=promise,
            consent_signature=self.identity.sign(promise),
        )
        # a little longer than the deadline, so that a router that hears of it too late can say just that
        valid_ms = max(1, ask.deadline_ms - now_ms) + int(DEADLINE_GRACE_SECONDS * 1_000)
        return seal(body, self.identity, now_ms=now_ms, valid_ms=min(valid_ms, MAX_VALIDITY_MS), recipient=router)

    def _check(self, request: Sealed[TaskRequest], done: Done, stream: Stream) -> Result:
        """Trust nobody: the same checks as the router's, on what this client itself has seen."""
        router = request.recipient
        assert router is not None, "a request names its router"
        opened = OpenRequest(request, TaskConsent.from_bcs(request.body.consent))
        assignment = unseal(done.assignment, Assignment, now_ms=None, sender=router)
        chain = continue_chain(opened, assignment, done.delegations, now_ms=None)
        receipt = unseal(done.receipt, Receipt, now_ms=None)
        text = "".join(stream.text)
        streamed = chosen_of(stream.likelihoods)
        seen = Witnessed(stream.token_ids, text, None, stream.unwanted, streamed)
        failed = failed_checks(receipt, chain, self._contract, seen)
        if done.verdict is None:
            raise ReceiptRejected("the router sent no verdict on the receipt; ask another router")
        verdict = unseal(done.verdict, Verdict, now_ms=None, sender=router)
        if failed or verdict.body.result != "pass" or verdict.body.receipt_hash != receipt.digest:
            why = ", ".join(failed) or "the router's verdict"
            raise ReceiptRejected(f"the receipt for this answer does not hold ({why}); do not rely on its text")
        secret, rate_ppm = verdict.body.draw_secret, verdict.body.audit_ppm
        if not is_fair(secret, assignment.body.router_nonce, rate_ppm):
            raise ReceiptRejected("this router does not draw fairly which answers it audits; ask another router")
        return Result(
            task_id=request.body.task_id,
            text=text,
            token_ids=tuple(stream.token_ids),
            prompt_tokens=receipt.body.prompt_tokens,
            finish=receipt.body.finish,
            router=peer_id(router),
            orchestrator=peer_id(chain.liable),
            delegate=peer_id(chain.worker) if chain.delegations else None,
            continued_at=len(assignment.body.partial.token_ids) if assignment.body.partial else None,
            max_price=request.body.max_price,
            price=SettlementClaim.from_bcs(receipt.body.claim).price,
            audited=is_drawn(secret, receipt.digest, rate_ppm),
            receipt=receipt,
            verdict=verdict,
            logprobs=stream.logprobs(receipt.body),
        )
