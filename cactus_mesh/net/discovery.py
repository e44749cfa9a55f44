"""Finding others and being found: bootstrap and remembered peers, provider records, look-ups with a time limit."""

from __future__ import annotations

import logging
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import trio
from libp2p.peer.id import ID

from cactus_mesh.concurrency import open_service_nursery
from cactus_mesh.errors import MeshError
from cactus_mesh.identity import PeerId
from cactus_mesh.net.addresses import parse_address
from cactus_mesh.net.dht import CLOSEST_PEERS, LEASE_SECONDS, record_key
from cactus_mesh.net.peers import write_file

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from cactus_mesh.net.connections import Connections
    from cactus_mesh.net.dht import Dht
    from cactus_mesh.net.shared import Shared

REFRESH_SECONDS: Final = LEASE_SECONDS / 5
"""Between announcements of a record; four may fail before its lease runs out."""
FIRST_RETRY_SECONDS: Final = 0.5
MAX_RETRY_SECONDS: Final = 30.0
"""While no other peer stores our record."""
LOOKUP_SECONDS: Final = 8.0
"""A look-up takes some hundred milliseconds; dead peers on the way cost up to 3 s a round."""
FIND_SECONDS: Final = 4.0
ENOUGH_PEERS: Final = 8
"""Connected; below that we keep trying the bootstrap peers, above we leave their places to newcomers."""
MAX_BOOTSTRAP_PAUSE_SECONDS: Final = 60.0
LONELY_PAUSE_SECONDS: Final = 5.0
"""At most between two attempts while nobody is connected: the cable may be back."""
STEADY_SECONDS: Final = 10.0
"""After which a connection counts as lasting, and its loss is met without a pause."""
KNOWN_TRIED: Final = 16
KNOWN_PAUSE_SECONDS: Final = 30.0
SAVE_SECONDS: Final = 60.0
TABLE_PAUSES_SECONDS: Final = (1.0, 5.0, 30.0)
"""Between the first refreshes of the routing table, when peers are just arriving."""
TABLE_REFRESH_SECONDS: Final = 600.0
PEER_KEY: Final = "peer/"
"""Followed by a peer's id: its record says where it is, also when it is reached through relays only."""
MOVED_SECONDS: Final = 1.0
"""From a change of our addresses to new records: relays are lost and won several at a time."""
MAX_RECORDS: Final = 64
"""Roles and models of one peer."""

log = logging.getLogger(__name__)


@asynccontextmanager
async def open_discovery(
    shared: Shared, dht: Dht, connections: Connections, connect: Callable[[PeerId], Awaitable[object]]
) -> AsyncIterator[Discovery]:
    discovery = Discovery(shared, dht, connections, connect)
    async with open_service_nursery() as nursery:
        for peer in _bootstrap_peers(shared):
            nursery.start_soon(discovery.stay_with, peer)
        nursery.start_soon(discovery.try_known)
        nursery.start_soon(discovery.keep_table)
        nursery.start_soon(discovery.keep_records)
        nursery.start_soon(discovery.keep_file)
        dht.table.start_periodic_refresh(nursery)
        yield discovery


def _bootstrap_peers(shared: Shared) -> list[PeerId]:
    """Put the bootstrap addresses into the address book; who they lead to, without ourselves."""
    found: dict[PeerId, None] = {}
    for text in shared.settings.bootstrap:
        peer = parse_address(text).peer
        if peer is not None and peer != shared.identity.peer_id:
            shared.book.learn(peer, [text])
            found[peer] = None
    return list(found)


