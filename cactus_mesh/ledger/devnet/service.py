"""Puts the embedded ledger together: its folder, its administrator's key, its database, its port."""

from __future__ import annotations

import errno
import logging
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path  # noqa: TC003 - a field of a dataclass that others may inspect
from typing import TYPE_CHECKING, Final

import trio

from cactus_mesh.concurrency import open_service_nursery
from cactus_mesh.errors import AddressMalformed, PortInUse, StateMalformed, UsageError
from cactus_mesh.identity import Address, Identity, create_key_file, load_key_file
from cactus_mesh.ledger import rules
from cactus_mesh.ledger.dev import DEFAULT_PORT, DEVNET_CHAIN_ID, DEVNET_CONTRACT, LOCAL_NODE_CHAIN_ID, PUBLIC_CHAIN_IDS
from cactus_mesh.ledger.devnet.api import Api
from cactus_mesh.ledger.devnet.http import MAX_CONNECTIONS, Server
from cactus_mesh.ledger.devnet.sequencer import Sequencer
from cactus_mesh.ledger.devnet.store import open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from cactus_mesh.ledger.rules import Params

DATABASE: Final = "ledger.sqlite"
ADMIN_KEY: Final = "admin.key"
GENESIS_GRANT: Final = 10**13
"""100,000 coins for the administrator, so that it can pay the fees of its own transactions."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DevnetSettings:
    """*home* keeps the ledger and its administrator's key.  Port 0 takes any free one."""

    home: Path
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    chain_id: int = DEVNET_CHAIN_ID


@dataclass(frozen=True, slots=True)
class Devnet:
    """A running ledger.  *url* is what `open_ledger` and network files take."""

    url: str
    chain_id: int
    contract: Address
    admin: Identity


@asynccontextmanager
async def open_devnet(
    home: Path,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    chain_id: int = DEVNET_CHAIN_ID,
    params: Params | None = None,
    clock: Callable[[], float] = time.time,
) -> AsyncIterator[Devnet]:
    """Serve the ledger kept in *home*; leaving the block stops it, with everything that was answered on disk.

    *params* are those of a new ledger.  Raises `PortInUse`, `StateInUse`, `StateMalformed` or a key file's error.
    """
    if chain_id in PUBLIC_CHAIN_IDS | {LOCAL_NODE_CHAIN_ID} or not 0 < chain_id < 256:
        raise UsageError(
            f"chain id {chain_id} is that of a public or local Aptos chain, or no chain id; the embedded ledger uses "
            f"another, by default {DEVNET_CHAIN_ID}"
        )
    admin = _prepare(home)
    genesis = rules.init(chain_id, DEVNET_CONTRACT, admin.address, params)
    rules.mint(genesis, admin.address, GENESIS_GRANT)
    with open_store(home / DATABASE, genesis) as (store, chain):
        sequencer = Sequencer(chain, store, clock)
        api = Api(sequencer)
        server = Server(api.answer, api.refuse)
        async with open_service_nursery() as nursery:
            nursery.start_soon(sequencer.run)
            listeners = await _listen(host, port)
            nursery.start_soon(_serve, server, listeners)
            bound = listeners[0].socket.getsockname()[1]
            log.info("the embedded ledger is ready", extra={"port": bound, "version": chain.version})
            yield Devnet(f"http://{_in_url(host)}:{bound}", chain_id, DEVNET_CONTRACT, admin)


async def serve_devnet(
    settings: DevnetSettings, *, task_status: trio.TaskStatus[Devnet] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve until cancelled."""
    async with open_devnet(settings.home, settings.host, settings.port, chain_id=settings.chain_id) as devnet:
        task_status.started(devnet)
        await trio.sleep_forever()


async def _serve(server: Server, listeners: list[trio.SocketListener]) -> None:
    await trio.serve_listeners(server.serve_connection, listeners)


async def _listen(host: str, port: int) -> list[trio.SocketListener]:
    if not 0 <= port <= 65_535:
        raise AddressMalformed(f"{port} is no port; choose one from 1 to 65535, or 0 for any free one")
    try:
        return await trio.open_tcp_listeners(port, host=host, backlog=MAX_CONNECTIONS)
    except OSError as error:
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            raise PortInUse(
                f"cannot listen on {host}:{port} ({error.strerror}); stop what uses it, or choose another with --port"
            ) from None
        raise AddressMalformed(f"cannot listen on {host!r}: {error}; use an address of this machine") from None


def _prepare(home: Path) -> Identity:
    """Make the folder and the administrator's key on first use; later the key must still be there."""
    path = home / ADMIN_KEY
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        present = path.exists()
    except OSError as error:
        raise StateMalformed(f"cannot use the folder {home} ({error.strerror}); choose another with --home") from None
    if not present:
        if (home / DATABASE).exists():
            raise StateMalformed(
                f"{path} is gone but the ledger that it administers is still in {home}; restore it, or move the whole "
                "folder away to begin anew"
            )
        create_key_file(path, Identity.generate())
    return load_key_file(path)


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
