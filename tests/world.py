"""A whole mesh in memory: fake network, ledger and engines under the real shells, on trio's mock clock."""

from __future__ import annotations

import hashlib
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from cactus_mesh.auditing import AuditMeans
from cactus_mesh.client import Client, open_client_role
from cactus_mesh.concurrency import open_service_nursery
from cactus_mesh.config import ClientConfig, PriceConfig, RouterConfig
from cactus_mesh.core.draws import AuditPolicy
from cactus_mesh.core.matching import Weights
from cactus_mesh.core.routing import Patience
from cactus_mesh.core.serving import ServingPolicy
from cactus_mesh.core.thresholds import ANY_MODEL, Entry, Table, Thresholds
from cactus_mesh.directory import Directory
from cactus_mesh.dispatch import Dispatcher
from cactus_mesh.dossier import Dossier, open_dossier
from cactus_mesh.herald import Herald
from cactus_mesh.identity import Identity
from cactus_mesh.journal import Journal, open_journal
from cactus_mesh.orchestrator import Orchestrator, offers_of, open_orchestrator
from cactus_mesh.router import Router, open_router
from cactus_mesh.testing.engine import FakeEngine
from cactus_mesh.testing.ledger import FakeLedger
from cactus_mesh.testing.network import FakeMesh, FakeNetwork, open_fake_mesh

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from cactus_mesh.noting import Notes

EPOCH_SECONDS = 1_800_000_000
STAKE = 100 * 10**8
DEPOSIT = 10**9
NAME = "test"
FAKE_TABLE = Table(
    [
        Entry(
            digest=ANY_MODEL,
            name="fake",
            dtype="float32",
            device="cpu",
            thresholds=Thresholds(gap_noise=1e-3, gap_fail=1.0, logprob_pass=1e-5, logprob_fail=1e-4),
            reads=reads,
        )
        for reads in (None, "embed", "classify", "rerank")
    ]
)


def seconds() -> float:
    return EPOCH_SECONDS + trio.current_time()


def clock() -> int:
    return int(seconds() * 1_000)


def identity(name: str) -> Identity:
    return Identity.from_seed(hashlib.sha256(name.encode()).digest())


@dataclass
class World:
    """Peers join by role; each is a real shell on fake adapters."""

    mesh: FakeMesh
    ledger: FakeLedger
    services: trio.Nursery
    stack: AsyncExitStack
    weights: Weights = field(default_factory=Weights)
    patience: Patience = field(default_factory=Patience)
    audits: AuditPolicy = field(default_factory=AuditPolicy)
    table: Table = FAKE_TABLE
    notes: Callable[[Identity], Notes] | None = None
    """What becomes of the records of a key's tasks."""
    journals: dict[str, Journal] = field(default_factory=dict)
    dossiers: dict[str, Dossier] = field(default_factory=dict)

    async def _directory(self, me: Identity, network: FakeNetwork) -> Directory:
        directory = Directory(network, self.ledger, me.public_key, NAME, self.weights, clock)
        await self.services.start(directory.run)
        return directory

    async def router(
        self,
        name: str = "router",
        *,
        authorised: bool = True,
        config: RouterConfig | None = None,
        engine: FakeEngine | None = None,
    ) -> Router:
        return await self.stack.enter_async_context(
            self.router_role(name, authorised=authorised, config=config, engine=engine)
        )

    @asynccontextmanager
    async def router_role(
        self,
        name: str = "router",
        *,
        authorised: bool = True,
        config: RouterConfig | None = None,
        engine: FakeEngine | None = None,
    ) -> AsyncIterator[Router]:
        """A router for the length of a block; leaving it shuts the role down in order."""
        me = identity(name)
        if authorised:
            self.ledger.authorise(me)
        network = self.mesh.join(me, roles=["router"])
        await network.provide("role/router")
        directory = await self._directory(me, network)
        if name not in self.journals:  # outlives the router, as its file would
            self.journals[name] = self.stack.enter_context(open_journal(None, now=0))
            self.dossiers[name] = self.stack.enter_context(open_dossier(None))
        async with open_router(
            me,
            network,
            self.ledger,
            directory,
            name=NAME,
            config=config or RouterConfig(),
            patience=self.patience,
            stake_cover=self.weights.stake_cover,
            journal=self.journals[name],
            audits=AuditMeans(policy=self.audits, table=self.table, dossier=self.dossiers[name], engine=engine),
            clock=clock,
            **({"routed": self.notes(me).routed} if self.notes else {}),
        ) as router:
            yield router

    async def orchestrator(
        self,
        name: str = "orchestrator",
        *,
        engine: FakeEngine | None = None,
        stake: int = STAKE,
        policy: ServingPolicy | None = None,
        price: PriceConfig | None = None,
    ) -> Orchestrator:
        me = identity(name)
        engine = engine or FakeEngine()
        policy = policy or ServingPolicy()
        if stake:
            self.ledger.stake(me, stake)
        network = self.mesh.join(me, roles=["orchestrator"])
        directory = await self._directory(me, network)
        dispatcher = Dispatcher(network, directory, clock, self.patience)
        offers = offers_of(engine, price or PriceConfig())
        herald = Herald(
            me,
            network,
            NAME,
            ["orchestrator"],
            offers=offers,
            load=lambda: orchestrator.load,
            clock=clock,
        )
        orchestrator = await self.stack.enter_async_context(
            open_orchestrator(
                me,
                network,
                self.ledger,
                engine,
                dispatcher,
                offers=offers,
                policy=policy,
                load_changed=herald.load_changed,
                clock=clock,
                **({"served": self.notes(me).served} if self.notes else {}),
            )
        )
        await self.services.start(herald.run)
        return orchestrator

    async def client(
        self, name: str = "client", *, deposit: int = DEPOSIT, config: ClientConfig | None = None
    ) -> Client:
        me = identity(name)
        if deposit:
            self.ledger.deposit_for(me, deposit)
        network = self.mesh.join(me)
        return await self.stack.enter_async_context(
            open_client_role(
                me,
                network,
                self.ledger,
                config or ClientConfig(),
                clock,
                **({"ended": self.notes(me).asked} if self.notes else {}),
            )
        )

    async def settle_down(self) -> None:
        """Let discovery and the ledger do their rounds (mock time)."""
        await trio.sleep(20)


@asynccontextmanager
async def open_world(**changes: object) -> AsyncIterator[World]:
    async with open_fake_mesh() as mesh, open_service_nursery() as services, AsyncExitStack() as stack:
        yield World(mesh, FakeLedger(clock=seconds), services, stack, **changes)  # type: ignore[arg-type]
