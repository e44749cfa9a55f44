"""What the contract keeps: plain records in tables whose changes can be taken back, and the coins they stand for.

No rule lives here.  Addresses are ``0x`` and 64 hex digits; times are whole Unix seconds; amounts are octas.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Literal, NamedTuple, TypeVar

from cactus_mesh.core.pricing import Split  # noqa: TC001 - rows are decoded by these types
from cactus_mesh.identity import Address, PublicKey
from cactus_mesh.ledger.rules.params import Params  # noqa: TC001 - likewise

K = TypeVar("K")
V = TypeVar("V")

APT: Final = Address("0x" + "a".zfill(64))
MAX_PENDING: Final = 8
"""Unbondings of one stake, and withdrawals of one client: enough to stagger, few enough to go through in one call."""


class Change(NamedTuple):
    """One write to one table; *old* is `ABSENT` where there was nothing."""

    table: Table[Any, Any]
    key: Any
    old: Any


ABSENT: Final = object()


class Table(MutableMapping[K, V], Generic[K, V]):
    """A dict that notes each write in the journal of its state.  Values are immutable."""

    __slots__ = ("_journal", "_rows", "name")

    def __init__(self, name: str, journal: list[Change]) -> None:
        self.name = name
        self._journal = journal
        self._rows: dict[K, V] = {}

    def __getitem__(self, key: K) -> V:
        return self._rows[key]

    def __setitem__(self, key: K, value: V) -> None:
        self._journal.append(Change(self, key, self._rows.get(key, ABSENT)))
        self._rows[key] = value

    def __delitem__(self, key: K) -> None:
        self._journal.append(Change(self, key, self._rows[key]))
        del self._rows[key]

    def __iter__(self) -> Iterator[K]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: object) -> bool:
        return key in self._rows

    def restore(self, key: K, old: V | object) -> None:
        """Put back what `Change.old` says, unrecorded."""
        if old is ABSENT:
            del self._rows[key]
        else:
            self._rows[key] = old  # type: ignore[assignment]


class Due(NamedTuple):
    """Money on its way out, claimable from *release_at*."""

    amount: int
    release_at: int


@dataclass(frozen=True, slots=True)
class Config:
    """*asset* is the fungible asset of all amounts: APT, whose metadata every Aptos chain keeps at 0xa."""

    admin: Address
    pending_admin: Address | None
    arbiter: Address
    treasury: Address
    asset: Address
    params: Params
    paused: bool


@dataclass(frozen=True, slots=True)
class Metrics:
    """What an orchestrator has done under its own liability.  *quality_sum* adds up ppm, *slashed* counts incidents."""

    completed: int = 0
    failed: int = 0
    timed_out: int = 0
    slashed: int = 0
    compute_ms: int = 0
    quality_sum: int = 0


@dataclass(frozen=True, slots=True)
class Orchestrator:
    """A stake and who answers for it.  *owner* receives pay and stake; *public_key* signs claims.

    *bonds* are what the openers of its *open_disputes* have put down; they lie in its vault until the decision.
    """

    owner: Address
    public_key: PublicKey
    vault: Address
    stake: int
    open_disputes: int = 0
    bonds: int = 0
    unbonding: tuple[Due, ...] = ()
    metrics: Metrics = Metrics()

    @property
    def bonded(self) -> int:
        """Everything that can still be slashed."""
        return self.stake + sum(entry.amount for entry in self.unbonding)

    def bonded_until(self, until: int) -> int:
        """What of it can't have left before *until*."""
        return self.stake + sum(entry.amount for entry in self.unbonding if entry.release_at >= until)

    @property
    def frozen(self) -> bool:
        """Nothing leaves, and no new task comes, while a dispute is open."""
        return self.open_disputes > 0


ServerStatus = Literal["authorised", "pending", "revoked"]


@dataclass(frozen=True, slots=True)
class Server:
    status: ServerStatus
    granted_by: Address | None = None
    expires_at: int = 0
    max_budget: int = 0
    escrowed: int = 0


@dataclass(frozen=True, slots=True)
class Client:
    """A client's money.  *deposit* is free to be promised, *escrowed* is promised to open tasks."""

    public_key: PublicKey
    vault: Address
    deposit: int = 0
    escrowed: int = 0
    withdrawals: tuple[Due, ...] = ()