class Discovery:
    def __init__(
        self, shared: Shared, dht: Dht, connections: Connections, connect: Callable[[PeerId], Awaitable[object]]
    ) -> None:
        self._shared = shared
        self._dht = dht
        self._connections = connections
        self._connect = connect
        self._retry_seconds: dict[str, float] = {}
        self._own_key = f"{PEER_KEY}{shared.identity.peer_id}"
        self._due: dict[str, float] = dict.fromkeys([*shared.provided, self._own_key], trio.current_time())
        self._more = trio.Event()
        self._hurried = trio.Event()
        self._table_grew = trio.Event()

    # --- records -------------------------------------------------------------------------------------------------

    async def provide(self, key: str) -> None:
        """Announce *key* now, and again and again from `keep_records`."""
        assert key in self._due or len(self._due) < MAX_RECORDS, "a peer has some roles and some models to announce"
        self._shared.provided.add(key)
        await self._announce(key)
        self._more.set()

    async def _announce(self, key: str) -> None:
        record = record_key(self._shared.hello.network, key)
        self._due[key] = trio.current_time() + LOOKUP_SECONDS  # not twice at once
        if key == self._own_key and not self._dht.has_addresses:
            self._due[key] = float("inf")  # until there is one
            return
        stored: list[bool] = []

        async def announce_at(peer: ID) -> None:
            stored.append(await self._dht.announce_at(peer, record))

        with trio.move_on_after(LOOKUP_SECONDS):
            async with trio.open_nursery() as nursery:
                for peer in await self._dht.closest(record):
                    nursery.start_soon(announce_at, peer)
        if any(stored):
            self._retry_seconds.pop(key, None)
            self._due[key] = trio.current_time() + REFRESH_SECONDS * random.uniform(0.8, 1.0)
        else:
            pause = self._retry_seconds.get(key, FIRST_RETRY_SECONDS)
            self._retry_seconds[key] = min(2 * pause, MAX_RETRY_SECONDS)
            self._due[key] = trio.current_time() + pause

    async def keep_records(self) -> None:
        while True:
            for key in [key for key, due in self._due.items() if due <= trio.current_time()]:
                await self._announce(key)
            self._more = trio.Event()
            with trio.move_on_at(min(self._due.values(), default=float("inf"))):
                await self._more.wait()

    async def providers(self, key: str) -> list[PeerId]:
        record = record_key(self._shared.hello.network, key)
        found = dict.fromkeys(PeerId(holder.to_base58()) for holder in self._dht.leases.holding(record))

        async def ask(peer: ID) -> None:
            found.update(dict.fromkeys(await self._dht.providers_at(peer, record)))

        with trio.move_on_after(LOOKUP_SECONDS):
            async with trio.open_nursery() as nursery:
                for peer in await self._dht.closest(record):
                    nursery.start_soon(ask, peer)
        found.pop(self._shared.identity.peer_id, None)
        return list(found)

    async def find(self, peer: PeerId) -> bool:
        """Learn where *peer* is, from its own record and from those who know it; whether there was anything new."""
        record = record_key(self._shared.hello.network, f"{PEER_KEY}{peer}")
        before = set(self._shared.book.addresses(peer))
        asked: set[ID] = set()

        async def ask(server: ID) -> None:
            if server not in asked:
                asked.add(server)
                await self._dht.providers_at(server, record)
                if not before.issuperset(self._shared.book.addresses(peer)):
                    nursery.cancel_scope.cancel()

        async def look_up() -> None:
            for server in await self._dht.closest(record):
                nursery.start_soon(ask, server)

        with trio.move_on_after(FIND_SECONDS):
            async with trio.open_nursery() as nursery:
                for server in self._dht.nearest_known(record):
                    nursery.start_soon(ask, server)
                nursery.start_soon(look_up)
                nursery.start_soon(self._dht.closest, ID.from_string(peer).to_bytes())
        return not before.issuperset(self._shared.book.addresses(peer))

    def moved(self) -> None:
        """Our addresses have changed: our records must say so."""
        soon = trio.current_time() + MOVED_SECONDS
        self._due = {key: min(due, soon) for key, due in self._due.items()} | {self._own_key: soon}
        self._more.set()

    def hurry(self) -> None:
        """The machine is in another network: try the bootstrap peers at once."""
        self._hurried.set()
        self._hurried = trio.Event()

    # --- company -------------------------------------------------------------------------------------------------

    async def stay_with(self, peer: PeerId) -> None:
        """Try a bootstrap peer again and again while we know too few others."""
        pause = FIRST_RETRY_SECONDS
        while True:
            change = self._connections.next_change()
            if self._connections.best(peer) is not None or len(self._connections.conns()) >= ENOUGH_PEERS:
                with trio.move_on_after(STEADY_SECONDS) as steady:
                    await change.wait()
                if steady.cancelled_caught:
                    pause = FIRST_RETRY_SECONDS
                continue
            if pause > FIRST_RETRY_SECONDS:
                with trio.move_on_after(pause * random.uniform(0.8, 1.2)):
                    await self._hurried.wait()
            alone = not self._connections.conns()
            pause = min(2 * pause, LONELY_PAUSE_SECONDS if alone else MAX_BOOTSTRAP_PAUSE_SECONDS)
            self._learn_bootstrap(peer)
            try:
                await self._connect(peer)
            except MeshError as error:
                log.warning("a bootstrap peer does not answer", extra={"peer": peer, "reason": str(error)})
                for address in self._shared.book.addresses(peer):
                    if f"{address}/p2p/{peer}" not in self._shared.attempts:
                        self._shared.attempted(f"{address}/p2p/{peer}", str(error))

    def _learn_bootstrap(self, peer: PeerId) -> None:
        """As the user said where *peer* is, whatever it said itself since then."""
        given = [text for text in self._shared.settings.bootstrap if parse_address(text).peer == peer]
        self._shared.book.learn(peer, given)

    async def try_known(self) -> None:
        """Try the peers of an earlier run, beside the bootstrap peers; again while nobody is there."""
        while True:
            if len(self._connections.conns()) < ENOUGH_PEERS:
                async with trio.open_nursery() as nursery:
                    for peer in self._shared.book.remembered()[:KNOWN_TRIED]:
                        nursery.start_soon(self._try, peer)
            await trio.sleep(KNOWN_PAUSE_SECONDS)
            while self._connections.conns():
                await self._connections.next_change().wait()

    async def _try(self, peer: PeerId) -> None:
        try:
            await self._connect(peer)
        except MeshError as error:
            log.info("a peer of an earlier run does not answer", extra={"peer": peer, "reason": str(error)})

    async def keep_table(self) -> None:
        """Have those who answer DHT queries in the routing table, and look around for more."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look_around)
            while True:
                change = self._connections.next_change()
                for conn in list(self._connections.conns()):
                    if conn.about is None:
                        continue
                    if not conn.about.dht:
                        self._dht.remove_server(conn.session.peer)
                    elif await self._dht.add_server(conn.session.peer):
                        self._meet(conn.session.peer, nursery)
                await change.wait()

    def _meet(self, server: PeerId, nursery: trio.Nursery) -> None:
        """There is somebody new to ask, and to store our records: those that nobody stores yet are due now, and in a
        network as small as that everybody should have all."""
        self._table_grew.set()
        self._due.update(dict.fromkeys(self._retry_seconds, trio.current_time()))
        self._more.set()
        if self._dht.table.size() <= CLOSEST_PEERS:
            nursery.start_soon(self._announce_all_at, ID.from_string(server))

    async def _announce_all_at(self, server: ID) -> None:
        for key in [key for key in self._due if key not in self._retry_seconds]:
            if key != self._own_key or self._dht.has_addresses:
                await self._dht.announce_at(server, record_key(self._shared.hello.network, key))

    async def _look_around(self) -> None:
        own = ID.from_string(self._shared.identity.peer_id).to_bytes()
        pauses = iter(TABLE_PAUSES_SECONDS)
        while True:
            if not self._dht.table.size():
                self._table_grew = trio.Event()
                await self._table_grew.wait()
            with trio.move_on_after(LOOKUP_SECONDS):
                await self._dht.closest(own)
            await trio.sleep(next(pauses, TABLE_REFRESH_SECONDS))

    async def keep_file(self) -> None:
        """Write the peers that were of use, now and then and at the end."""
        path = self._shared.settings.known_peers_file
        if path is None:
            return
        while True:
            try:
                await trio.sleep(SAVE_SECONDS)
            finally:
                if self._shared.book.remembered():
                    await self._write(path)

    async def _write(self, path: Path) -> None:
        data = self._shared.book.dump(self._shared.hello.network)
        with trio.CancelScope(shield=True):
            try:
                await trio.to_thread.run_sync(write_file, path, data)
            except OSError as error:
                log.warning("cannot write the known peers", extra={"path": str(path), "reason": str(error)})
