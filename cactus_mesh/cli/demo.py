"""``demo``: the whole mesh on this machine, as separate processes, doing its main job."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cactus_mesh.cli.base import command, json_option, load, main, network_options

if TYPE_CHECKING:
    from cactus_mesh.config import Home


@main.command()
@click.option(
    "--prompt", default="Tell me a story about a cactus.", show_default=True, help="What the client asks first."
)
@json_option
@command
async def demo(prompt: str, as_json: bool) -> None:
    """See a whole mesh work: ledger, bootstrap peer, router, two orchestrators, client.

    Each is a process of its own on loopback, with its own key in a temporary folder; all are gone when the command
    ends.  The client asks two questions at once.  The first orchestrator has room for one, so it hands the second on
    to the other and stays liable for it.

    \b
    Example: cactus-mesh demo
    """
    from cactus_mesh.demo import run_demo

    await run_demo(prompt, as_json=as_json)


@main.command("demo-client", hidden=True)
@click.argument("prompt")
@network_options
@click.pass_obj
@command
async def demo_client(
    home: Home, prompt: str, bootstrap: tuple[str, ...], network: str | None, ledger: str | None
) -> None:
    """The demo's client process: asks both questions and reports what happens as lines of JSON.

    \b
    Example: cactus-mesh --home c demo-client
    """
    from cactus_mesh.demo import ask_both
    from cactus_mesh.lifetime import open_lifetime

    async with open_lifetime(stdin_too=True):
        await ask_both(home, load(home, bootstrap=list(bootstrap), network=network, ledger=ledger), prompt)