TaskStatus = Literal["completed", "created", "failed", "timed_out"]


@dataclass(frozen=True, slots=True)
class Task:
    server: Address
    orchestrator: Address
    status: TaskStatus
    max_price: int
    done_by: int
    ended_at: int = 0
    split: Split | None = None
    result_hash: bytes = b""


class TaskKey(NamedTuple):
    client: Address
    task_id: bytes


class NonceKey(NamedTuple):
    client: Address
    nonce: int


DisputeStatus = Literal["contested", "dismissed", "lapsed", "open", "upheld"]


@dataclass(frozen=True, slots=True)
class Dispute:
    """One completed task in doubt.  *act_by* is the deadline of whoever is to act: the owner, then the arbiter.

    The hashes commit to what both sides show the arbiter off the ledger; *orchestrator* signed the disputed claim.
    """

    orchestrator: Address
    opener: Address
    bond: int
    evidence_hash: bytes
    answer_hash: bytes
    opened_at: int
    act_by: int
    status: DisputeStatus


class SlashKey(NamedTuple):
    """One incident: an operator key's work on one task."""

    operator: Address
    client: Address
    task_id: bytes


@dataclass(slots=True)
class State:
    """One deployment of the contract and the coins of its chain."""

    chain_id: int
    contract: Address
    journal: list[Change] = field(default_factory=list)
    configs: Table[str, Config] = field(init=False)
    coins: Table[Address, int] = field(init=False)
    vaults: Table[Address, int] = field(init=False)
    minted: Table[str, int] = field(init=False)
    orchestrators: Table[Address, Orchestrator] = field(init=False)
    retired: Table[Address, Address] = field(init=False)
    servers: Table[Address, Server] = field(init=False)
    clients: Table[Address, Client] = field(init=False)
    tasks: Table[TaskKey, Task] = field(init=False)
    nonces: Table[NonceKey, bool] = field(init=False)
    disputes: Table[TaskKey, Dispute] = field(init=False)
    slashes: Table[SlashKey, bool] = field(init=False)

    def __post_init__(self) -> None:
        for name in TABLES:
            setattr(self, name, Table(name, self.journal))

    @property
    def config(self) -> Config:
        return self.configs[_ONLY]

    @config.setter
    def config(self, config: Config) -> None:
        self.configs[_ONLY] = config

    @property
    def params(self) -> Params:
        return self.config.params

    @contextmanager
    def atomic(self) -> Iterator[None]:
        """All the writes of the block, or none when it raises."""
        mark = len(self.journal)
        try:
            yield
        except BaseException:
            while len(self.journal) > mark:
                change = self.journal.pop()
                change.table.restore(change.key, change.old)
            raise

    def take_journal(self) -> list[tuple[Table[Any, Any], Any]]:
        """The rows written since the last call, each once; from here on they can't be taken back."""
        written = {(change.table.name, change.key): (change.table, change.key) for change in self.journal}
        self.journal.clear()
        return list(written.values())


_ONLY: Final = "only"

TABLES: Final[dict[str, tuple[Any, Any]]] = {
    "configs": (str, Config),
    "coins": (Address, int),
    "vaults": (Address, int),
    "minted": (str, int),
    "orchestrators": (Address, Orchestrator),
    "retired": (Address, Address),
    "servers": (Address, Server),
    "clients": (Address, Client),
    "tasks": (TaskKey, Task),
    "nonces": (NonceKey, bool),
    "disputes": (TaskKey, Dispute),
    "slashes": (SlashKey, bool),
}
"""Every table of a `State`, with the types of its keys and values."""


def named_object(creator: Address, seed: bytes) -> Address:
    """The address of Aptos's named object: sha3-256(creator ‖ seed ‖ 0xFE)."""
    return Address("0x" + hashlib.sha3_256(_raw(creator) + seed + b"\xfe").hexdigest())


def vault(contract: Address, kind: Literal["client", "stake"], owner: Address) -> Address:
    """Where the money of one stake or one client lies: the store of an object that only the contract can open.

    It is no account: no key signs for it, and coins sent to its address are not in it.
    """
    root = named_object(contract, b"cactus_payment")
    return named_object(root, kind.encode() + _raw(owner))


def _raw(address: Address) -> bytes:
    return bytes.fromhex(address[2:])
