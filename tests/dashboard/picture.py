"""The README's picture: ``python -m tests.dashboard.picture [--all] [--whole] [FOLDER]`` starts a mesh and takes it.

``--all`` takes it in dark and on a phone too, ``--whole`` from top to bottom.
Real processes, sockets, signatures and settlement; the engines are deterministic ones without a model.
"""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from cactus_mesh.clients import open_client_beside
from cactus_mesh.concurrency import open_service_nursery
from cactus_mesh.config import load_config
from cactus_mesh.gateway.server import open_gateway
from cactus_mesh.node import open_live_of, open_node
from cactus_mesh.testing.engine import FAKE_MODEL, FakeEngine
from cactus_mesh.testing.mesh import APT, LISTEN, open_process_mesh
from tests.dashboard.browser import chromium, open_chromium

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from cactus_mesh.client import Client
    from cactus_mesh.testing.mesh import ProcessMesh

FOLDER: Final = Path(__file__).parents[2] / "docs" / "pictures"
MODEL: Final = "cactus-demo"
TEXT: Final = (
    "A router is the entry point of the mesh. It checks what a client has signed, finds the orchestrators that serve "
    "the model, and gives the task to the one that is likely to do it best. When that one is lost in the middle, the "
    "next one goes on from the last token, and the client does not notice. At the end the router checks the receipt, "
    "and settles many tasks in one transaction, so that everybody is paid for what they did and for nothing else."
)
PROMPT: Final = "What is a router?"
WARM_SECONDS: Final = 100
SHOTS: Final = (
    ("dashboard", 1360, 1060, "light"),
    ("dashboard-dark", 1360, 1060, "dark"),
    ("dashboard-phone", 390, 844, "light"),
)


@asynccontextmanager
async def open_show() -> AsyncIterator[str]:
    """The URL of a dashboard with something to see."""
    async with open_process_mesh() as mesh:
        async with trio.open_nursery() as nursery:
            for name, seconds in (("north", 0.028), ("east", 0.035), ("south", 0.045)):
                engine = {"text": TEXT, "delay_seconds": seconds, "slots": 8, "name": MODEL}
                nursery.start_soon(lambda name=name, engine=engine: mesh.orchestrator(name, engine=engine))
            for name in ("router-1", "router-2"):
                nursery.start_soon(mesh.router, name)
        async with (
            _own_node(mesh) as url,
            mesh.client("alice") as alice,
            mesh.client("bob") as bob,
            open_service_nursery() as nursery,
        ):
            nursery.start_soon(_busy, alice, 3.1)
            nursery.start_soon(_busy, bob, 4.7)
            yield url


@asynccontextmanager
async def _own_node(mesh: ProcessMesh) -> AsyncIterator[str]:
    identity = await mesh.fund("own")
    async with mesh.ledger() as ledger:
        await ledger.register_orchestrator(identity, identity.public_key, 1_500 * APT)
        await ledger.request_unstake(identity, identity.address, 100 * APT)
        await ledger.deposit(identity, 20 * APT)
        await ledger.request_withdrawal(identity, 2 * APT)
    home = mesh.family.home("own")
    given = {"roles": ["orchestrator"], "listen": [LISTEN], "serving": {"delegated_slots": 2}, "gateway": {"port": 0}}
    config = load_config(home, {**mesh.settings, **given, "client": {"model": MODEL}}, environment={})
    engine = FakeEngine(TEXT, delay_seconds=0.02, slots=8, model=replace(FAKE_MODEL, name=MODEL))
    async with (
        open_node(config, home, engine=engine) as node,
        open_live_of(node, home) as live,
        open_client_beside(node, home) as client,
        open_gateway(client, config.gateway, home.gateway_keys_file, picture=live) as gateway,
    ):
        live.spent_today = client.spent_today
        yield gateway.url


async def _busy(client: Client, pause_seconds: float) -> None:
    async with open_service_nursery() as nursery:
        while True:
            nursery.start_soon(_ask, client)
            await trio.sleep(pause_seconds)


async def _ask(client: Client) -> None:
    await client.generate(PROMPT, model=MODEL, max_tokens=120).wait()


def shoot(url: str, folder: Path) -> None:
    path = chromium()
    if path is None:
        sys.exit("chromium is not installed (Debian: apt install chromium)")
    with open_chromium(path) as browser:
        for name, width, height, scheme in SHOTS if "--all" in sys.argv else SHOTS[:1]:
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            page.goto(url)
            page.wait_for_selector("#ask-send:enabled")
            page.get_by_role("button", name="Ask").click()
            page.wait_for_selector("#answer-receipt:visible", timeout=60_000)
            page.get_by_role("button", name="Ask").click()
            page.wait_for_timeout(1_600)
            page.screenshot(path=folder / f"{name}.png", full_page="--whole" in sys.argv)
            page.close()


async def main() -> None:
    folder = next((Path(each) for each in sys.argv[1:] if not each.startswith("-")), FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    async with open_show() as url:
        await trio.sleep(WARM_SECONDS)
        await trio.to_thread.run_sync(shoot, url, folder)


if __name__ == "__main__":
    trio.run(main)
