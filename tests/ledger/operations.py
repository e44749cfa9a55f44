"""Random operations on the contract: mostly sensible, sometimes hostile, often at the very edge of a deadline."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from cactus_mesh.core.settlement import NOBODY, OperatorConsent, SettlementClaim, TaskConsent
from cactus_mesh.identity import Address, Identity
from cactus_mesh.ledger.rules.params import BOUNDS, Params, values_of
from cactus_mesh.ledger.rules.state import TaskKey
from tests.contracts.vm import CONTRACT
from tests.ledger.operation import START, Operation
from tests.ledger.world import COIN, person, task_id

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

    from cactus_mesh.ledger.rules.state import State

CHAIN_ID: Final = 203
ADMIN: Final = CONTRACT
ROUTERS: Final = (person("router"), person("other router"))
OPERATORS: Final = tuple(map(person, ("orchestrator", "delegate", "spare operator", "another operator")))
CLIENTS: Final = (person("client"), person("stranger"))
PEOPLE: Final = (*ROUTERS, *OPERATORS[:2], *CLIENTS)
"""Those who have coins and sign transactions."""
_KEYS: Final = {each.address: each for each in (*PEOPLE, *OPERATORS)}
ACCOUNTS: Final = (ADMIN, *_KEYS)
TASKS: Final = 12
YEARS: Final = 10**9
U64_MAX: Final = 2**64 - 1


Calls = list[tuple[str, str, tuple[Any, ...], tuple[TaskKey, ...]]]
"""Sender, entry, arguments and the tasks it is about."""


class Writer:
    """Thinks up the next operations, knowing what the Python side holds."""

    def __init__(self, rng: random.Random, state: State) -> None:
        self.rng = rng
        self.state = state
        self.now = START
        self._furnished = False
        self._kinds: list[tuple[Callable[[], Calls], int]] = [
            (self._settle, 22), (self._create, 14), (self._complete, 12), (self._reassign, 6), (self._end, 8),
            (self._dispute, 26), (self._equivocation, 4), (self._stake, 13), (self._leave, 2), (self._operator, 3),
            (self._register, 3), (self._client, 8), (self._deposit, 5), (self._servers, 5),
            (self._admin, 6), (self._view, 6),
        ]  # fmt: skip

    def next(self) -> Iterator[Operation]:
        if not self._furnished:
            self._furnished = True
            yield from self._timed(self._furniture())
            return
        self._pass_time()
        kinds, weights = zip(*self._kinds, strict=True)
        (kind,) = self.rng.choices(kinds, weights)
        yield from self._timed(kind())

    def _timed(self, calls: Calls) -> Iterator[Operation]:
        for sender, entry, arguments, tasks in calls:
            yield Operation(Address(sender), self.now, entry, arguments, tasks)

    def _furniture(self) -> Calls:
        calls: Calls = [(ADMIN, "mint", (each.address, 100 * COIN), ()) for each in PEOPLE]
        for router in ROUTERS:
            calls.append((router.address, "register_server", (), ()))
            calls.append((ADMIN, "authorize_server", (router.address, START + YEARS, COIN), ()))
        calls += [
            (each.address, "register_orchestrator", (each.public_key, b"", 2 * COIN), ()) for each in OPERATORS[:2]
        ]
        calls += [(each.address, "deposit", (each.public_key, 10 * COIN), ()) for each in CLIENTS]
        return calls

    # time

    def _pass_time(self) -> None:
        if self.rng.random() < 0.6:
            return
        deadlines = [each for each in self._deadlines() if each >= self.now]
        if deadlines and self.rng.random() < 0.7:
            self.now = max(self.now, self.rng.choice(deadlines) + self.rng.choice((-1, 0, 0, 1)))
        else:
            self.now += self.rng.choice((1, 1, 60, 601, 3_600, 86_401))

    def _deadlines(self) -> list[int]:
        state = self.state
        window = state.params.dispute_window_seconds
        released = [due.release_at for each in state.orchestrators.values() for due in each.unbonding]
        found = released + [each - window for each in released]
        found += [due.release_at for client in state.clients.values() for due in client.withdrawals]
        found += [task.done_by for task in state.tasks.values() if task.status == "created"]
        found += [task.ended_at + window for task in state.tasks.values() if task.status == "completed"]
        found += [each.act_by for each in state.disputes.values() if each.status in ("open", "contested")]
        found += [server.expires_at for server in state.servers.values() if server.expires_at < START + YEARS]
        return found

    # small choices

    def _well(self, probability: float = 0.85) -> bool:
        return self.rng.random() < probability

    def _one(self, *options: Any) -> Any:
        return self.rng.choice(options)

    def _amount(self, most: int = 12 * COIN) -> int:
        return self.rng.choice((0, 1, COIN, U64_MAX, *[self.rng.randint(0, most) for _ in range(6)]))

    def _worker(self) -> Identity:
        """Usually one that is registered."""
        known = [each for each in OPERATORS if each.address in self.state.orchestrators]
        return self.rng.choice(known if known and self._well(0.9) else OPERATORS)

    def _bytes(self, good: bytes) -> bytes:
        return good if self._well(0.96) else self._one(b"", b"short", good + b"x")

    def _somebody(self) -> str:
        return str(self._one(ADMIN, *(each.address for each in PEOPLE)))

    def _signature(self, signer: Identity, message: bytes) -> bytes:
        if self._well(0.94):
            return signer.sign(message)
        other = self.rng.choice(PEOPLE).sign(message)
        return self.rng.choice((b"", bytes(64), b"\xff" * 64, other, signer.sign(message)[:-1]))

    def _owner(self, operator: Identity) -> str:
        record = self.state.orchestrators.get(operator.address)
        return record.owner if record is not None and self._well(0.93) else self._somebody()

    # entries

    def _admin(self) -> Calls:
        who = ADMIN if self._well() else self._somebody()
        entry = self._one("set_params", "set_params", "set_paused", "set_treasury", "set_arbiter", "propose_admin")
        arguments: dict[str, tuple[Any, ...]] = {
            "set_params": self._params(),
            "set_paused": (self.rng.random() < 0.2,),
            "set_treasury": (self._somebody(),),
            "set_arbiter": (self._one(ADMIN, ADMIN, self._somebody()),),
            "propose_admin": (self._somebody(),),
        }
        calls: Calls = [(who, entry, arguments[entry], ())]
        if entry == "set_paused":
            calls.append((self.state.config.admin, "set_paused", (False,), ()))
            calls.insert(1, *self._create()[:1])
        if entry == "propose_admin":  # there and back, so that the sequence keeps its administrator
            successor = arguments[entry][0]
            calls += [(successor, "accept_admin", (), ()), (successor, "propose_admin", (ADMIN,), ())]
            calls.append((ADMIN, "accept_admin", (), ()))
        return calls

    def _params(self) -> tuple[int, ...]:
        values = values_of(Params())
        for name in self.rng.sample(list(BOUNDS), self.rng.randint(0, 3)):
            low, high = BOUNDS[name][:2]
            usual = values[name]
            values[name] = self._one(low, usual * 2, usual // 2 + 1, max(0, low - 1), high, high + 1)
        return tuple(values.values())

    def _servers(self) -> Calls:
        who, server = ADMIN if self._well() else self._somebody(), self._somebody()
        entry = self._one("register_server", "authorize_server", "revoke_server")
        expires_at = self.now + self._one(-1, 0, 1, 1_000, YEARS)
        again = (self._one(*ROUTERS).address, START + YEARS, self._one(COIN, COIN, U64_MAX, 20_000))
        choices: dict[str, Calls] = {
            "register_server": [(server, entry, (), ())],
            "authorize_server": [(who, entry, (server, expires_at, self._amount()), ())],
            "revoke_server": [(who, entry, (server,), ())],
        }
        return [*choices[entry], (ADMIN, "authorize_server", again, ())]

    def _register(self) -> Calls:
        operator = self._one(*OPERATORS)
        owner = self._one(operator, *PEOPLE)
        consent = OperatorConsent(CHAIN_ID, CONTRACT, owner.address, operator.address)
        signature = b"" if owner is operator else self._signature(operator, consent.to_bcs())
        key = self._bytes(operator.public_key)
        return [(owner.address, "register_orchestrator", (key, signature, self._amount()), ())]

    def _operator(self) -> Calls:
        old, new = self._worker(), self._one(*OPERATORS)
        owner = self._owner(old)
        signature = self._signature(new, OperatorConsent(CHAIN_ID, CONTRACT, Address(owner), new.address).to_bcs())
        return [(owner, "set_operator", (old.address, self._bytes(new.public_key), signature), ())]

    def _stake(self) -> Calls:
        operator = self._worker()
        entry = self._one("add_stake", "request_unstake", "request_unstake", "cancel_unstake", "withdraw_stake")
        amount = (self._amount(COIN // 2),) if entry in ("add_stake", "request_unstake") else ()
        times = 9 if entry == "request_unstake" and self.rng.random() < 0.04 else 1
        return [(self._owner(operator), entry, (operator.address, *(amount if times == 1 else (1,))), ())] * times

    def _leave(self) -> Calls:
        """Unbond all, or settle work about when what answers for it stops staying for a whole dispute window."""
        records, window = self.state.orchestrators, self.state.params.dispute_window_seconds
        dues = [(_KEYS[key], due.release_at - window) for key, each in records.items() for due in each.unbonding]
        leaving = [(operator, last) for operator, last in dues if last >= self.now]
        if leaving and self._well(0.5):
            operator, last = self._one(*leaving)
            self.now = max(self.now, last + self._one(-1, 0, 0, 1))
            return self._settle(operator)
        operator = self._worker()
        stake = records[operator.address].stake if operator.address in records else 1
        return [(self._owner(operator), "request_unstake", (operator.address, stake), ())]

    def _client(self) -> Calls:
        client = self._one(*CLIENTS, self._one(*PEOPLE))
        if self.rng.random() < 0.1:
            key = self._bytes(self._one(client, client, *PEOPLE).public_key)
            return [(client.address, "register_client", (key,), ())]
        if self._well(0.5):
            return [(client.address, "withdraw", (), ())]
        times = 9 if self.rng.random() < 0.05 else 1
        return [(client.address, "request_withdrawal", (self._amount(COIN) if times == 1 else 1,), ())] * times

    def _deposit(self) -> Calls:
        client = self._one(*CLIENTS, *PEOPLE)
        return [(self._somebody(), "deposit", (self._bytes(client.public_key), self._amount(3 * COIN)), ())]

    # tasks

    def _consent(self, client: Identity, router: Identity, number: int, price: int) -> tuple[TaskConsent, bytes]:
        nonce = number if self._well(0.97) else self.rng.randint(1, TASKS)
        expires_at = self.now + (self._one(0, 0, 10, 10**6) if self._well(0.95) else -1)
        consent = TaskConsent(
            CHAIN_ID, CONTRACT, client.address, router.address, task_id(number), nonce, price, expires_at
        )
        record = self.state.clients.get(client.address)
        keys = {each.public_key: each for each in _KEYS.values()}
        signer = keys.get(record.public_key, client) if record is not None else client
        return consent, self._signature(signer, consent.to_bcs())

    def _claim(
        self, client: Address, router: Identity, number: int, operator: Identity
    ) -> tuple[SettlementClaim, bytes]:
        delegate = self._one(NOBODY, NOBODY, self._one(*OPERATORS).address)
        bps = 0 if delegate == NOBODY else self._one(0, 4_000, 9_500, 9_501)
        claim = SettlementClaim(
            CHAIN_ID, CONTRACT, client, router.address, operator.address, delegate,
            bps if self._well(0.97) else 1, task_id(number), self._bytes(b"m" * 32),
            self._one(0, 5_000_000, self.rng.randint(0, 10**9), 10**15, 10**15 + 1),
            self._one(0, 1_500, self.rng.randint(0, 4_000), 3_600_000, 3_600_001),
            self._one(0, 5_000, self.rng.randint(0, 20_000), U64_MAX), self._bytes(bytes([self._one(1, 2)]) * 32),
        )  # fmt: skip
        if self._well(0.8):
            claim = replace(
                claim, complexity=min(claim.complexity, 10**15), compute_ms=min(claim.compute_ms, 3_600_000)
            )
        usable = len(claim.model_digest) < 128 and len(claim.result_hash) < 128
        assert usable
        return claim, self._signature(operator, claim.to_bcs())

    def _price(self) -> int:
        return self.rng.choice((0, 1, 10_000, 10_000, 20_000, COIN // 4, COIN, 3 * COIN, U64_MAX))

    def _create(self) -> Calls:
        router, client = self._one(*ROUTERS), self._one(*CLIENTS)
        number, operator = self.rng.randint(1, TASKS), self._worker()
        consent, signature = self._consent(client, router, number, self._price())
        accept_by = self.now + (self._one(0, 60) if self._well(0.96) else -1)
        done_by = self.now + (self._one(60, 600, 3_600) if self._well(0.95) else self._one(0, 3_601))
        arguments = (
            client.address, consent.task_id if self._well(0.97) else b"short", consent.nonce, consent.max_price,
            consent.expires_at, signature, operator.address, accept_by, done_by,
        )  # fmt: skip
        return [(router.address, "create_task", arguments, (TaskKey(client.address, consent.task_id),))]

    def _known_task(self, *statuses: str) -> tuple[TaskKey, Identity, Identity]:
        """Some task of the ledger, its server and its orchestrator; or one that does not exist."""
        keys = [key for key, task in self.state.tasks.items() if not statuses or task.status in statuses]
        if not keys or not self._well(0.93):
            number = self.rng.randint(1, TASKS)
            return TaskKey(self._one(*CLIENTS).address, task_id(number)), self._one(*ROUTERS), OPERATORS[0]
        key = self._one(*keys)
        task = self.state.tasks[key]
        return key, _KEYS[task.server], _KEYS[task.orchestrator]

    def _complete(self) -> Calls:
        key, router, operator = self._known_task("created")
        claim, signature = self._claim(key.client, router, int.from_bytes(key.task_id), operator)
        arguments = (
            *key, claim.delegate, claim.delegate_bps, claim.model_digest, claim.complexity, claim.compute_ms,
            claim.price, claim.result_hash, signature, self._one(10**6, 0, 10**6 + 1, 5),
        )  # fmt: skip
        sender = router.address if self._well(0.95) else self._somebody()
        return [(sender, "complete_task", arguments, (key,))]

    def _reassign(self) -> Calls:
        key, router, lost = self._known_task("created")
        sender = router.address if self._well(0.95) else self._somebody()
        able = [
            each for each, record in self.state.orchestrators.items() if record.stake >= self.state.params.min_stake
        ]
        others = [each for each in able if each != lost.address]
        next_one = self._one(*others) if others and self._well(0.8) else self._worker().address
        return [(sender, "reassign_task", (*key, next_one), (key,))]

    def _end(self) -> Calls:
        key, router, _ = self._known_task("created")
        entry = self._one("fail_task", "timeout_task", "timeout_task")
        sender = router.address if entry == "fail_task" and self._well(0.95) else self._somebody()
        return [(sender, entry, tuple(key), (key,))]

    def _settle(self, worker: Identity | None = None) -> Calls:
        router = self._one(*ROUTERS)
        count = self._one(1, 1, 2, 3, 5, *([50, 51, 0] if self.rng.random() < 0.03 else []))
        rows, keys = [], []
        for _ in range(count):
            client, number = self._one(*CLIENTS), self.rng.randint(1, TASKS)
            operator = worker or self._worker()
            consent, consent_signature = self._consent(client, router, number, self._price())
            claim, claim_signature = self._claim(client.address, router, number, operator)
            given = consent.task_id if self._well(0.98) else b""
            rows.append((
                client.address, given, consent.nonce, consent.max_price, consent.expires_at, consent_signature,
                operator.address, claim.delegate, claim.delegate_bps, claim.model_digest, claim.complexity,
                claim.compute_ms, claim.price, claim.result_hash, claim_signature, self._one(10**6, 7, 10**6 + 1, 0),
            ))  # fmt: skip
            keys.append(TaskKey(client.address, consent.task_id))
        columns = [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(16)]
        if not self._well(0.98):
            column = self._one(*columns)
            column[:] = column[:-1] if self._well(0.5) else column + column[:1]
        sender = router.address if self._well(0.96) else self._somebody()
        return [(sender, "settle_batch", tuple(columns), tuple(keys))]

    # disputes

    def _dispute(self) -> Calls:
        key, router, operator = self._known_task("completed")
        present = self.state.disputes.get(key)
        likely = {None: "open_dispute", "open": self._one("contest_dispute", "finalize_dispute"),
                  "contested": self._one("resolve_dispute", "finalize_dispute")}  # fmt: skip
        usual = likely.get(present.status if present else None, "open_dispute")
        entry = usual if self._well(0.9) else self._one(*(each for each in likely.values() if each))
        signers = {
            "open_dispute": self._one(key.client, router.address),
            "contest_dispute": self._owner_of_signed(operator),
            "resolve_dispute": self.state.config.arbiter,
        }
        last: dict[str, tuple[Any, ...]] = {
            "open_dispute": (self._bytes(b"e" * 32),),
            "contest_dispute": (self._bytes(b"a" * 32),),
            "resolve_dispute": (self._well(0.5),),
        }
        sender = signers.get(entry, self._somebody()) if self._well(0.88) else self._somebody()
        return [(sender, entry, (*key, *last.get(entry, ())), (key,))]

    def _owner_of_signed(self, operator: Identity) -> str:
        address = operator.address
        while address in self.state.retired:
            address = self.state.retired[address]
        return self._owner(_KEYS[address])

    def _equivocation(self) -> Calls:
        key, router, operator = self._known_task()
        if self._well(0.5):
            operator = self._worker()
        number = int.from_bytes(key.task_id)
        rows = []
        for result in (1, self._one(2, 2, 2, 1)):
            claim, _ = self._claim(key.client, router, number, operator)
            claim = replace(claim, result_hash=self._bytes(bytes([result]) * 32))
            rows.append((
                claim.delegate, claim.delegate_bps, claim.model_digest, claim.complexity, claim.compute_ms, claim.price,
                claim.result_hash, self._signature(operator, claim.to_bcs()),
            ))  # fmt: skip
        columns = [list(column) for column in zip(*rows[: self._one(2, 2, 2, 2, 2, 2, 1)], strict=True)]
        accused = self._one(operator, operator, operator, operator, *OPERATORS)
        given = self._bytes(key.task_id)
        arguments = (key.client, router.address, self._bytes(accused.public_key), given, *columns)
        return [(self._somebody(), "report_equivocation", arguments, (key,))]

    # views

    def _view(self) -> Calls:
        key, _, operator = self._known_task()
        account = self._somebody()
        number = self._one(0, 5_000_000, 10**15, U64_MAX, self.rng.randint(0, 10**9))
        views: dict[str, tuple[Any, ...]] = {
            "config": (),
            "params": (),
            "orchestrator": (operator.address,),
            "server": (account,),
            "client": (key.client,),
            "task": tuple(key),
            "dispute": tuple(key),
            "slashed": (operator.address, *key),
            "nonce_used": (key.client, self._one(number, self.rng.randint(0, TASKS))),
            "reward": (number, self._one(0, 1_500, U64_MAX), self._one(0, 900_000, 10**6, U64_MAX), self._price()),
            "success_rate": (operator.address,),
        }
        name = self._one(*views)
        return [(account, name, views[name], ())]
