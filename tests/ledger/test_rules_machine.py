"""Random sequences of valid and hostile operations: nothing is minted, lost, or spent without the client's word."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cactus_mesh.core.settlement import NOBODY, Settlement
from cactus_mesh.ledger import rules
from cactus_mesh.ledger.client import batch_columns
from cactus_mesh.ledger.rules import Abort, Tx
from cactus_mesh.ledger.rules.events import DisputeOpened, Event, Slashed
from cactus_mesh.ledger.rules.params import Params, values_of
from tests.ledger.world import (
    ADMIN,
    CLIENT,
    COIN,
    DELEGATE,
    EVERYBODY,
    ORCHESTRATOR,
    OTHER_ROUTER,
    ROUTER,
    STRANGER,
    claim_for,
    consent_for,
    contradiction,
    new_world,
    operator_signature,
    person,
    signed,
)

if TYPE_CHECKING:
    from cactus_mesh.identity import Address, Identity
    from cactus_mesh.ledger.rules.state import Task, TaskKey

CLIENTS = (CLIENT, STRANGER)
OPERATORS = (ORCHESTRATOR, DELEGATE, person("spare operator"))
IDENTITY = {each.address: each for each in (*EVERYBODY, *OPERATORS)}
people = st.sampled_from(EVERYBODY)
routers = st.sampled_from((ROUTER, OTHER_ROUTER))
clients = st.sampled_from(CLIENTS)
operators = st.sampled_from(OPERATORS)
amounts = st.one_of(st.sampled_from((0, 1, COIN, 10 * COIN, 2**64 - 1)), st.integers(0, 12 * COIN))
prices = st.integers(0, 2 * COIN)
numbers = st.integers(1, 12)
mostly = st.sampled_from((True, True, True, True, False))
"""Usually well-formed, so that sequences get somewhere."""


class Ledger(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = new_world()
        self.promised: Counter[Address] = Counter()
        self.given: Counter[Address] = Counter()

    def attempt(self, signer: Identity, entry: str, *arguments: Any) -> bool:
        before = self.world.snapshot()
        try:
            events = rules.ENTRIES[entry](self.world.state, Tx(signer.address, self.world.now), *arguments)
        except Abort:
            assert self.world.snapshot() == before, "an abort left a trace"
            return False
        self.world.state.take_journal()
        for event in events:
            self.note(event)
        return True

    def note(self, event: Event) -> None:
        """What somebody may have lost as the owner of a stake, or as who opened a dispute."""
        if isinstance(event, Slashed):
            self.given[self.world.state.orchestrators[event.operator].owner] += event.amount
        elif isinstance(event, DisputeOpened):
            self.given[event.opener] += event.bond

    # what every step must leave true

    @invariant()
    def nothing_is_minted_or_lost(self) -> None:
        assert list(rules.violations(self.world.state)) == []

    @invariant()
    def clients_lose_no_more_than_they_signed_for(self) -> None:
        for each in CLIENTS:
            state = self.world.state
            record = state.clients.get(each.address)
            vault = state.vaults.get(record.vault, 0) if record else 0
            other = sum(self.staked_by(each.address)) + self.given[each.address]
            assert state.coins.get(each.address, 0) + vault + other + self.promised[each.address] >= 100 * COIN

    def staked_by(self, owner: Address) -> list[int]:
        return [each.bonded for each in self.world.state.orchestrators.values() if each.owner == owner]

    # operations

    @rule(seconds=st.sampled_from((1, 1, 60, 601, 3_600, 8 * 86_400)))
    def time_passes(self, seconds: int) -> None:
        self.world.now += seconds

    @rule(signer=people, well=mostly, paused=st.sampled_from((False, False, False, True)))
    def pause(self, signer: Identity, well: bool, paused: bool) -> None:
        self.attempt(ADMIN if well else signer, "set_paused", paused)

    @rule(fee=st.integers(0, 2_100), stake=st.sampled_from((1, 1, COIN, 3 * COIN)), share=st.integers(0, 10_000))
    def change_parameters(self, fee: int, stake: int, share: int) -> None:
        values = values_of(Params()) | {"fee_bps": fee, "min_stake": stake, "treasury_bps": share}
        self.attempt(ADMIN, "set_params", *values.values())

    @rule(signer=people, server=people, seconds=st.integers(-1, 10**8), budget=amounts, well=mostly)
    def authorise(self, signer: Identity, server: Identity, seconds: int, budget: int, well: bool) -> None:
        self.attempt(server, "register_server")
        self.attempt(ADMIN if well else signer, "authorize_server", server.address, self.world.now + seconds, budget)

    @rule(server=routers, signer=people)
    def revoke(self, server: Identity, signer: Identity) -> None:
        """By anybody, who is the administrator once in a while."""
        self.attempt(signer, "revoke_server", server.address)

    @rule(owner=people, operator=operators, stake=amounts, well=mostly)
    def register_orchestrator(self, owner: Identity, operator: Identity, stake: int, well: bool) -> None:
        agreed = operator_signature(operator, owner) if well else bytes(64)
        self.attempt(owner, "register_orchestrator", operator.public_key, agreed, stake)

    @rule(
        somebody=people,
        well=mostly,
        operator=operators,
        entry=st.sampled_from(("add_stake", "request_unstake", "cancel_unstake", "withdraw_stake")),
        amount=amounts,
    )
    def move_stake(self, somebody: Identity, well: bool, operator: Identity, entry: str, amount: int) -> None:
        owner = self.owner_of(operator) if well else somebody
        arguments = (amount,) if entry in ("add_stake", "request_unstake") else ()
        self.world.now += Params().unbonding_seconds * (well and entry == "withdraw_stake")
        self.attempt(owner, entry, operator.address, *arguments)

    @rule(somebody=people, well=mostly, old=operators, new=operators)
    def set_operator(self, somebody: Identity, well: bool, old: Identity, new: Identity) -> None:
        owner = self.owner_of(old) if well else somebody
        agreed = operator_signature(new, owner)
        self.attempt(owner, "set_operator", old.address, new.public_key, agreed)

    def owner_of(self, operator: Identity) -> Identity:
        record = self.world.state.orchestrators.get(operator.address)
        return IDENTITY[record.owner] if record is not None else operator

    @rule(
        data=st.data(),
        somebody=people,
        well=mostly,
        entry=st.sampled_from(("open_dispute", "contest_dispute", "resolve_dispute", "finalize_dispute")),
        upheld=st.booleans(),
    )
    def dispute(self, data: st.DataObject, somebody: Identity, well: bool, entry: str, upheld: bool) -> None:
        if (chosen := self.some_task(data)) is None:
            return
        key, task = chosen
        last = {"open_dispute": (b"e" * 32,), "contest_dispute": (b"a" * 32,), "resolve_dispute": (upheld,)}
        signer = {
            "open_dispute": IDENTITY[task.server],
            "contest_dispute": self.owner_of(IDENTITY[task.orchestrator]),
            "resolve_dispute": ADMIN,
        }
        self.world.now += Params().arbitration_seconds * (well and entry == "finalize_dispute")
        self.attempt(signer.get(entry, somebody) if well else somebody, entry, *key, *last.get(entry, ()))

    @rule(router=routers, client=clients, number=numbers, operator=operators, same=st.booleans())
    def report(self, router: Identity, client: Identity, number: int, operator: Identity, same: bool) -> None:
        names = {"client": client.address, "router": router.address, "orchestrator": operator.address}
        results = (b"1" * 32, b"1" * 32 if same else b"2" * 32)
        arguments = contradiction(operator, *(claim_for(number, result_hash=each, **names) for each in results))
        self.attempt(STRANGER, "report_equivocation", *arguments)

    @rule(payer=people, client=clients, amount=amounts)
    def deposit(self, payer: Identity, client: Identity, amount: int) -> None:
        if self.attempt(payer, "deposit", client.public_key, amount) and payer is not client:
            self.given[payer.address] += amount

    @rule(client=clients, amount=amounts, patient=st.booleans())
    def withdraw(self, client: Identity, amount: int, patient: bool) -> None:
        self.attempt(client, "request_withdrawal", amount)
        self.world.now += Params().withdrawal_seconds * patient
        self.attempt(client, "withdraw")

    @rule(router=routers, client=clients, number=numbers, price=prices, operator=operators, well=mostly)
    def create(
        self, router: Identity, client: Identity, number: int, price: int, operator: Identity, well: bool
    ) -> None:
        item = self.item(router, client, number, price, operator, well)
        consent = item.consent
        created = self.attempt(
            router, "create_task",
            consent.client, consent.task_id, consent.nonce, consent.max_price, consent.expires_at,
            item.consent_signature, operator.address, self.world.now + 60, self.world.now + 600,
        )  # fmt: skip
        assert not (created and not well), "a task was created without the client's signature"

    @rule(data=st.data(), well=mostly, forger=people, asked=prices, delegated=st.booleans())
    def complete(self, data: st.DataObject, well: bool, forger: Identity, asked: int, delegated: bool) -> None:
        if (chosen := self.some_task(data)) is None:
            return
        key, task = chosen
        worker = IDENTITY[task.orchestrator]
        item = self.item(
            IDENTITY[task.server], IDENTITY[key.client], int.from_bytes(key.task_id), 0, worker, True,
            asked=asked, delegated=delegated,
        )  # fmt: skip
        claim = item.claim
        signature = item.claim_signature if well else forger.sign(claim.to_bcs())
        completed = self.attempt(
            IDENTITY[task.server], "complete_task",
            claim.client, claim.task_id, claim.delegate, claim.delegate_bps, claim.model_digest, claim.complexity,
            claim.compute_ms, claim.price, claim.result_hash, signature, 1_000_000,
        )  # fmt: skip
        assert not completed or well or forger is worker, "a task was completed without the orchestrator's signature"
        assert not completed or task.status == "created", "a task ended twice"

    @rule(data=st.data(), well=mostly, somebody=people, entry=st.sampled_from(("fail_task", "timeout_task")))
    def end(self, data: st.DataObject, well: bool, somebody: Identity, entry: str) -> None:
        if (chosen := self.some_task(data)) is not None:
            key, task = chosen
            self.world.now += 601 * (well and entry == "timeout_task")
            self.attempt(IDENTITY[task.server] if well else somebody, entry, key.client, key.task_id)

    @rule(data=st.data(), well=mostly, somebody=people, operator=operators)
    def reassign(self, data: st.DataObject, well: bool, somebody: Identity, operator: Identity) -> None:
        if (chosen := self.some_task(data)) is not None:
            key, task = chosen
            signer = IDENTITY[task.server] if well else somebody
            moved = self.attempt(signer, "reassign_task", key.client, key.task_id, operator.address)
            assert not moved or task.status == "created", "a task went on after its end"

    def some_task(self, data: st.DataObject) -> tuple[TaskKey, Task] | None:
        """Any task, usually an open one."""
        tasks = self.world.state.tasks
        known = [each for each in tasks.items() if each[1].status == "created"] or list(tasks.items())
        return data.draw(st.sampled_from(known)) if known else None

    @rule(
        router=routers,
        client=clients,
        items=st.lists(st.tuples(numbers, prices, operators, mostly, st.booleans()), min_size=1, max_size=4),
    )
    def settle(self, router: Identity, client: Identity, items: list[tuple[int, int, Identity, bool, bool]]) -> None:
        batch = [
            self.item(router, client, number, price, operator, well, asked=price, delegated=delegated)
            for number, price, operator, well, delegated in items
        ]
        self.attempt(router, "settle_batch", *batch_columns(batch))

    def item(
        self,
        router: Identity,
        client: Identity,
        number: int,
        price: int,
        operator: Identity,
        well: bool,
        *,
        asked: int = 0,
        delegated: bool = False,
    ) -> Settlement:
        """A consent and a claim; not *well*, a forger signs for the client."""
        names = {"client": client.address, "router": router.address}
        consent = consent_for(number, max_price=price, expires_at=self.world.now + 10, **names)
        delegate = {"delegate": DELEGATE.address, "delegate_bps": 9_000} if delegated else {"delegate": NOBODY}
        claim = claim_for(number, orchestrator=operator.address, price=asked, **names, **delegate)
        if well:
            self.promised[client.address] += price
        return signed(consent, claim, client=client if well else ROUTER, orchestrator=operator)


TestLedger = Ledger.TestCase
TestLedger.settings = settings(max_examples=250, stateful_step_count=40, deadline=None)
