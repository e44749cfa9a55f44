"""``gateway``: OpenAI's API on this machine, answered by the mesh; and who has a key to it."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from cactus_mesh.cli.base import command, json_option, load, main, network_options
from cactus_mesh.errors import NodeRunning
from cactus_mesh.terminal import print_json, printable, say

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from cactus_mesh.config import Config, GatewayConfig, Home
    from cactus_mesh.control import Answers
    from cactus_mesh.gateway.server import Gateway


@main.group(invoke_without_command=True)
@network_options
@click.option("--host", help="Where to listen. Default: gateway.host in the configuration, which is 127.0.0.1.")
@click.option("--port", type=click.IntRange(0, 65_535), help="Default: gateway.port in the configuration; 0 takes any.")
@click.option("--until-stdin-closes", is_flag=True, help="Stop when the program that started this one is gone.")
@json_option
@click.pass_context
def gateway(
    context: click.Context,
    bootstrap: tuple[str, ...],
    network: str | None,
    ledger: str | None,
    host: str | None,
    port: int | None,
    until_stdin_closes: bool,
    as_json: bool,
) -> None:
    """Serve OpenAI's API on this machine; the mesh answers, this account pays.

    \b
    Example: cactus-mesh gateway --bootstrap /ip4/203.0.113.5/tcp/4101/p2p/12D3KooW…
    Then:    OPENAI_BASE_URL=http://127.0.0.1:4180/v1 OPENAI_API_KEY=none python your_program.py
    """
    if context.invoked_subcommand is None:
        _serve(
            context.obj,
            bootstrap=bootstrap,
            network=network,
            ledger=ledger,
            host=host,
            port=port,
            until_stdin_closes=until_stdin_closes,
            as_json=as_json,
        )


@command
async def _serve(
    home: Home,
    bootstrap: tuple[str, ...],
    network: str | None,
    ledger: str | None,
    host: str | None,
    port: int | None,
    until_stdin_closes: bool,
    as_json: bool,
) -> None:
    from cactus_mesh.clients import answers_of_client, open_client, open_live_of_client
    from cactus_mesh.gateway.guard import require_keys
    from cactus_mesh.gateway.keys import Keyring
    from cactus_mesh.gateway.server import open_gateway
    from cactus_mesh.lifetime import open_lifetime
    from cactus_mesh.live import TaskTable

    config = load(home, bootstrap=list(bootstrap) or None, network=network, ledger=ledger)
    settings = at(config.gateway, host, port)
    require_keys(settings, Keyring(home.gateway_keys_file))  # before anything is joined
    tasks = TaskTable()
    async with (
        open_lifetime(stdin_too=until_stdin_closes) as lifetime,
        open_client(home=home, config=config, tasks=tasks) as client,
        open_live_of_client(client, config, home, tasks) as live,
        open_gateway(client, settings, home.gateway_keys_file, picture=live) as opened,
        _seen(home, answers_of_client(client, config, live)),
    ):
        announce(opened, config, as_json=as_json)
        if not as_json:
            click.echo("ready; stop with Ctrl-C")
        await lifetime.serving()
        if not as_json:
            say("stopping: letting running answers end")


@asynccontextmanager
async def _seen(home: Home, answers: Answers) -> AsyncIterator[None]:
    """`status` and `top` show the first gateway of a home; another one of the same home they do not see."""
    from cactus_mesh.control import open_control

    async with AsyncExitStack() as stack:
        with suppress(NodeRunning):
            await stack.enter_async_context(open_control(home.gateway_control_file, answers))
        yield


def at(config: GatewayConfig, host: str | None, port: int | None) -> GatewayConfig:
    """*config* with what the command line says instead."""
    return replace(config, host=host or config.host, port=config.port if port is None else port)


def announce(opened: Gateway, config: Config, *, as_json: bool) -> None:
    if as_json:
        page = f"{opened.url}/" if opened.dashboard else None
        print_json({"event": "gateway", "url": opened.url, "needs_key": opened.needs_key, "dashboard": page})
        return
    if opened.dashboard:
        click.echo(f"dashboard  {opened.url}/{' (with an API key)' if opened.needs_key else ''}")
    click.echo(f"gateway    {opened.url}/v1{' (with an API key)' if opened.needs_key else ''}")
    click.echo(f"try it     {opened.example(config.client.model)}")


# --- keys --------------------------------------------------------------------------------------------------------


@gateway.group()
def keys() -> None:
    """Who may use the gateway.  Once there is a key, every request needs one.

    \b
    Example: cactus-mesh gateway keys add laptop
    """


@keys.command("add")
@click.argument("name")
@json_option
@click.pass_obj
@command
async def add(home: Home, name: str, as_json: bool) -> None:
    """Make a key and print it, this once.

    \b
    Example: cactus-mesh gateway keys add laptop
    """
    from cactus_mesh.gateway.keys import add_key

    made = add_key(home.gateway_keys_file, name)
    if as_json:
        print_json({"name": name, "key": made})
        return
    click.echo(made)
    say(f"this is the only time that the key of {printable(name)} is shown; a running gateway takes it at once")


@keys.command("list")
@json_option
@click.pass_obj
@command
async def list_(home: Home, as_json: bool) -> None:
    """List the keys' names; the keys themselves are not kept.

    \b
    Example: cactus-mesh gateway keys list
    """
    from cactus_mesh.gateway.keys import read_keys

    found = read_keys(home.gateway_keys_file)
    if as_json:
        print_json([{"id": key.id, "name": key.name, "created_at": key.created_at} for key in found])
        return
    for key in found:
        made = time.strftime("%Y-%m-%d %H:%M", time.localtime(key.created_at))
        click.echo(f"{key.id}  {made}  {printable(key.name)}")
    if not found:
        say("no keys: the gateway listens on this machine only, and asks for none")


@keys.command("remove")
@click.argument("name")
@json_option
@click.pass_obj
@command
async def remove(home: Home, name: str, as_json: bool) -> None:
    """Take a key back, by its name or id; a running gateway refuses it within a second.

    \b
    Example: cactus-mesh gateway keys remove laptop
    """
    from cactus_mesh.gateway.keys import remove_key

    remove_key(home.gateway_keys_file, name)
    if as_json:
        print_json({"removed": name})
    else:
        say(f"removed {printable(name)}")
