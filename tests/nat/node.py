"""``python -m tests.nat.node --home HOME ROLE SETTINGS ENGINE``: a node with a fake engine that takes orders.

One line of JSON each on its standard input, with whose end it ends; the answers go to its standard output.  ROLE is
client, router, orchestrator, relay or bootstrap; purse, who enrols others at the ledger; or crowd, many clients.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import trio

from cactus_mesh.adapters import identity_at
from cactus_mesh.clients import open_client
from cactus_mesh.config import Home, find_home, load_config
from cactus_mesh.errors import MeshError
from cactus_mesh.identity import Address, PeerId, load_key_file
from cactus_mesh.ledger.client import open_ledger
from cactus_mesh.ledger.dev import fund
from cactus_mesh.node import open_node
from cactus_mesh.terminal import set_up_logging
from cactus_mesh.testing.engine import FAKE_MODEL, FAKE_TEXT, FakeEngine
from tests.nat.routers import PORT

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable

    from cactus_mesh.client import Client
    from cactus_mesh.net.network import MeshNetwork
    from cactus_mesh.ports import Call, Ledger

    Status = Callable[[], dict[str, Any]]

APT: Final = 100_000_000
LISTEN: Final = f"/ip4/0.0.0.0/tcp/{PORT}"
ECHO: Final = "lab/echo"
PINGS: Final = 9
BULK_BYTES: Final = 1 << 18
BULKS: Final = 12
BULKS_AT_ONCE: Final = 4
POLL_SECONDS: Final = 0.02
MEASURE_SECONDS: Final = 30.0
ORDERS_AT_ONCE: Final = 64


class Orders:
    """What can be asked of any node; *client* is there in clients."""

    def __init__(
        self, network: MeshNetwork, status: Callable[[], dict[str, Any]], client: Client | None = None
    ) -> None:
        self._network = network
        self._status = status
        self._client = client

    async def status(self) -> dict[str, Any]:
        return {**self._status(), "peers": self._peers(), "addresses": self._network.addresses()}

    def _peers(self) -> list[dict[str, Any]]:
        return [
            {"peer": peer.peer, "roles": peer.roles, "relayed": peer.relayed, "address": peer.address}
            for peer in self._network.peers()
        ]

    async def connect(self, peer: str, addresses: tuple[str, ...] = ()) -> dict[str, Any]:
        began = trio.current_time()
        found = await self._network.connect(PeerId(peer), addresses)
        return {"relayed": found.relayed, "seconds": trio.current_time() - began, "address": found.address}

    async def path(self, peer: str, patience: float) -> dict[str, Any]:
        """Connect to *peer* by its key alone, measure the path, and again when it has become direct.

        Waits *patience* seconds for that.  Seconds count from the beginning of the connecting.
        """
        began = trio.current_time()
        path = await self.connect(peer)
        found: dict[str, Any] = {"direct_seconds": None, "relayed": None, "direct": None}

        async def watch() -> None:
            while self._relayed(peer) is not False:  # noqa: ASYNC110 - the network tells nobody
                await trio.sleep(POLL_SECONDS)
            found["direct_seconds"] = trio.current_time() - began

        with trio.CancelScope(deadline=began + patience):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch)
                if path["relayed"]:
                    with trio.CancelScope(shield=True), trio.fail_after(MEASURE_SECONDS):
                        found["relayed"] = await self.measure(peer, relayed=True)
        found["why_relayed"] = self._why_relayed(peer)
        if found["direct_seconds"] is not None:
            found["direct"] = await self.measure(peer, relayed=False)
        return found

    def _relayed(self, peer: str) -> bool | None:
        return next((each.relayed for each in self._network.peers() if each.peer == peer), None)

    def _why_relayed(self, peer: str) -> str:
        return next((each.why_relayed for each in self._network.peers() if each.peer == peer and each.relayed), "")

    async def measure(self, peer: str, *, relayed: bool) -> dict[str, float | None]:
        """The median round trip in ms, and MB/s there and back; None where the path changed meanwhile."""
        found: dict[str, float | None] = {"rtt_ms": None, "mb_per_s": None}
        trips = sorted([await self._echo(peer, b"x") for _ in range(PINGS)])
        if self._relayed(peer) is relayed:
            found["rtt_ms"] = trips[PINGS // 2] * 1e3
        limiter = trio.CapacityLimiter(BULKS_AT_ONCE)

        async def one() -> None:
            async with limiter:
                await self._echo(peer, bytes(BULK_BYTES))

        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(BULKS):
                nursery.start_soon(one)
        if self._relayed(peer) is relayed:
            found["mb_per_s"] = BULKS * BULK_BYTES / (trio.current_time() - began) / 1e6
        return found

    async def _echo(self, peer: str, payload: bytes) -> float:
        began = trio.current_time()
        answer = await self._network.ask(PeerId(peer), ECHO, payload)
        assert answer == payload
        return trio.current_time() - began

    async def ask(self, model: str, max_tokens: int = 1_024, deadline: float = 30.0) -> dict[str, Any]:
        """A streamed task; how it went, and the longest wait between two pieces."""
        assert self._client is not None, "clients ask"
        began = last = trio.current_time()
        first, widest, text = None, 0.0, ""
        answer = self._client.generate("go", model=model, max_tokens=max_tokens, deadline_seconds=deadline)
        async for piece in answer:
            now = trio.current_time()
            first = first or now - began
            widest = max(widest, now - last)
            last = now
            text += piece
            print(json.dumps({"event": "piece", "model": model}), flush=True)
        result = answer.result
        return {
            "text": text,
            "tokens": len(result.token_ids),
            "router": result.router,
            "orchestrator": result.orchestrator,
            "first_seconds": first,
            "widest_seconds": widest,
            "seconds": trio.current_time() - began,
        }


class Purse:
    """Gives coins, offices and stakes to the keys of other homes; it lives where the ledger can be reached."""

    def __init__(self, ledger: Ledger, url: str, admin: str) -> None:
        self._ledger = ledger
        self._url = url
        self._admin = load_key_file(Path(admin))

    async def enrol(self, home: str, role: str, stake: int = 1_000 * APT) -> dict[str, Any]:
        identity = identity_at(Home(Path(home), Path(home)))
        await fund(self._url, identity.address, 20_000 * APT)
        match role:
            case "client":
                await self._ledger.deposit(identity, 10_000 * APT)
            case "router":
                await self._ledger.register_server(identity)
                await self._ledger.authorise_server(self._admin, identity.address, 2**40, 10**15)
            case "orchestrator":
                await self._ledger.register_orchestrator(identity, identity.public_key, stake)
        return {"peer_id": identity.peer_id}


class Crowd:
    """Many clients in one process, each a peer of its own with a home in *home*."""

    def __init__(self, home: Path, settings: dict[str, Any]) -> None:
        self._home = home
        self._settings = settings

    async def join(self, model: str, first: int, count: int, patience: float) -> list[float | str]:
        """All at once: join, find a router, have a task done, leave; the seconds of each, or how it failed."""
        found: list[float | str] = []

        async def one(name: str) -> None:
            began = trio.current_time()
            try:
                found.append(await self._one(name, model, patience) - began)
            except MeshError as error:
                found.append(error.code)
            except trio.TooSlowError:
                found.append("lab.late")

        async with trio.open_nursery() as nursery:
            for number in range(first, first + count):
                nursery.start_soon(one, f"{number}")
        return found

    async def _one(self, name: str, model: str, patience: float) -> float:
        """When it had its answer's first piece."""
        home = Home(self._home / name, self._home / name)
        with trio.fail_after(patience):
            async with open_client(home=home, config=load_config(home, self._settings, environment={})) as client:
                answer = client.generate("go", model=model, deadline_seconds=patience)
                await anext(aiter(answer))
                at = trio.current_time()
                await answer.wait()
                return at


