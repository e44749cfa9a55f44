"""The `Ledger` port over whatever carries calls and views to the contract: a node's REST API, or a fake in memory.

Decides how the contract's functions become the port's methods, and how old a view may be.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import trio

from cactus_mesh.errors import LedgerRejected, MeshError
from cactus_mesh.ledger import contract as abi
from cactus_mesh.ledger.rules.params import BOUNDS, params_of
from cactus_mesh.ledger.rules.tasks import MAX_BATCH
from cactus_mesh.ports import (
    Chain,
    ClientView,
    DisputeView,
    EscrowOrder,
    Governance,
    OrchestratorView,
    ServerView,
    Settled,
    TaskView,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

    from cactus_mesh.core.settlement import Settlement, SettlementClaim
    from cactus_mesh.identity import Address, Identity, PublicKey
    from cactus_mesh.ledger.values import Json, Value

VIEW_AGE_SECONDS: Final[dict[str, float]] = {"server": 10.0, "orchestrator": 10.0, "client": 2.0}
"""How old a view may be.  Registrations change rarely; a deposit is spent by each task.  Others are never cached."""
MAX_CACHED_VIEWS: Final = 4_096
"""Accounts that one router meets within ten seconds, with room to spare; about a kilobyte each."""


T = TypeVar("T")
V = TypeVar("V")


class Transport(Protocol):
    """Carries the contract's functions to a ledger and its answers back.  Raises `LedgerError`s only."""

    async def call(self, signer: Identity, entry: str, arguments: tuple[Value, ...]) -> list[abi.Event]:
        """Run *entry* as *signer*; returns its events once it is final."""
        ...

    async def view(self, function: str, arguments: tuple[Value, ...]) -> Json:
        """The one result of a view function; None for an empty Option."""
        ...

    async def balance(self, account: Address) -> int: ...


Observed = Callable[[str, float, str | None], None]
"""Hears of each call and view: its name, the seconds that it took, and the error's code, if it ended in one."""


class _Timed:
    """A transport that tells how long each answer took."""

    def __init__(self, transport: Transport, observed: Observed) -> None:
        self._transport = transport
        self._observed = observed

    async def call(self, signer: Identity, entry: str, arguments: tuple[Value, ...]) -> list[abi.Event]:
        with self._told(entry):
            return await self._transport.call(signer, entry, arguments)

    async def view(self, function: str, arguments: tuple[Value, ...]) -> Json:
        with self._told(function):
            return await self._transport.view(function, arguments)

    async def balance(self, account: Address) -> int:
        with self._told("balance"):
            return await self._transport.balance(account)

    @contextmanager
    def _told(self, operation: str) -> Iterator[None]:
        began = trio.current_time()
        try:
            yield
        except MeshError as error:
            self._observed(operation, trio.current_time() - began, error.code)
            raise
        self._observed(operation, trio.current_time() - began, None)


@dataclass(slots=True)
class _Cached:
    read_at: float
    result: Json


class ViewCache:
    """Remembers views for a short while and lets one reader ask for all who want the same."""

    def __init__(self, transport: Transport, age_seconds: Mapping[str, float]) -> None:
        self._transport = transport
        self._age_seconds = age_seconds
        self._known: OrderedDict[tuple[str, tuple[Value, ...]], _Cached] = OrderedDict()
        self._asking: dict[tuple[str, tuple[Value, ...]], trio.Lock] = {}
        self._changes = 0

    async def view(self, function: str, *arguments: Value) -> Json:
        age = self._age_seconds.get(function)
        if age is None:
            return await self._transport.view(function, arguments)
        key = (function, arguments)
        known = self._known.get(key)
        if known is not None and trio.current_time() - known.read_at < age:
            await trio.lowlevel.checkpoint_if_cancelled()
            return known.result
        lock = self._asking.setdefault(key, trio.Lock())
        try:
            async with lock:
                return await self._fresh(key, age)
        finally:
            if not lock.statistics().tasks_waiting and not lock.locked():
                self._asking.pop(key, None)

    async def _fresh(self, key: tuple[str, tuple[Value, ...]], age: float) -> Json:
        known = self._known.get(key)
        if known is None or trio.current_time() - known.read_at >= age:
            asked_at, changes = trio.current_time(), self._changes
            known = _Cached(asked_at, await self._transport.view(*key))
            if changes == self._changes:  # else the answer may be older than our own change
                self._remember(key, known)
        return known.result

    def _remember(self, key: tuple[str, tuple[Value, ...]], known: _Cached) -> None:
        self._known[key] = known
        self._known.move_to_end(key)
        while len(self._known) > MAX_CACHED_VIEWS:
            self._known.popitem(last=False)

    def forget(self) -> None:
        """After a change of our own: what we know may be older than it."""
        self._known.clear()
        self._changes += 1


