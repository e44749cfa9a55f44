"""Routers and the contract's offices: ``register``, ``authorize``, ``revoke``, and the group ``admin``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import click

from cactus_mesh.cli.accounts import (
    account_of,
    admin_at,
    amount_of,
    key_option,
    ledger_options,
    open_chain,
    report,
    signer_at,
    when,
)
from cactus_mesh.cli.base import command, json_option, load, main
from cactus_mesh.errors import RouterNotAuthorised, UsageError
from cactus_mesh.terminal import octas, print_json

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from cactus_mesh.config import Home
    from cactus_mesh.ports import Governance, ServerView

DAY_SECONDS: Final = 86_400
ADMIN_KEY_OPTION = key_option("--admin-key", "The administrator's key. Default: that of this home's embedded ledger.")


@main.command()
@ledger_options
@json_option
@click.pass_obj
@command
async def register(home: Home, network: str | None, ledger: str | None, as_json: bool) -> None:
    """Register this home's key as a router.

    It then waits to be authorised by the contract's administrator.

    \b
    Example: cactus-mesh register
    """
    identity = signer_at(home, None)
    async with open_chain(load(home, network=network, ledger=ledger)) as chain:
        view = await chain.server(identity.address)
        if view is None:
            await chain.register_server(identity)
    found = {
        "router": identity.address,
        "peer_id": identity.peer_id,
        "status": "pending" if view is None else view.status,
    }
    report(found, _registered(view, identity.peer_id), as_json=as_json)


def _registered(before: ServerView | None, peer: str) -> str:
    if before is not None and before.authorised(time.time()):
        return f"registered before, and authorised until {when(before.expires_at, time.time())}"
    word = "registered" if before is None else "registered before, but not authorised now"
    return f"{word}; the contract's administrator authorises it with:\n  cactus-mesh authorize {peer}"


@main.command()
@click.argument("router", metavar="PEER|ADDRESS")
@ADMIN_KEY_OPTION
@click.option("--days", type=click.IntRange(1, 36_500), default=365, show_default=True, help="For how long.")
@click.option(
    "--budget", default="1000apt", show_default=True, metavar="AMOUNT", help="Most that it may hold in escrow."
)
@ledger_options
@json_option
@click.pass_obj
@command
async def authorize(
    home: Home,
    router: str,
    admin_key: Path | None,
    days: int,
    budget: str,
    network: str | None,
    ledger: str | None,
    as_json: bool,
) -> None:
    """Authorise a router, as the administrator.

    Renews and restores too.  The router must have registered first.

    \b
    Example: cactus-mesh authorize 12D3KooW… --days 30 --budget 50apt
    """
    admin = admin_at(home, admin_key)
    account, most = account_of(router), amount_of(budget)
    async with open_chain(load(home, network=network, ledger=ledger)) as chain:
        if await chain.server(account) is None:
            raise RouterNotAuthorised(f"{router} has not registered as a router; run at its home: cactus-mesh register")
        until = int(time.time()) + days * DAY_SECONDS
        await chain.authorise_server(admin, account, until, most)
    found = {"router": account, "expires_at": until, "max_budget": most}
    text = f"{account}\nis authorised until {when(until, time.time())}, with at most {octas(most)} in escrow"
    report(found, text, as_json=as_json)


@main.command()
@click.argument("router", metavar="PEER|ADDRESS")
@ADMIN_KEY_OPTION
@ledger_options
@json_option
@click.pass_obj
@command
async def revoke(
    home: Home, router: str, admin_key: Path | None, network: str | None, ledger: str | None, as_json: bool
) -> None:
    """Take a router's authorisation away.

    As the contract's administrator.  What it holds in escrow then goes back to the clients after the tasks' deadlines.

    \b
    Example: cactus-mesh revoke 12D3KooW…
    """
    admin, account = admin_at(home, admin_key), account_of(router)
    async with open_chain(load(home, network=network, ledger=ledger)) as chain:
        before = await chain.server(account)
        if before is None:
            raise RouterNotAuthorised(f"{router} is no router of this contract, so that there is nothing to revoke")
        await chain.revoke_server(admin, account)
    text = f"{account}\nis not authorised any more"
    if before.escrowed:
        text += f"; {octas(before.escrowed)} in escrow go back to its clients after their tasks' deadlines"
    report({"router": account, "status": "revoked", "escrowed": before.escrowed}, text, as_json=as_json)


# --- offices and parameters ----------------------------------------------------------------------------------------


@main.group()
def admin() -> None:
    """The contract's offices, parameters and pause."""


@admin.command()
@ledger_options
@json_option
@click.pass_obj
@command
async def show(home: Home, network: str | None, ledger: str | None, as_json: bool) -> None:
    """Who holds which office, and every parameter.

    \b
    Example: cactus-mesh admin show
    """
    async with open_chain(load(home, network=network, ledger=ledger)) as chain:
        found = await chain.governance()
    if as_json:
        print_json({**_offices(found), "params": found.params})
        return
    for name, value in (*_offices(found).items(), *found.params.items()):
        click.echo(f"{name:24} {f'{value:,}' if type(value) is int else '-' if value is None else value}")


def _offices(found: Governance) -> dict[str, object]:
    return {
        "admin": found.admin,
        "pending_admin": found.pending_admin,
        "arbiter": found.arbiter,
        "treasury": found.treasury,
        "paused": found.paused,
    }


