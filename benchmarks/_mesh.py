"""A mesh of processes for benchmarks: ledger, bootstrap peer, router and an orchestrator with a fixed engine.

``python -m benchmarks._mesh ROLE HOME JSON`` is one of its processes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

from cactus_mesh.config import Home, load_config
from cactus_mesh.control import ask_node, open_control
from cactus_mesh.identity import Address, load_key_file
from cactus_mesh.lifetime import open_lifetime
from cactus_mesh.node import identity_at, open_client, open_node
from cactus_mesh.testing.engine import FakeEngine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from cactus_mesh.client import Client
    from cactus_mesh.ports import Ledger

APT: Final = 100_000_000
ENGINE_SLOTS: Final = 256
LISTEN: Final = "/ip4/127.0.0.1/tcp/0"
READY_SECONDS: Final = 60.0


async def serve(role: str, home: Home, settings: dict[str, Any]) -> None:
    """One process: the role's node, until standard input closes."""
    config = load_config(home, {"roles": [role], "listen": [LISTEN], **settings}, environment={})
    engine = FakeEngine(slots=ENGINE_SLOTS) if role == "orchestrator" else None
    async with (
        open_lifetime(stdin_too=True) as lifetime,
        open_node(config, home, engine=engine) as node,
        open_control(home.control_file, lambda question: {"status": node.status, "peers": node.peers}[question]()),
    ):
        print(json.dumps(node.status()), flush=True)
        await lifetime.serving()


@asynccontextmanager
async def open_mesh() -> AsyncIterator[Client]:
    """A client in this process, connected, with a deposit, to a mesh that has found itself."""
    with tempfile.TemporaryDirectory(prefix="cactus-mesh-bench-") as folder:
        async with trio.open_nursery() as nursery:
            start = partial(_start, nursery, Path(folder))
            chain = await start("ledger", "-m", "cactus_mesh", "--home", f"{folder}/ledger", "devnet", "--port", "0")
            settings = {"ledger": chain["url"]}
            first = await _node(start, folder, "bootstrap", settings)
            settings["bootstrap"] = first["addresses"][:1]
            await _found(Path(folder), chain)
            for role in ("router", "orchestrator"):
                await _node(start, folder, role, settings)
            await _acquainted(Path(folder))
            config = load_config(_home(folder, "client"), settings, environment={})
            async with open_client(home=_home(folder, "client"), config=config) as client:
                yield client
            nursery.cancel_scope.cancel()


def _home(folder: str | Path, name: str) -> Home:
    return Home(Path(folder) / name, Path(folder) / name)


async def _node(start: Any, folder: str, role: str, settings: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = await start(role, "-m", "benchmarks._mesh", role, f"{folder}/{role}", json.dumps(settings))
    return found


async def _start(nursery: trio.Nursery, folder: Path, name: str, *arguments: str) -> dict[str, Any]:
    """Start a process that ends with the nursery; returns the first line of JSON that it prints."""
    if name == "ledger":
        arguments = (*arguments, "--json", "--until-stdin-closes")
    process: trio.Process = await nursery.start(
        partial(trio.run_process, [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    )
    line = bytearray()
    with trio.fail_after(READY_SECONDS):
        assert process.stdout is not None
        while b"\n" not in line:
            piece = await process.stdout.receive_some(65_536)
            if not piece:
                raise SystemExit(f"the benchmark's {name} process did not start")
            line += piece
    found: dict[str, Any] = json.loads(line)
    return found


async def _found(folder: Path, chain: dict[str, Any]) -> None:
    """Coins, stake, authorisation and deposit for everybody."""
    from cactus_mesh.ledger.client import open_ledger
    from cactus_mesh.ledger.dev import fund

    people = {name: identity_at(_home(folder, name)) for name in ("router", "orchestrator", "client")}
    for person in people.values():
        await fund(chain["url"], person.address, 20_000 * APT)
    ledger: Ledger
    async with open_ledger(chain["url"], Address(chain["contract"]), chain["chain_id"]) as ledger:
        admin = load_key_file(_home(folder, "ledger").devnet / "admin.key")
        await ledger.register_server(people["router"])
        await ledger.authorise_server(admin, people["router"].address, expires_at=2**40, max_budget=10**15)
        await ledger.register_orchestrator(people["orchestrator"], people["orchestrator"].public_key, 1_000 * APT)
        await ledger.deposit(people["client"], 10_000 * APT)


async def _acquainted(folder: Path) -> None:
    with trio.fail_after(READY_SECONDS):
        known = 0
        while not known:
            await trio.sleep(0.1)
            known = (await ask_node(_home(folder, "router").control_file, "status"))["orchestrators_known"]


if __name__ == "__main__":
    trio.run(serve, sys.argv[1], _home(Path(sys.argv[2]).parent, Path(sys.argv[2]).name), json.loads(sys.argv[3]))
