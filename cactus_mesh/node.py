"""The composition root: a whole node from a configuration.  Leaving the block stops everything.

Opens engine → network → ledger → roles and leaves in reverse order, so that running tasks can still end and settle.
"""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from cactus_mesh.adapters import (
    default_listen,
    identity_at,
    open_chain,
    open_mesh,
    open_models,
)
from cactus_mesh.auditing import AuditMeans
from cactus_mesh.book import open_book
from cactus_mesh.calibration import known_thresholds
from cactus_mesh.claims import Claimer, answering_for
from cactus_mesh.clock import wall_clock
from cactus_mesh.concurrency import open_service_nursery
from cactus_mesh.core.holdings import TaskName
from cactus_mesh.core.serving import Load
from cactus_mesh.directory import Directory
from cactus_mesh.dispatch import Dispatcher
from cactus_mesh.dossier import open_dossier
from cactus_mesh.heard import heard_network
from cactus_mesh.herald import Herald
from cactus_mesh.itself import answering_itself
from cactus_mesh.journal import open_journal
from cactus_mesh.known import with_known_peers, with_neighbours
from cactus_mesh.live import Sources, TaskTable, open_live, watching
from cactus_mesh.noting import Notes
from cactus_mesh.orchestrator import offers_of, open_orchestrator
from cactus_mesh.records import open_recorder
from cactus_mesh.router import open_router
from cactus_mesh.snapshot import answers_about, peer_snapshot, self_snapshot

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    import trio

    from cactus_mesh.book import Book
    from cactus_mesh.config import Config, Home
    from cactus_mesh.identity import Identity
    from cactus_mesh.live import Live
    from cactus_mesh.messages import ModelOffer
    from cactus_mesh.net.network import MeshNetwork
    from cactus_mesh.observability.meter import Meter
    from cactus_mesh.orchestrator import Orchestrator
    from cactus_mesh.ports import Engine, Ledger
    from cactus_mesh.router import Router


@dataclass(frozen=True, slots=True)
class Node:
    """A running node.  The roles that it does not have are None."""

    identity: Identity
    config: Config
    network: MeshNetwork
    ledger: Ledger
    directory: Directory
    offers: Sequence[ModelOffer]
    router: Router | None
    orchestrator: Orchestrator | None
    claimer: Claimer | None
    """None where the configuration leaves claiming to the command line."""
    started_at: float
    """In Unix seconds."""
    tasks: TaskTable
    """What passes through this node, for `open_live_of`."""

    def join_line(self) -> str:
        """What to paste on another machine, so that it joins through this node."""
        network = f" --network {self.config.network}" if self.config.network != "local" else ""
        ways = "".join(f" --bootstrap {address}" for address in self.network.invitations())
        return f"cactus-mesh run{ways}{network} --ledger {self.config.ledger}"

    async def hints(self) -> list[str]:
        """What stands between this node and work or pay on the ledger, and how to change it."""
        found: list[str] = []
        if self.orchestrator is not None:
            view = await self.ledger.orchestrator(self.identity.address)
            if view is None:
                found.append("without a stake no router gives work to this node; stake with: cactus-mesh stake AMOUNT")
        if self.router is not None:
            server = await self.ledger.server(self.identity.address)
            if server is None:
                found.append("this router is not registered on the ledger; register with: cactus-mesh register")
            elif not server.authorised(wall_clock() / 1_000):
                found.append(
                    "this router is not authorised, so every peer refuses its orders; the contract's administrator "
                    f"can run: cactus-mesh authorize {self.identity.peer_id}"
                )
        return found

    def status(self) -> dict[str, Any]:
        """A snapshot for people and programs; docs/operating.md lists the keys."""
        return {
            **self_snapshot(self.identity, self.config, self.config.roles, self.network, self.started_at),
            "serves": [offer.name for offer in self.offers],
            "orchestrators_known": len(self.directory.book),
            "models_known": self.directory.index.models(),
            "orchestrator": None if self.orchestrator is None else _serving(self.orchestrator),
            "router": None if self.router is None else _routing(self.router),
            "claimed_octas": None if self.claimer is None else self.claimer.claimed,
            "to_do": None if self.claimer is None else self.claimer.to_do,
        }

    def peers(self) -> list[dict[str, Any]]:
        return [peer_snapshot(peer) for peer in self.network.peers()]

    def answers(self) -> dict[str, Callable[[str], object]]:
        """The questions that the command line asks this node."""
        return {"status": lambda _: self.status(), **answers_about(self.network)}


def _serving(orchestrator: Orchestrator) -> dict[str, Any]:
    load = orchestrator.load
    about = {"slots": load.slots, "busy": load.busy, "served": orchestrator.served}
    memory = orchestrator.memory
    return about if memory is None else about | {"memory": asdict(memory)}


def _routing(router: Router) -> dict[str, int]:
    return {"running": router.running, "unsettled": router.unsettled, **router.audits}


def _audits_with_an_engine(config: Config) -> bool:
    return config.audit.engine and "router" in config.roles


