"""Commands about money: the embedded ledger, and this home's accounts, deposits, stakes and authorisations."""

from __future__ import annotations

import string
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, ParamSpec

import click

from cactus_mesh.cli.base import command, json_option, load, main
from cactus_mesh.terminal import octas, print_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from cactus_mesh.config import Config, Home
    from cactus_mesh.identity import Address
    from cactus_mesh.ports import Ledger

P = ParamSpec("P")
DEFAULT_BUDGET_OCTAS: Final = 1_000 * 100_000_000


def _ledger_options(function: Callable[P, None]) -> Callable[P, None]:
    function = click.option("--ledger", metavar="URL", help="The ledger's REST API.")(function)
    return click.option("--network", metavar="NAME", help="Which network; its file names ledger and contract.")(
        function
    )


def _open(config: Config) -> AbstractAsyncContextManager[Ledger]:
    from cactus_mesh.identity import Address
    from cactus_mesh.ledger.client import open_ledger

    return open_ledger(config.ledger, Address(config.contract), config.chain_id)


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
@click.argument("amount", type=click.IntRange(min=1))
@click.option("--to", metavar="PEER|ADDRESS", help="Whose account. Default: this home's.")
@_ledger_options
@json_option
@click.pass_obj
@command
async def fund(home: Home, amount: int, to: str | None, network: str | None, ledger: str | None, as_json: bool) -> None:
    """Take AMOUNT octas from the embedded ledger's faucet."""
    from cactus_mesh.ledger.dev import fund as take
    from cactus_mesh.node import identity_at

    config = load(home, network=network, ledger=ledger)
    account = identity_at(home).address if to is None else account_of(to)
    await take(config.ledger, account, amount)
    _report({"account": account, "funded": amount}, f"{account} has {octas(amount)} more", as_json=as_json)


@main.command()
@click.argument("amount", type=click.IntRange(min=1))
@_ledger_options
@json_option
@click.pass_obj
@command
async def deposit(home: Home, amount: int, network: str | None, ledger: str | None, as_json: bool) -> None:
    """Put AMOUNT octas with the contract, for tasks to be paid from."""
    from cactus_mesh.node import identity_at

    identity = identity_at(home)
    async with _open(load(home, network=network, ledger=ledger)) as chain:
        await chain.deposit(identity, amount)
        view = await chain.client(identity.address)
    held = 0 if view is None else view.deposit
    _report({"deposit": held}, f"{octas(held)} on deposit for {identity.address}", as_json=as_json)


@main.command()
@click.argument("amount", type=click.IntRange(min=1))
@_ledger_options
@json_option
@click.pass_obj
@command
async def stake(home: Home, amount: int, network: str | None, ledger: str | None, as_json: bool) -> None:
    """Register this home's key as an orchestrator with a stake of AMOUNT octas, owned by the same account."""
    from cactus_mesh.node import identity_at

    identity = identity_at(home)
    async with _open(load(home, network=network, ledger=ledger)) as chain:
        await chain.register_orchestrator(identity, identity.public_key, amount)
        view = await chain.orchestrator(identity.address)
    held = 0 if view is None else view.stake
    _report({"stake": held}, f"{octas(held)} at stake for {identity.peer_id}", as_json=as_json)


@main.command()
@_ledger_options
@json_option
@click.pass_obj
@command
async def register(home: Home, network: str | None, ledger: str | None, as_json: bool) -> None:
    """Register this home's key as a router, which then waits to be authorised by the contract's administrator."""
    from cactus_mesh.node import identity_at

    identity = identity_at(home)
    async with _open(load(home, network=network, ledger=ledger)) as chain:
        await chain.register_server(identity)
    text = f"registered; the administrator authorises it with: cactus-mesh authorize {identity.peer_id}"
    _report({"router": identity.address, "peer_id": identity.peer_id}, text, as_json=as_json)


@main.command()
@click.argument("router", metavar="PEER|ADDRESS")
@click.option("--admin-key", type=click.Path(path_type=Path, dir_okay=False), help="Default: this home's devnet's.")
@click.option("--days", type=click.IntRange(min=1), default=365, show_default=True)
@click.option("--budget", type=click.IntRange(min=1), default=DEFAULT_BUDGET_OCTAS, show_default=True, metavar="OCTAS")
@_ledger_options
@json_option
@click.pass_obj
@command
async def authorize(
    home: Home,
    router: str,
    admin_key: Path | None,
    days: int,
    budget: int,
    network: str | None,
    ledger: str | None,
    as_json: bool,
) -> None:
    """Authorise a router, as the contract's administrator.  It must have registered first."""
    from cactus_mesh.identity import load_key_file

    admin = load_key_file(admin_key or home.devnet / "admin.key")
    account = account_of(router)
    until = int(time.time()) + days * 86_400
    async with _open(load(home, network=network, ledger=ledger)) as chain:
        await chain.authorise_server(admin, account, until, budget)
    _report({"router": account, "expires_at": until}, f"{account} is authorised for {days} days", as_json=as_json)


@main.command()
@click.argument("account", metavar="[PEER|ADDRESS]", required=False)
@_ledger_options
@json_option
@click.pass_obj
@command
async def balance(home: Home, account: str | None, network: str | None, ledger: str | None, as_json: bool) -> None:
    """Show an account's coins, deposit and stake.  Default: this home's."""
    from cactus_mesh.node import identity_at

    whose = identity_at(home).address if account is None else account_of(account)
    async with _open(load(home, network=network, ledger=ledger)) as chain:
        coins, client, operator = await chain.balance(whose), await chain.client(whose), await chain.orchestrator(whose)
    found = {
        "address": whose,
        "coins": coins,
        "deposit": 0 if client is None else client.deposit,
        "withdrawing": 0 if client is None else sum(due.amount for due in client.withdrawals),
        "stake": 0 if operator is None else operator.stake,
    }
    if as_json:
        print_json(found)
        return
    for name, value in found.items():
        click.echo(f"{name:12} {octas(value) if isinstance(value, int) else value}")


def account_of(text: str) -> Address:
    """The account that a peer id or an address names.  Raises `AddressMalformed`."""
    from cactus_mesh.errors import AddressMalformed
    from cactus_mesh.identity import Address, address, public_key_of

    digits = text.removeprefix("0x")
    if text.startswith("0x") and 0 < len(digits) <= 64 and all(digit in string.hexdigits for digit in digits):
        return Address(f"0x{digits.lower():0>64}")
    try:
        return address(public_key_of(text))
    except ValueError:
        raise AddressMalformed(f"{text!r} is neither a peer id (12D3KooW…) nor an account address (0x…)") from None


def _report(found: dict[str, object], text: str, *, as_json: bool) -> None:
    if as_json:
        print_json(found)
    else:
        click.echo(text)