@admin.command()
@click.argument("account", metavar="PEER|ADDRESS")
@ADMIN_KEY_OPTION
@ledger_options
@json_option
@click.pass_obj
@command
async def propose(
    home: Home, account: str, admin_key: Path | None, network: str | None, ledger: str | None, as_json: bool
) -> None:
    """Offer the administrator's office to an account; nothing changes until it accepts.

    \b
    Example: cactus-mesh admin propose 0x5f2c…
    """
    signer, proposed = admin_at(home, admin_key), account_of(account)
    async with open_chain(load(home, network=network, ledger=ledger)) as chain:
        await chain.propose_admin(signer, proposed)
    text = f"{proposed}\nmay accept with its own key: cactus-mesh admin accept --admin-key FILE"
    report({"admin": signer.address, "pending_admin": proposed}, text, as_json=as_json)


@admin.command()
@key_option("--admin-key", "The proposed administrator's key. Default: this home's.")
@ledger_options
@json_option
@click.pass_obj
@command
async def accept(home: Home, admin_key: Path | None, network: str | None, ledger: str | None, as_json: bool) -> None:
    """Accept the administrator's office.

    \b
    Example: cactus-mesh admin accept
    """
    signer = signer_at(home, admin_key)
    async with open_chain(load(home, network=network, ledger=ledger)) as chain:
        await chain.accept_admin(signer)
    report({"admin": signer.address}, f"{signer.address}\nis the contract's administrator now", as_json=as_json)


@admin.command("set-params")
@click.argument("changes", metavar="NAME=VALUE…", nargs=-1, required=True)
@ADMIN_KEY_OPTION
@ledger_options
@json_option
@click.pass_obj
@command
async def set_params(
    home: Home,
    changes: tuple[str, ...],
    admin_key: Path | None,
    network: str | None,
    ledger: str | None,
    as_json: bool,
) -> None:
    """Change parameters within their bounds; docs/contract.md lists them.  The others stay as they are.

    \b
    Example: cactus-mesh admin set-params fee_bps=300 min_stake=200000000
    """
    signer = admin_at(home, admin_key)
    async with open_chain(load(home, network=network, ledger=ledger)) as chain:
        before = (await chain.governance()).params
        after = before | _changes(changes, before)
        await chain.set_params(signer, after)
    text = "\n".join(f"{name} {before[name]:,} -> {value:,}" for name, value in after.items() if value != before[name])
    report({"params": after}, text or "nothing changed", as_json=as_json)


def _changes(texts: Iterable[str], known: dict[str, int]) -> dict[str, int]:
    found = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in known:
            raise UsageError(f"there is no parameter {name!r}; choose from: {', '.join(known)}")
        if not value.isascii() or not value.isdigit():
            raise UsageError(f"{text!r} is no NAME=VALUE with a whole number; amounts are in octas, times in seconds")
        found[name] = int(value)
    return found


@admin.command()
@ADMIN_KEY_OPTION
@ledger_options
@json_option
@click.pass_obj
@command
async def pause(home: Home, admin_key: Path | None, network: str | None, ledger: str | None, as_json: bool) -> None:
    """Stop registrations, deposits, stakes and new tasks; never withdrawals, refunds, settlements.

    \b
    Example: cactus-mesh admin pause
    """
    await _set_paused(home, admin_key, network, ledger, paused=True, as_json=as_json)


@admin.command()
@ADMIN_KEY_OPTION
@ledger_options
@json_option
@click.pass_obj
@command
async def resume(home: Home, admin_key: Path | None, network: str | None, ledger: str | None, as_json: bool) -> None:
    """End a pause.

    \b
    Example: cactus-mesh admin resume
    """
    await _set_paused(home, admin_key, network, ledger, paused=False, as_json=as_json)


async def _set_paused(
    home: Home, admin_key: Path | None, network: str | None, ledger: str | None, *, paused: bool, as_json: bool
) -> None:
    signer = admin_at(home, admin_key)
    async with open_chain(load(home, network=network, ledger=ledger)) as chain:
        await chain.set_paused(signer, paused=paused)
    report({"paused": paused}, "the contract is paused" if paused else "the contract runs", as_json=as_json)


@admin.command("set-arbiter")
@click.argument("account", metavar="PEER|ADDRESS")
@ADMIN_KEY_OPTION
@ledger_options
@json_option
@click.pass_obj
@command
async def set_arbiter(
    home: Home, account: str, admin_key: Path | None, network: str | None, ledger: str | None, as_json: bool
) -> None:
    """Name who decides contested disputes.

    \b
    Example: cactus-mesh admin set-arbiter 0x5f2c…
    """
    signer, arbiter = admin_at(home, admin_key), account_of(account)
    async with open_chain(load(home, network=network, ledger=ledger)) as chain:
        await chain.set_arbiter(signer, arbiter)
    report({"arbiter": arbiter}, f"{arbiter}\ndecides contested disputes now", as_json=as_json)


@admin.command("set-treasury")
@click.argument("account", metavar="PEER|ADDRESS")
@ADMIN_KEY_OPTION
@ledger_options
@json_option
@click.pass_obj
@command
async def set_treasury(
    home: Home, account: str, admin_key: Path | None, network: str | None, ledger: str | None, as_json: bool
) -> None:
    """Name who receives the treasury's share of fees and slashes.

    \b
    Example: cactus-mesh admin set-treasury 0x5f2c…
    """
    signer, treasury = admin_at(home, admin_key), account_of(account)
    async with open_chain(load(home, network=network, ledger=ledger)) as chain:
        await chain.set_treasury(signer, treasury)
    report({"treasury": treasury}, f"{treasury}\nis the treasury now", as_json=as_json)