Obedient = Orders | Purse | Crowd


async def _echo(call: Call) -> None:
    await call.send(call.payload)


@asynccontextmanager
async def open_role(role: str, home: Home, settings: dict[str, Any], engine: dict[str, Any]) -> AsyncIterator[Obedient]:
    if role == "purse":
        admin = settings.pop("admin")
        config = load_config(home, settings, environment={})
        async with open_ledger(config.ledger, Address(config.contract), config.chain_id) as ledger:
            yield Purse(ledger, config.ledger, admin)
    elif role == "crowd":
        yield Crowd(home.state, settings)
    elif role == "client":
        config = load_config(home, settings, environment={})
        async with open_client(home=home, config=config) as client:
            network = cast("MeshNetwork", client.network)
            network.serve(ECHO, _echo, at_once=64)
            yield Orders(network, lambda: {"failed_dials": network.status().attempts}, client)
    else:
        config = load_config(home, {"roles": role.split("+"), "listen": [LISTEN], **settings}, environment={})
        fixed = _engine(**engine) if "orchestrator" in role else None
        async with open_node(config, home, engine=fixed) as node:
            node.network.serve(ECHO, _echo, at_once=64)
            yield Orders(node.network, node.status)


def _engine(*, model: str = "fake", text: str = FAKE_TEXT, **others: Any) -> FakeEngine:
    shape = replace(FAKE_MODEL, name=model, digest=hashlib.sha256(model.encode()).digest())
    return FakeEngine(text, model=shape, **others)


async def _obey(orders: Obedient, line: bytes, limiter: trio.CapacityLimiter) -> None:
    wanted = json.loads(line)
    number, name = wanted.pop("id"), wanted.pop("do")
    try:
        async with limiter:
            answer = {"id": number, "answer": await getattr(orders, name)(**wanted)}
    except MeshError as error:
        answer = {"id": number, "error": {"code": error.code, "message": str(error)}}
    print(json.dumps(answer), flush=True)


async def _lines() -> AsyncGenerator[bytes]:
    """Of standard input, which is a pipe."""
    buffer = bytearray()
    async with trio.lowlevel.FdStream(os.dup(0)) as stream:
        async for piece in stream:
            *lines, rest = (bytes(buffer) + piece).split(b"\n")
            buffer[:] = rest
            for line in lines:
                yield line


async def serve(role: str, home: Home, settings: dict[str, Any], engine: dict[str, Any]) -> None:
    limiter = trio.CapacityLimiter(ORDERS_AT_ONCE)
    try:
        async with open_role(role, home, settings, engine) as orders, trio.open_nursery() as nursery:
            peer = identity_at(home).peer_id if isinstance(orders, Orders) else ""
            known = await orders.status() if isinstance(orders, Orders) else {}
            print(json.dumps({"event": "ready", **known, "peer_id": peer}), flush=True)
            async with contextlib.aclosing(_lines()) as lines:
                async for line in lines:
                    nursery.start_soon(_obey, orders, line, limiter)
            nursery.cancel_scope.cancel()
    except MeshError as error:
        print(json.dumps({"error": {"code": error.code, "message": str(error)}}), flush=True)
        sys.exit(1)


if __name__ == "__main__":
    _, _, place, its_role, its_settings, its_engine = sys.argv
    set_up_logging(1, "json")
    trio.run(serve, its_role, find_home(Path(place)), json.loads(its_settings), json.loads(its_engine))
