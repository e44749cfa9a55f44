"""A mesh of processes with deterministic engines: real sockets, signatures and settlement, no model.

``python -m cactus_mesh.testing.mesh --home HOME ROLE SETTINGS ENGINE`` is one of its processes; it logs as much as
``MESH_VERBOSITY`` in the environment says.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

from cactus_mesh.adapters import identity_at
from cactus_mesh.clients import open_client
from cactus_mesh.config import find_home, load_config
from cactus_mesh.control import ask_node, open_control
from cactus_mesh.gateway.scrape import open_scrape
from cactus_mesh.identity import Address, load_key_file
from cactus_mesh.ledger.client import open_ledger
from cactus_mesh.ledger.dev import fund
from cactus_mesh.lifetime import open_lifetime
from cactus_mesh.node import open_live_of, open_node
from cactus_mesh.observability.meter import Meter
from cactus_mesh.processes import open_family
from cactus_mesh.terminal import set_up_logging
from cactus_mesh.testing.engine import FAKE_MODEL, FakeEngine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from cactus_mesh.client import Client
    from cactus_mesh.config import Config, Home
    from cactus_mesh.identity import Identity
    from cactus_mesh.ports import Ledger
    from cactus_mesh.processes import Child, Family

APT: Final = 100_000_000
LISTEN: Final = "/ip4/127.0.0.1/tcp/0"
FIND_SECONDS: Final = 60.0
MODULE: Final = "cactus_mesh.testing.mesh"


@dataclass
class ProcessMesh:
    """A ledger and a bootstrap peer that run, and whoever is started beside them."""

    family: Family
    chain: dict[str, Any]
    bootstrap: str
    children: dict[str, Child] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, Any]:
        return {"ledger": self.chain["url"], "bootstrap": [self.bootstrap]}

    def ledger(self) -> AbstractAsyncContextManager[Ledger]:
        return open_ledger(self.chain["url"], Address(self.chain["contract"]), self.chain["chain_id"])

    async def fund(self, name: str) -> Identity:
        """The key of *name*, with coins."""
        identity = identity_at(self.family.home(name))
        await fund(self.chain["url"], identity.address, 20_000 * APT)
        return identity

    async def router(self, name: str = "router", *, authorised: bool = True, **settings: object) -> Child:
        identity = await self.fund(name)
        if authorised:
            admin = load_key_file(self.family.home("ledger").devnet / "admin.key")
            async with self.ledger() as ledger:
                await ledger.register_server(identity)
                await ledger.authorise_server(admin, identity.address, expires_at=2**40, max_budget=10**15)
        return await self.start(name, "router", settings)

    async def orchestrator(
        self,
        name: str = "orchestrator",
        *,
        stake: int = 1_000 * APT,
        engine: dict[str, Any] | None = None,
        **settings: object,
    ) -> Child:
        """*engine* are `FakeEngine`'s arguments, and the ``name`` under which it is offered."""
        identity = await self.fund(name)
        async with self.ledger() as ledger:
            await ledger.register_orchestrator(identity, identity.public_key, stake)
        return await self.start(name, "orchestrator", settings, engine)

    async def start(
        self, name: str, role: str, settings: dict[str, Any], engine: dict[str, Any] | None = None
    ) -> Child:
        """Start a node with the key at *name* and wait until it is ready."""
        everything = json.dumps({**self.settings, **settings})
        child = await self.family.start(name, role, everything, json.dumps(engine or {}), module=MODULE)
        await child.ready()
        self.children[name] = child
        return child

    async def acquainted(self, name: str = "router", orchestrators: int = 1) -> None:
        """Wait until the node *name* knows that many orchestrators."""
        known = -1
        with trio.fail_after(FIND_SECONDS):
            while known < orchestrators:
                await trio.sleep(0.05)
                known = (await ask_node(self.family.home(name).control_file, "status"))["orchestrators_known"]

    @asynccontextmanager
    async def client(self, name: str = "client", *, deposit: int = 1_000 * APT) -> AsyncIterator[Client]:
        """A client in this process, with a deposit."""
        identity = await self.fund(name)
        async with self.ledger() as ledger:
            await ledger.deposit(identity, deposit)
        home = self.family.home(name)
        config = load_config(home, self.settings, environment={})
        async with open_client(home=home, config=config) as client:
            yield client


@asynccontextmanager
async def open_process_mesh() -> AsyncIterator[ProcessMesh]:
    """Start a ledger and a bootstrap peer, on loopback; leaving the block ends every process."""
    async with open_family(prefix="cactus-mesh-test-") as family:
        ledger = await family.start("ledger", "devnet", "--port", "0", "--json", "--until-stdin-closes")
        chain = await ledger.ready()
        common = ("--ledger", chain["url"], "--listen", LISTEN, "--json", "--until-stdin-closes")
        first = await family.start("bootstrap", "run", "--role", "bootstrap", "--role", "relay", *common)
        yield ProcessMesh(family, chain, (await first.ready())["addresses"][0], {"ledger": ledger, "bootstrap": first})


def _engine(*, name: str = FAKE_MODEL.name, **arguments: Any) -> FakeEngine:
    return FakeEngine(model=replace(FAKE_MODEL, name=name), **arguments)


async def serve(role: str, home: Home, settings: dict[str, Any], engine: dict[str, Any]) -> None:
    """One process: the role's node, until standard input closes."""
    config: Config = load_config(home, {"roles": [role], "listen": [LISTEN], **settings}, environment={})
    fixed = _engine(**engine) if role == "orchestrator" else None
    meter = Meter() if config.metrics.listen else None
    answers: dict[str, Callable[[str], object]] = {}
    async with (
        open_lifetime(stdin_too=True) as lifetime,
        open_control(home.control_file, answers),
        open_node(config, home, engine=fixed, meter=meter) as node,
        open_live_of(node, home) as live,
        open_scrape(config.metrics.listen, meter.text) if meter else nullcontext() as url,
    ):
        answers |= node.answers() | {"live": lambda _: live.fresh()}
        print(json.dumps({"event": "ready", **node.status(), "metrics": url}), flush=True)
        await lifetime.serving()


if __name__ == "__main__":
    set_up_logging(int(os.environ.get("MESH_VERBOSITY", "0")), "json")
    _, _, place, its_role, its_settings, its_engine = sys.argv  # --home PLACE …, as `Family.start` calls every module
    trio.run(serve, its_role, find_home(Path(place)), json.loads(its_settings), json.loads(its_engine))
