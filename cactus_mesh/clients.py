"""Clients from a configuration: one of its own, or one beside a running node; and what is told of the first.

Leaving the block of one ends its tasks.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, cast

from cactus_mesh.adapters import client_listen, first_connection, identity_at, open_chain, open_mesh
from cactus_mesh.book import open_book
from cactus_mesh.claims import claim_beside
from cactus_mesh.client import open_client_role
from cactus_mesh.clock import wall_clock
from cactus_mesh.concurrency import open_service_nursery
from cactus_mesh.config import Home, find_home, load_config
from cactus_mesh.heard import heard_network
from cactus_mesh.known import require_way_in, with_known_peers
from cactus_mesh.live import Sources, open_live, watching
from cactus_mesh.noting import Notes
from cactus_mesh.records import open_recorder
from cactus_mesh.snapshot import answers_about, self_snapshot

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from os import PathLike

    from cactus_mesh.client import Client
    from cactus_mesh.config import Config
    from cactus_mesh.live import Live, TaskTable
    from cactus_mesh.net.network import MeshNetwork
    from cactus_mesh.node import Node

ROLES: Final = ("client",)


@asynccontextmanager
async def open_client(
    *,
    bootstrap: Sequence[str] | None = None,
    network: str | None = None,
    ledger: str | None = None,
    home: str | PathLike[str] | Home | None = None,
    config: Config | None = None,
    tasks: TaskTable | None = None,
) -> AsyncIterator[Client]:
    """A client of the mesh, for use from trio.

    What is not given comes from the environment and ``config.toml``, as for the command line.  The key at *home* is
    made on first use; its account needs a deposit before the first task.  *tasks* takes note of what passes.
    Raises `NoBootstrap`, `PeerUnreachable` naming each address tried, or a `LedgerError`.
    """
    place = home if isinstance(home, Home) else find_home(home)
    if config is None:
        given = {"bootstrap": None if bootstrap is None else list(bootstrap), "network": network, "ledger": ledger}
        config = load_config(place, given)
    config = with_known_peers(config, place, wall_clock() / 1_000)
    require_way_in(config, place)
    identity = identity_at(place)
    with open_book(place.book_file) as book:
        async with (
            open_chain(config) as open_ledger,
            open_mesh(identity, config, place, ROLES, client_listen()) as open_network,
            open_recorder(place.records_file, config.records) as recorder,
            open_service_nursery() as services,
        ):
            await first_connection(open_network)
            claim_beside(services, identity, open_ledger, book, config.claims)
            async with open_client_role(
                identity,
                open_network if tasks is None else heard_network(open_network, [watching(tasks)]),
                open_ledger,
                config.client,
                consented=lambda consent: book.asked(consent.client, consent.task_id, consent.expires_at),
                ended=Notes(recorder, identity, open_ledger.chain).asked,
                purse_file=place.purse_file,
            ) as client:
                yield client


@asynccontextmanager
async def open_client_beside(node: Node, home: Home) -> AsyncIterator[Client]:
    """A client on a running node's key and connections; when the node is a router, it asks that one first."""
    with open_book(home.book_file) as book:
        async with (
            open_recorder(home.records_file, node.config.records) as recorder,
            open_client_role(
                node.identity,
                node.network,
                node.ledger,
                node.config.client,
                consented=lambda consent: book.asked(consent.client, consent.task_id, consent.expires_at),
                ended=Notes(recorder, node.identity, node.ledger.chain).asked,
                purse_file=home.purse_file,
                own_router=node.router is not None,
            ) as client,
        ):
            yield client


@asynccontextmanager
async def open_live_of_client(client: Client, config: Config, home: Home, tasks: TaskTable) -> AsyncIterator[Live]:
    """What *client* sees, from now on; *tasks* are those that `open_client` was given."""
    with open_book(home.book_file) as book:
        sources = Sources(
            identity=client.identity,
            config=config,
            network=client.network,
            ledger=client.ledger,
            book=book,
            tasks=tasks,
            roles=ROLES,
            started_at=wall_clock() / 1_000,
            spent_today=client.spent_today,
        )
        async with open_live(sources) as live:
            yield live


def answers_of_client(client: Client, config: Config, live: Live) -> dict[str, Callable[[str], object]]:
    """The questions of the command line to a process that is only a client; as `Node.answers`."""
    network, started_at = cast("MeshNetwork", client.network), wall_clock() / 1_000

    def status() -> dict[str, Any]:
        about = self_snapshot(client.identity, config, ROLES, network, started_at)
        return {**about, "spent_today_octas": client.spent_today()}

    return {"status": lambda _: status(), "live": lambda _: live.fresh(), **answers_about(network)}