# --- a node ------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def open_node(
    config: Config, home: Home, *, engine: Engine | None = None, meter: Meter | None = None
) -> AsyncIterator[Node]:
    """Join the network and serve in the configured roles.

    An orchestrator runs the configured models, or *engine*, which stays the caller's to close.  *meter* counts what
    passes; without one nothing is measured.
    Raises `NoBootstrap` when there is nobody to join through, `PortInUse`, a `LedgerError`, or what is wrong with the
    key file, a model or an address.
    """
    identity = identity_at(home)
    config = with_known_peers(config, home, wall_clock() / 1_000)
    listen = config.listen or default_listen()
    if "bootstrap" not in config.roles:
        config = await with_neighbours(config, home, listen)
    async with AsyncExitStack() as stack:
        if engine is None and ("orchestrator" in config.roles or _audits_with_an_engine(config)):
            engine = await stack.enter_async_context(open_models(config, home))
        book = stack.enter_context(open_book(home.book_file))
        ledger = await stack.enter_async_context(open_chain(config, meter))
        recorder = await stack.enter_async_context(open_recorder(home.records_file, config.records))
        notes = Notes(recorder, identity, ledger.chain)
        network = await stack.enter_async_context(open_mesh(identity, config, home, config.roles, listen))
        if "router" in config.roles:
            network = answering_itself(network, identity.public_key)
        services = await stack.enter_async_context(open_service_nursery())
        tasks = TaskTable()
        listeners = [watching(tasks)]
        if meter is not None:
            from cactus_mesh.observability.measured import MeasuredEngine, measuring

            listeners.append(measuring(meter))
            engine = MeasuredEngine(engine, meter) if engine is not None else None
            services.start_soon(meter.watch_loop)
        network = heard_network(network, listeners)
        node = await _Roles(stack, services, identity, config, home, network, ledger, book, engine, tasks, notes).open()
        if meter is not None:
            from cactus_mesh.observability.gauges import NodeCollector

            meter.registry.register(NodeCollector(node))
        yield node


@asynccontextmanager
async def open_live_of(node: Node, home: Home) -> AsyncIterator[Live]:
    """What *node* sees, from now on; its tasks from its start."""
    with open_book(home.book_file) as book:
        sources = Sources(
            identity=node.identity,
            config=node.config,
            network=node.network,
            ledger=node.ledger,
            book=book,
            tasks=node.tasks,
            roles=node.config.roles,
            started_at=node.started_at,
            directory=node.directory,
            more=node.status,
        )
        async with open_live(sources) as live:
            yield live


@dataclass(frozen=True, slots=True)
class _Roles:
    """Opens the configured roles on open adapters."""

    stack: AsyncExitStack
    services: trio.Nursery
    identity: Identity
    config: Config
    home: Home
    network: MeshNetwork
    ledger: Ledger
    book: Book
    engine: Engine | None
    tasks: TaskTable
    notes: Notes

    async def open(self) -> Node:
        config = self.config
        serves = self.engine if "orchestrator" in config.roles else None
        offers = offers_of(serves, config.price) if serves is not None else []
        directory = Directory(
            self.network, self.ledger, self.identity.public_key, config.network, config.matching, wall_clock
        )
        if "router" in config.roles or config.serving.delegated_slots:
            await self.services.start(directory.run)
        dispatcher = Dispatcher(self.network, directory, wall_clock, config.patience)
        router = await self._router(directory) if "router" in config.roles else None
        orchestrator: Orchestrator | None = None

        def load() -> Load:
            return orchestrator.load if orchestrator is not None else Load(0, 0)

        herald = Herald(
            self.identity,
            self.network,
            config.network,
            config.roles,
            offers=offers,
            engine=serves.name if serves is not None else "",
            region=config.region,
            load=load,
            peers_seen=lambda: max(len(directory.book), len(self.network.peers())),
        )
        if serves is not None:
            orchestrator = await self._orchestrator(serves, dispatcher, offers, herald)
        await self.services.start(herald.run)
        claimer = Claimer(self.identity, self.ledger, self.book, config.claims) if config.claims.automatic else None
        if claimer is not None:
            self.services.start_soon(claimer.run)
        return Node(
            self.identity,
            config,
            self.network,
            self.ledger,
            directory,
            offers,
            router,
            orchestrator,
            claimer,
            wall_clock() / 1_000,
            self.tasks,
        )

    async def _router(self, directory: Directory) -> Router:
        journal = self.stack.enter_context(open_journal(self.home.journal_file, now=wall_clock() // 1_000))
        audits = AuditMeans(
            policy=self.config.audit,
            table=known_thresholds(self.home.thresholds_file),
            dossier=self.stack.enter_context(open_dossier(self.home.audits_file)),
            engine=self.engine,
            disputed=lambda client, task: self.book.disputed(self.identity.address, TaskName(client, task)),
        )
        return await self.stack.enter_async_context(
            open_router(
                self.identity,
                self.network,
                self.ledger,
                directory,
                name=self.config.network,
                config=self.config.router,
                patience=self.config.patience,
                stake_cover=self.config.matching.stake_cover,
                journal=journal,
                audits=audits,
                routed=self.notes.routed,
            )
        )

    async def _orchestrator(
        self, engine: Engine, dispatcher: Dispatcher, offers: Sequence[ModelOffer], herald: Herald
    ) -> Orchestrator:
        return await self.stack.enter_async_context(
            open_orchestrator(
                self.identity,
                self.network,
                self.ledger,
                engine,
                dispatcher,
                offers=offers,
                policy=self.config.serving,
                load_changed=herald.load_changed,
                claimed=await answering_for(self.ledger, self.book, self.identity.address),
                served=self.notes.served,
            )
        )