class ContractLedger:
    """`cactus_mesh.ports.Ledger` over a `Transport`."""

    def __init__(
        self, transport: Transport, chain: Chain, *, view_age_seconds: Mapping[str, float] = VIEW_AGE_SECONDS
    ) -> None:
        self._transport = transport
        self._views = ViewCache(transport, view_age_seconds)
        self._chain = chain

    @property
    def chain(self) -> Chain:
        return self._chain

    # reading

    async def balance(self, account: Address) -> int:
        return await self._transport.balance(account)

    async def server(self, account: Address) -> ServerView | None:
        return await self._read(abi.server_view, "server", account)

    async def orchestrator(self, operator: Address) -> OrchestratorView | None:
        return await self._read(abi.orchestrator_view, "orchestrator", operator)

    async def client(self, account: Address) -> ClientView | None:
        return await self._read(abi.client_view, "client", account)

    async def task(self, client: Address, task_id: bytes) -> TaskView | None:
        return await self._read(partial(abi.task_view, client), "task", client, task_id)

    async def dispute(self, client: Address, task_id: bytes) -> DisputeView | None:
        return await self._read(abi.dispute_view, "dispute", client, task_id)

    async def governance(self) -> Governance:
        config, values = await self._views.view("config"), await self._views.view("params")
        return _parsed(lambda found: abi.governance(*found), (config, values), "config")

    async def _read(self, understand: Callable[[Json], V], function: str, *arguments: Value) -> V | None:
        record = await self._views.view(function, *arguments)
        return None if record is None else _parsed(understand, record, function)

    # registrations and deposits: rare, and whoever makes one looks at once

    async def _change(self, signer: Identity, entry: str, *arguments: Value) -> None:
        try:
            await self._transport.call(signer, entry, arguments)
        finally:
            self._views.forget()

    async def deposit(self, signer: Identity, amount: int) -> None:
        await self._change(signer, "deposit", signer.public_key, amount)

    async def request_withdrawal(self, signer: Identity, amount: int) -> None:
        await self._change(signer, "request_withdrawal", amount)

    async def withdraw(self, signer: Identity) -> None:
        await self._change(signer, "withdraw")

    async def register_orchestrator(
        self, owner: Identity, operator: PublicKey, stake: int, operator_signature: bytes = b""
    ) -> None:
        await self._change(owner, "register_orchestrator", operator, operator_signature, stake)

    async def add_stake(self, owner: Identity, operator: Address, amount: int) -> None:
        await self._change(owner, "add_stake", operator, amount)

    async def request_unstake(self, owner: Identity, operator: Address, amount: int) -> None:
        await self._change(owner, "request_unstake", operator, amount)

    async def cancel_unstake(self, owner: Identity, operator: Address) -> None:
        await self._change(owner, "cancel_unstake", operator)

    async def withdraw_stake(self, owner: Identity, operator: Address) -> None:
        await self._change(owner, "withdraw_stake", operator)

    async def set_operator(
        self, owner: Identity, operator: Address, successor: PublicKey, operator_signature: bytes = b""
    ) -> None:
        await self._change(owner, "set_operator", operator, successor, operator_signature)

    async def register_server(self, signer: Identity) -> None:
        await self._change(signer, "register_server")

    async def authorise_server(self, admin: Identity, server: Address, expires_at: int, max_budget: int) -> None:
        await self._change(admin, "authorize_server", server, expires_at, max_budget)

    async def revoke_server(self, admin: Identity, server: Address) -> None:
        await self._change(admin, "revoke_server", server)

    async def propose_admin(self, admin: Identity, proposed: Address) -> None:
        await self._change(admin, "propose_admin", proposed)

    async def accept_admin(self, proposed: Identity) -> None:
        await self._change(proposed, "accept_admin")

    async def set_treasury(self, admin: Identity, treasury: Address) -> None:
        await self._change(admin, "set_treasury", treasury)

    async def set_arbiter(self, admin: Identity, arbiter: Address) -> None:
        await self._change(admin, "set_arbiter", arbiter)

    async def set_params(self, admin: Identity, params: Mapping[str, int]) -> None:
        await self._change(admin, "set_params", *(params[name] for name in BOUNDS))

    async def set_paused(self, admin: Identity, *, paused: bool) -> None:
        await self._change(admin, "set_paused", paused)

    # tasks

    async def create_task(self, signer: Identity, order: EscrowOrder) -> None:
        consent = order.consent
        await self._transport.call(
            signer,
            "create_task",
            (
                consent.client, consent.task_id, consent.nonce, consent.max_price, consent.expires_at,
                order.consent_signature, order.orchestrator, order.accept_by, order.done_by,
            ),
        )  # fmt: skip

    async def reassign_task(self, signer: Identity, client: Address, task_id: bytes, orchestrator: Address) -> None:
        await self._transport.call(signer, "reassign_task", (client, task_id, orchestrator))

    async def complete_task(self, signer: Identity, settlement: Settlement) -> Settled:
        claim = settlement.claim
        arguments = (claim.client, claim.task_id, *_claimed(claim), settlement.claim_signature, settlement.quality_ppm)
        events = await self._transport.call(signer, "complete_task", arguments)
        return _parsed(partial(abi.settled_items, count=1), events, "complete_task")[0]

    async def fail_task(self, signer: Identity, client: Address, task_id: bytes) -> None:
        await self._transport.call(signer, "fail_task", (client, task_id))

    async def timeout_task(self, signer: Identity, client: Address, task_id: bytes) -> None:
        await self._change(signer, "timeout_task", client, task_id)

    # disputes

    async def open_dispute(self, signer: Identity, client: Address, task_id: bytes, evidence_hash: bytes) -> None:
        await self._change(signer, "open_dispute", client, task_id, evidence_hash)

    async def contest_dispute(self, owner: Identity, client: Address, task_id: bytes, answer_hash: bytes) -> None:
        await self._change(owner, "contest_dispute", client, task_id, answer_hash)

    async def resolve_dispute(self, arbiter: Identity, client: Address, task_id: bytes, *, upheld: bool) -> None:
        await self._change(arbiter, "resolve_dispute", client, task_id, upheld)

    async def finalize_dispute(self, signer: Identity, client: Address, task_id: bytes) -> None:
        await self._change(signer, "finalize_dispute", client, task_id)

    async def report_equivocation(
        self,
        signer: Identity,
        operator: PublicKey,
        first: tuple[SettlementClaim, bytes],
        second: tuple[SettlementClaim, bytes],
    ) -> None:
        claim, _ = first
        rows = [(*_claimed(each), signature) for each, signature in (first, second)]
        columns = (list(column) for column in zip(*rows, strict=True))
        await self._change(signer, "report_equivocation", claim.client, claim.router, operator, claim.task_id, *columns)

    # settling

    async def settle(self, signer: Identity, batch: Sequence[Settlement]) -> list[Settled]:
        """Safe to repeat: what an earlier call has settled comes back as `Settled.settled_before`."""
        settled: list[Settled] = []
        for start in range(0, len(batch), MAX_BATCH):
            chunk = batch[start : start + MAX_BATCH]
            columns = batch_columns(chunk)
            events = await self._transport.call(signer, "settle_batch", columns)
            settled += _parsed(partial(abi.settled_items, count=len(chunk)), events, "settle_batch")
        return settled


