"""``devnet`` and ``fund``: the embedded development ledger, and its faucet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cactus_mesh.cli.accounts import account_of, amount_of, ledger_options, report
from cactus_mesh.cli.base import command, json_option, load, main
from cactus_mesh.terminal import octas, print_json

if TYPE_CHECKING:
    from cactus_mesh.config import Home


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65_535), help="Default: 8790; 0 takes any free one.")
@click.option("--until-stdin-closes", is_flag=True, help="Stop when the program that started this one is gone.")
@json_option
@click.pass_obj
@command
async def devnet(home: Home, host: str, port: int | None, until_stdin_closes: bool, as_json: bool) -> None:
    """Run the embedded development ledger: the contract's rules, kept in this home, with a faucet.

    It is for demos, tests and development: one process, coins without value.

    \b
    Example: cactus-mesh devnet --port 8790
    """
    from cactus_mesh.ledger.dev import DEFAULT_PORT
    from cactus_mesh.ledger.devnet import open_devnet
    from cactus_mesh.lifetime import open_lifetime

    async with (
        open_lifetime(stdin_too=until_stdin_closes) as lifetime,
        open_devnet(home.devnet, host, DEFAULT_PORT if port is None else port) as chain,
    ):
        found = {"url": chain.url, "chain_id": chain.chain_id, "contract": chain.contract, "admin": chain.admin.address}
        if as_json:
            print_json({"event": "ready", **found})
        else:
            for name, value in found.items():
                click.echo(f"{name:10} {value}")
            click.echo("ready; stop with Ctrl-C")
        await lifetime.serving()


@main.command()
@click.argument("amount")
@click.option("--to", metavar="PEER|ADDRESS", help="Whose account. Default: this home's.")
@ledger_options
@json_option
@click.pass_obj
@command
async def fund(home: Home, amount: str, to: str | None, network: str | None, ledger: str | None, as_json: bool) -> None:
    """Take AMOUNT from the embedded ledger's faucet.

    In octas like 150000000, or in APT like 1.5apt.

    \b
    Example: cactus-mesh fund 100apt
    """
    from cactus_mesh.adapters import identity_at
    from cactus_mesh.ledger.dev import fund as take

    wanted = amount_of(amount)
    config = load(home, network=network, ledger=ledger)
    account = identity_at(home).address if to is None else account_of(to)
    await take(config.ledger, account, wanted)
    report({"account": account, "funded": wanted}, f"{account} has {octas(wanted)} more", as_json=as_json)
