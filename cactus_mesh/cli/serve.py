"""``run``: a node in this process, until it is stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cactus_mesh.cli.base import command, json_option, load, main, network_options
from cactus_mesh.terminal import print_json, printable, say

if TYPE_CHECKING:
    from collections.abc import Callable

    from cactus_mesh.config import Home
    from cactus_mesh.node import Node


@main.command()
@click.option(
    "--role",
    "roles",
    multiple=True,
    type=click.Choice(["orchestrator", "router", "relay", "bootstrap"]),
    help="What to be; repeatable. Default: orchestrator.",
)
@network_options
@click.option("--model", "models", multiple=True, metavar="NAME|PATH", help="A model to serve; repeatable.")
@click.option("--listen", multiple=True, metavar="MULTIADDR", help="Where to listen; repeatable.")
@click.option("--slots", type=click.IntRange(min=1), help="Tasks that the engine runs at once.")
@click.option("--delegate", type=click.IntRange(min=0), metavar="N", help="Hand on up to N tasks when full.")
@click.option("--until-stdin-closes", is_flag=True, help="Stop when the program that started this one is gone.")
@json_option
@click.pass_obj
@command
async def run(
    home: Home,
    roles: tuple[str, ...],
    bootstrap: tuple[str, ...],
    network: str | None,
    ledger: str | None,
    models: tuple[str, ...],
    listen: tuple[str, ...],
    slots: int | None,
    delegate: int | None,
    until_stdin_closes: bool,
    as_json: bool,
) -> None:
    """Join a network and serve until stopped.

    \b
    Example: cactus-mesh run --bootstrap /ip4/203.0.113.5/tcp/4101/p2p/12D3KooW…
    """
    from cactus_mesh.control import open_control
    from cactus_mesh.lifetime import open_lifetime
    from cactus_mesh.node import open_node

    config = load(
        home,
        roles=list(roles) or None,
        bootstrap=list(bootstrap) or None,
        network=network,
        ledger=ledger,
        models=list(models) or None,
        listen=list(listen) or None,
        engine=None if slots is None else {"slots": slots},
        serving=None if delegate is None else {"delegated_slots": delegate},
    )
    answers: dict[str, Callable[[str], object]] = {}
    async with (
        open_lifetime(stdin_too=until_stdin_closes) as lifetime,
        open_control(home.control_file, answers),
        open_node(config, home) as node,
    ):
        answers |= node.answers()
        await _announce(node, as_json=as_json)
        await lifetime.serving()
        if not as_json:
            say("stopping: letting running tasks end and settling them")


async def _announce(node: Node, *, as_json: bool) -> None:
    if as_json:
        print_json({"event": "ready", **node.status(), "join": node.join_line()})
        return
    status = node.status()
    click.echo(f"peer id    {status['peer_id']}")
    click.echo(f"account    {status['address']}")
    click.echo(f"network    {status['network']} as {', '.join(status['roles'])}; ledger {status['ledger']}")
    for address in status["addresses"]:
        click.echo(f"listening  {address}")
    for offer in node.offers:
        click.echo(f"serving    {printable(offer.name)} ({offer.dtype}, {offer.digest.hex()[:12]})")
    for hint in await node.hints():
        click.echo(f"note       {hint}")
    click.echo("\nTo join through this node, run on another machine:")
    click.echo(f"  {node.join_line()}\n")
    click.echo("ready; stop with Ctrl-C")