def _parsed(understand: Callable[[T], V], answer: T, function: str) -> V:
    try:
        return understand(answer)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise LedgerRejected(
            f"the contract answers {function} in a form that this version does not know; update cactus-mesh"
        ) from error


def _claimed(claim: SettlementClaim) -> tuple[Value, ...]:
    return (
        claim.delegate, claim.delegate_bps, claim.model_digest, claim.complexity,
        claim.compute_ms, claim.price, claim.result_hash,
    )  # fmt: skip


def batch_columns(batch: Sequence[Settlement]) -> tuple[list[Value], ...]:
    """The arguments of `settle_batch`: one column a field, one entry an item."""
    rows = [
        (
            item.consent.client, item.consent.task_id, item.consent.nonce, item.consent.max_price,
            item.consent.expires_at, item.consent_signature,
            item.claim.orchestrator, *_claimed(item.claim), item.claim_signature, item.quality_ppm,
        )
        for item in batch
    ]  # fmt: skip
    return tuple(list(column) for column in zip(*rows, strict=True))


async def read_chain(transport: Transport, chain_id: int, contract: Address) -> Chain:
    answer = await transport.view("params", ())
    params = _parsed(lambda values: params_of(dict(zip(BOUNDS, map(int, values), strict=True))), answer, "params")
    return Chain(chain_id, contract, params.reward, params.min_stake)


@asynccontextmanager
async def open_ledger(
    url: str, contract: Address, chain_id: int, observed: Observed | None = None
) -> AsyncIterator[ContractLedger]:
    """The contract at *contract* on the chain whose node answers at *url* (with or without ``/v1``).

    Raises `LedgerDown` when nobody answers there and `LedgerWrongChain` when another chain does.
    """
    from cactus_mesh.ledger.rest import open_rest  # aptos_sdk takes a third of a second to import

    async with open_rest(url, contract, chain_id) as rest:
        transport = rest if observed is None else _Timed(rest, observed)
        yield ContractLedger(transport, await read_chain(transport, chain_id, contract))
