"""``earnings``: what this home's tasks have earned and cost, as the ledger paid it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click

from cactus_mesh.cli.accounts import ledger_options, open_chain
from cactus_mesh.cli.base import command, json_option, load, main
from cactus_mesh.cli.recorded import MOST_LOOKED_UP, chain_of, existing, look_up, moment
from cactus_mesh.errors import LedgerError, NodeNotRunning
from cactus_mesh.terminal import octas, paint, print_json, printable, say

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cactus_mesh.config import Config, Home
    from cactus_mesh.core.holdings import Standing
    from cactus_mesh.records import Earned, Records

_WIDTHS: Final = (22, 13, 7, 9)


@dataclass(frozen=True, slots=True)
class Told:
    """What the ledger has said; *why* it has not, else."""

    standing: Standing | None = None
    claimable: int = 0
    treasury_bps: int = 0
    why: str = ""
    claimed: int | None = None
    """What the running node has claimed since it started; None where none runs, or it leaves that to its user."""


@main.command()
@click.option("--by", type=click.Choice(["day", "model", "role"]), default="day", show_default=True)
@click.option("--since", metavar="TIME", default="30d", show_default=True, help="A day, a time, or 36h, 7d, 2w ago.")
@click.option("--until", metavar="TIME", help="Likewise; a day (UTC) counts to its end.")
@click.option("--offline", is_flag=True, help="Do not ask the ledger; what it has not told is pending.")
@ledger_options
@json_option
@click.pass_obj
@command
async def earnings(
    home: Home,
    by: str,
    since: str,
    until: str | None,
    offline: bool,
    network: str | None,
    ledger: str | None,
    as_json: bool,
) -> None:
    """Show what tasks have earned and cost, by day, model or part.

    Amounts are what the ledger paid: it is asked about each task of which that is not known yet.  Earnings of an
    orchestrator go to its stake's owner, a router has the fee less the treasury's share, and what a client spent came
    from its deposit; see: cactus-mesh balance

    \b
    Example: cactus-mesh earnings --by model --since 7d
    """
    from cactus_mesh.records import open_records

    config = load(home, network=network, ledger=ledger)
    begin, end = moment(since) or 0.0, moment(until, end=True) or time.time() + 1
    with open_records(existing(home.records_file)) as records:
        told = Told(why="not asked") if offline else await _ask(home, config, records)
        sums = records.earned(chain_of(config), begin, end, treasury_bps=told.treasury_bps)
        unknown = sum(each.unsettled for each in sums)
    if as_json:
        print_json(_as_json(sums, told, begin, end))
        return
    if not sums:
        click.echo(f"no tasks on this ledger since {_day(begin)}")
    else:
        for line in lines_of(sums, by):
            click.echo(line)
    _show_ledger(told, unknown)


async def _ask(home: Home, config: Config, records: Records) -> Told:
    from cactus_mesh.book import open_book
    from cactus_mesh.claims import survey
    from cactus_mesh.cli.accounts import signer_at
    from cactus_mesh.core.holdings import holdings

    own = signer_at(home, None)
    try:
        with open_book(home.book_file) as book:
            async with open_chain(config) as chain:
                await look_up(records, chain, records.to_look_up(chain_of(config), MOST_LOOKED_UP))
                treasury_bps = (await chain.governance()).params.get("treasury_bps", 0)
                standing = await survey(chain, book, own.address, time.time())
    except LedgerError as error:
        return Told(why=str(error))
    due = sum(each.amount for each in holdings(standing, time.time()) if each.due and each.own)
    return Told(standing, due, treasury_bps, claimed=await _claimed(home))


async def _claimed(home: Home) -> int | None:
    from cactus_mesh.control import ask_node

    try:
        found = await ask_node(home.control_file, "status")
    except NodeNotRunning:
        return None
    claimed: int | None = found.get("claimed_octas")
    return claimed


# --- how it looks ------------------------------------------------------------------------------------------------


def _as_json(sums: Sequence[Earned], told: Told, begin: float, end: float) -> dict[str, Any]:
    standing = told.standing
    earning = [each for each in sums if each.role != "client"]
    spending = [each for each in sums if each.role == "client"]
    return {
        "since": round(begin, 3),
        "until": round(end, 3),
        "rows": [
            {
                "day": each.day,
                "model": each.model,
                "role": each.role,
                "tasks": each.tasks,
                "tokens": each.tokens,
                "octas": each.amount,
                "fees_octas": each.fees,
                "pending_octas": each.pending,
                "pending_tasks": each.unsettled,
            }
            for each in sums
        ],
        "earned_octas": sum(each.amount for each in earning),
        "spent_octas": sum(each.amount for each in spending),
        "fees_octas": sum(each.fees for each in spending),
        "pending_earned_octas": sum(each.pending for each in earning),
        "pending_spent_octas": sum(each.pending for each in spending),
        "ledger": None
        if standing is None
        else {
            "coins_octas": standing.coins,
            "deposit_octas": standing.client.deposit if standing.client else 0,
            "claimable_octas": told.claimable,
        },
        "claimed_octas": told.claimed,
        "ledger_error": told.why or None,
    }


def lines_of(sums: Sequence[Earned], by: str) -> Iterator[str]:
    """A line for each day, model or part, and their sum."""
    groups: dict[str, list[Earned]] = {}
    for each in sums:
        groups.setdefault(str(getattr(each, by)), []).append(each)
    yield f"{by:{_WIDTHS[0]}}{'earned':>{_WIDTHS[1]}}{'spent':>{_WIDTHS[1]}}{'pending':>{_WIDTHS[1]}}" + (
        f"{'tasks':>{_WIDTHS[2]}}{'tokens':>{_WIDTHS[3]}}"
    )
    for name, rows in groups.items():
        yield _line(_fit(name), rows)
    if len(groups) > 1:
        yield paint(_line("together", sums), "bold")
    fees = sum(each.fees for each in sums if each.role == "client")
    if fees:
        yield f"\nof what was spent, {octas(fees)} went as fees to routers and the treasury"
    yield "amounts in octas; pending is what may still be paid, at most"


def _line(name: str, rows: Sequence[Earned]) -> str:
    earned = sum(each.amount for each in rows if each.role != "client")
    spent = sum(each.amount for each in rows if each.role == "client")
    pending = sum(each.pending for each in rows)
    tasks, tokens = sum(each.tasks for each in rows), sum(each.tokens for each in rows)
    amounts = "".join(f"{amount:>{_WIDTHS[1]},}" for amount in (earned, spent, pending))
    return f"{name:{_WIDTHS[0]}}{amounts}{tasks:>{_WIDTHS[2]},}{tokens:>{_WIDTHS[3]},}"


def _fit(text: str) -> str:
    text, most = printable(text).replace("\n", " "), _WIDTHS[0] - 1
    return text if len(text) <= most else text[: most - 1] + "…"


def _day(moment: float) -> str:
    return time.strftime("%d %b %Y", time.gmtime(moment))


def _show_ledger(told: Told, unknown: int) -> None:
    if told.standing is None:
        say(f"\nthe ledger has not told what it paid for {unknown} of them: {printable(told.why)}")
        return
    deposit = told.standing.client.deposit if told.standing.client else 0
    say(f"\nthis account now: {octas(told.standing.coins)} in coins, {octas(deposit)} on deposit")
    if told.claimed:
        say(f"the running node has claimed {octas(told.claimed)} since it started")
    if told.claimable:
        say(f"{octas(told.claimable)} can be claimed: cactus-mesh claim")
    if unknown:
        say(f"{unknown} tasks are not settled yet; routers settle within seconds, after trouble within minutes")
