"""A client's money and what comes back by itself: ``deposit``, ``withdraw``, ``claim`` and ``balance``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from cactus_mesh.cli.accounts import (
    account_of,
    afford,
    amount_of,
    key_option,
    ledger_options,
    open_chain,
    report,
    signer_at,
    task_id_of,
    when,
)
from cactus_mesh.cli.base import command, json_option, load, main
from cactus_mesh.errors import LedgerAborted, NoFunds, NotStaked, NotTheOwner, UsageError
from cactus_mesh.terminal import octas, print_json, say

if TYPE_CHECKING:
    from pathlib import Path

    from cactus_mesh.book import Book
    from cactus_mesh.config import Home
    from cactus_mesh.core.holdings import Claim, Standing
    from cactus_mesh.identity import Address, Identity
    from cactus_mesh.ports import ClientView, Ledger


@main.command()
@click.argument("amount")
@ledger_options
@json_option
@click.pass_obj
@command
async def deposit(home: Home, amount: str, network: str | None, ledger: str | None, as_json: bool) -> None:
    """Put AMOUNT on deposit, to pay for tasks.

    In octas like 150000000, or in APT like 1.5apt.

    \b
    Example: cactus-mesh deposit 10apt
    """
    wanted = amount_of(amount)
    identity = signer_at(home, None)
    async with open_chain(load(home, network=network, ledger=ledger)) as chain:
        await afford(chain, identity, wanted, lambda: chain.deposit(identity, wanted))
        view = await chain.client(identity.address)
    held = 0 if view is None else view.deposit
    found = {"deposited": wanted, "deposit": held, "address": identity.address}
    report(found, f"{octas(held)} on deposit for {identity.address}", as_json=as_json)


@main.command()
@click.argument("amount", required=False)
@click.option("--all", "everything", is_flag=True, help="The whole free deposit.")
@ledger_options
@json_option
@click.pass_obj
@command
async def withdraw(
    home: Home, amount: str | None, everything: bool, network: str | None, ledger: str | None, as_json: bool
) -> None:
    """Begin to take AMOUNT out of the deposit.

    In octas like 150000000, or in APT like 1.5apt.

    It stops paying for tasks at once and can be claimed after the contract's waiting time, because routers may still
    be working for what you have promised.  A running node claims it by itself.

    \b
    Example: cactus-mesh withdraw 2.5apt
    """
    if (amount is None) is not everything:
        raise UsageError("say how much: an AMOUNT, or --all")
    identity = signer_at(home, None)
    async with open_chain(load(home, network=network, ledger=ledger)) as chain:
        before = await chain.client(identity.address)
        wanted = _free(before, identity) if amount is None else amount_of(amount)
        _refuse_more_than_free(before, identity, wanted)
        await chain.request_withdrawal(identity, wanted)
        after = await chain.client(identity.address)
    assert after is not None, "a client is never removed"
    due = after.withdrawals[-1].release_at
    found = {"withdrawing": wanted, "release_at": due, "deposit": after.deposit, "address": identity.address}
    text = (
        f"{octas(wanted)} leave the deposit; {octas(after.deposit)} stay free for tasks\n"
        f"to be claimed from {when(due, time.time())}: your running node does it, or: cactus-mesh claim"
    )
    report(found, text, as_json=as_json)


def _free(view: ClientView | None, identity: Identity) -> int:
    if view is None or view.deposit == 0:
        raise NoFunds(f"{identity.address} has nothing on deposit that is free; see: cactus-mesh balance")
    return view.deposit


def _refuse_more_than_free(view: ClientView | None, identity: Identity, wanted: int) -> None:
    free = _free(view, identity)
    if wanted > free:
        assert view is not None, "else nothing were free"
        elsewhere = view.escrowed + sum(due.amount for due in view.withdrawals)
        besides = f"; {octas(elsewhere)} are in escrow or on their way out already" if elsewhere else ""
        raise NoFunds(
            f"only {octas(free)} of the deposit are free, {octas(wanted - free)} fewer than that{besides}; "
            "see: cactus-mesh balance"
        )


# --- what is due -------------------------------------------------------------------------------------------------


@main.command()
@click.option("--operator", metavar="PEER|ADDRESS", help="Claim the stake of this operator, whose owner signs.")
@click.option("--task", metavar="TASK_ID", help="End this task, whose deadline has passed, and refund its client.")
@click.option("--client", metavar="PEER|ADDRESS", help="Whose --task it is. Default: this account's.")
@key_option("--owner-key", "The key that signs. Default: this home's.")
@ledger_options
@json_option
@click.pass_obj
@command
async def claim(
    home: Home,
    operator: str | None,
    task: str | None,
    client: str | None,
    owner_key: Path | None,
    network: str | None,
    ledger: str | None,
    as_json: bool,
) -> None:
    """Bring back everything that may leave now.

    That is: withdrawals from the deposit and unbonded stake whose wait is over, the price of tasks that nobody paid
    or refunded by their deadline, and bonds of disputes that are over.  A running node does the same every minute
    for its own key; set claims.automatic = false to be the only one who does.

    \b
    Example: cactus-mesh claim
    """
    from cactus_mesh.book import open_book
    from cactus_mesh.claims import carry_out
    from cactus_mesh.core.holdings import claims, holdings

    signer = signer_at(home, owner_key)
    with open_book(home.book_file) as book:
        async with open_chain(load(home, network=network, ledger=ledger)) as chain:
            if task is not None:
                owner = signer.address if client is None else account_of(client)
                due = [await _dead_task(chain, owner, task_id_of(task))]
            else:
                standing = await _standing(chain, book, signer.address, operator)
                due = claims(standing, time.time())
            for each in due:
                await carry_out(chain, signer, each)
                if not as_json:
                    click.echo(f"{octas(each.amount)} {each.words}")
    if as_json:
        print_json({"address": signer.address, "claimed": sum(each.amount for each in due), "claims": _as_json(due)})
    elif not due:
        dates = [each.until for each in holdings(standing, time.time()) if each.until and each.own and not each.due]
        click.echo("nothing can be claimed now")
        if dates:
            say(f"the next date is {when(min(dates), time.time())}; see: cactus-mesh balance")


def _as_json(due: list[Claim]) -> list[dict[str, Any]]:
    return [
        {
            "kind": each.kind,
            "octas": each.amount,
            "operator": each.operator,
            "task_id": each.task.task_id.hex() if each.task else None,
        }
        for each in due
    ]


async def _dead_task(chain: Ledger, client: Address, task_id: bytes) -> Claim:
    """The claim that ends this task.  Raises why it can't be ended."""
    from cactus_mesh.core.holdings import Claim, TaskName

    view = await chain.task(client, task_id)
    if view is None:
        raise LedgerAborted(
            f"{client} has no task {task_id.hex()} in escrow or paid on this ledger: nothing of it is held; check the "
            "id, and name the client with --client if it is another account"
        )
    if view.status != "created":
        raise LedgerAborted(f"task {task_id.hex()} is closed already ({view.status}): nothing of it is held any more")
    if time.time() <= view.done_by:
        raise LedgerAborted(
            f"task {task_id.hex()} may still be done; it can be ended after {when(view.done_by, time.time())}"
        )
    return Claim("escrow", view.max_price, task=TaskName(client, task_id))


