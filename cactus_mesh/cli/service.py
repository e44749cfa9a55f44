"""``service``: a node that runs in the background for this user, and starts again by itself."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from cactus_mesh.cli.base import command, json_option, load, main, network_options
from cactus_mesh.errors import NodeNotRunning
from cactus_mesh.terminal import print_json, say

if TYPE_CHECKING:
    from cactus_mesh.config import Home
    from cactus_mesh.service import State

START_SECONDS: Final = 20.0
"""For the node to join, before the command leaves it to itself."""
POLL_SECONDS: Final = 0.3


@main.group()
def service() -> None:
    """Run a node in the background, under this user's systemd.

    \b
    Example: cactus-mesh service status
    """


@service.command()
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
@json_option
@click.pass_obj
@command
async def install(
    home: Home,
    roles: tuple[str, ...],
    bootstrap: tuple[str, ...],
    network: str | None,
    ledger: str | None,
    models: tuple[str, ...],
    listen: tuple[str, ...],
    as_json: bool,
) -> None:
    """Start a node now and with every session; options become its environment file (0600).

    \b
    Example: cactus-mesh service install --role relay --bootstrap /ip4/203.0.113.5/tcp/4101/p2p/12D3KooW…
    """
    from cactus_mesh import service as services

    given: dict[str, Any] = {
        "roles": list(roles),
        "bootstrap": list(bootstrap),
        "network": network,
        "ledger": ledger,
        "models": list(map(_place, models)),
        "listen": list(listen),
    }
    settings = {name: value for name, value in given.items() if value}
    load(home, **settings)  # a mistake is told here, and not in a journal
    state = await services.install(home, settings)
    node = await _started(home)
    if as_json:
        print_json(_report(home, state, node))
        return
    click.echo(f"unit         {services.unit_file()}")
    click.echo(f"environment  {services.environment_file(home)}")
    _show(state, node)


@service.command()
@json_option
@click.pass_obj
@command
async def uninstall(home: Home, as_json: bool) -> None:
    """Stop the node and remove its unit and environment file.  Key, configuration and state stay.

    \b
    Example: cactus-mesh service uninstall
    """
    from cactus_mesh import service as services

    await services.uninstall(home)
    if as_json:
        print_json({"installed": False})
    else:
        click.echo(f"stopped and removed; the key and what the node knows stay in {home.state}")


@service.command()
@json_option
@click.pass_obj
@command
async def status(home: Home, as_json: bool) -> None:
    """Show whether the service runs, and the node in it.  Exit status: 0 when it runs, else 2.

    \b
    Example: cactus-mesh service status --json
    """
    from cactus_mesh import service as services

    state = await services.state()
    node = await _asked(home)
    if not state.installed:
        raise NodeNotRunning("no service is installed; install one with: cactus-mesh service install")
    if as_json:
        print_json(_report(home, state, node))
    else:
        _show(state, node)
    if state.active != "active":
        sys.exit(NodeNotRunning.exit_status)


def _place(model: str) -> str:
    """The service has another working folder."""
    return str(Path(model).absolute()) if Path(model).is_dir() else model


async def _started(home: Home) -> dict[str, Any] | None:
    """The node's status once it answers; None when it takes longer, or does not start."""
    import trio

    for _ in range(int(START_SECONDS / POLL_SECONDS)):
        if (node := await _asked(home)) is not None:
            return node
        await trio.sleep(POLL_SECONDS)
    return None


async def _asked(home: Home) -> dict[str, Any] | None:
    from cactus_mesh.control import ask_node

    try:
        return await ask_node(home.control_file, "status")
    except NodeNotRunning:
        return None


def _report(home: Home, state: State, node: dict[str, Any] | None) -> dict[str, Any]:
    from cactus_mesh import service as services

    files = {"unit": str(services.unit_file()), "environment": str(services.environment_file(home))}
    return {**asdict(state), **files, "node": node}


def _show(state: State, node: dict[str, Any] | None) -> None:
    ended = f", last ended with: {state.result}" if state.result not in ("", "success") else ""
    again = f", started again {state.restarts} times" if state.restarts else ""
    boot = "starts with every session" if state.enabled else "not enabled"
    click.echo(f"service      {state.active}, {boot}{again}{ended}")
    if node is not None:
        click.echo(f"node         {node['peer_id']}")
        click.echo(f"             {', '.join(node['roles'])}; {node['peers']} peers; see: cactus-mesh status")
    else:
        so_far = "it ends soon after each start" if state.restarts else "the node does not answer yet"
        say(f"{so_far}; its log says why: journalctl --user -u cactus-mesh")
    if not state.lingers:
        say("it stops when you log out; to keep it running: loginctl enable-linger")