async def _standing(chain: Ledger, book: Book, account: Address, operator: str | None) -> Standing:
    """Of *account*; a stake that is named and owned by it is remembered, so that it need not be named again."""
    from cactus_mesh.claims import survey

    if operator is not None:
        found = await chain.orchestrator(account_of(operator))
        if found is None:
            raise NotStaked(f"no stake is registered for operator {operator}; check the peer id")
        if found.owner != account:
            raise NotTheOwner(f"the stake of {operator} is owned by {found.owner}; sign with its key: --owner-key FILE")
        book.staked(account, account_of(operator))
    return await survey(chain, book, account, time.time())


@main.command()
@click.argument("account", metavar="[PEER|ADDRESS]", required=False)
@ledger_options
@json_option
@click.pass_obj
@command
async def balance(home: Home, account: str | None, network: str | None, ledger: str | None, as_json: bool) -> None:
    """Show where an account's money is.

    How much, why it is there, until when, and what to do about it.  Default: this home's account.

    What waits for a command has the command below it.  A running node runs `cactus-mesh claim` by itself.

    \b
    Example: cactus-mesh balance 12D3KooW…
    """
    from cactus_mesh.book import open_book
    from cactus_mesh.claims import survey
    from cactus_mesh.cli import statement
    from cactus_mesh.core.holdings import holdings

    own = signer_at(home, None)
    whose = own.address if account is None else account_of(account)
    config = load(home, network=network, ledger=ledger)
    with open_book(home.book_file) as book:
        async with open_chain(config) as chain:
            now = time.time()
            standing = await survey(chain, book, whose, now)
    found = holdings(standing, now, at_hand=whose == own.address)
    if as_json:
        print_json(statement.as_json(standing, found))
        return
    click.echo(f"account {whose}")
    if whose == own.address:
        click.echo(f"peer    {own.peer_id}")
    for owner in dict.fromkeys(stake.owner for _, stake in standing.stakes if stake.owner != whose):
        click.echo(f"owner   {owner}")
    click.echo(f"ledger  {config.ledger}, chain {config.chain_id}\n")
    if not standing.known:
        click.echo("nothing: the ledger has never seen this account, or it was emptied; check it, or send it coins")
        return
    for line in statement.lines_of(found, now):
        click.echo(line)
