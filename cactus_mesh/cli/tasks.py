"""``tasks``: this home's tasks, running and ended, and everything that is known of one."""

from __future__ import annotations

import textwrap
import time
from typing import TYPE_CHECKING, Any, Final

import click

from cactus_mesh.cli.accounts import ledger_options, open_chain, when
from cactus_mesh.cli.base import command, json_option, load, main
from cactus_mesh.cli.completing import task_ids
from cactus_mesh.cli.recorded import as_json as record_as_json
from cactus_mesh.cli.recorded import chain_of, existing, look_up, one_task
from cactus_mesh.errors import LedgerError, MeshError, NodeNotRunning
from cactus_mesh.terminal import ago, octas, paint, print_json, printable, say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cactus_mesh.config import Config, Home
    from cactus_mesh.core.proofs import Examined
    from cactus_mesh.records import Records, TaskRecord

SHOWN: Final = 20
SHOWN_ID: Final = 12
WIDTH: Final = 80
_MODEL_WIDTH: Final = 20
_TITLE: Final = 13
_COLOURS: Final = {"done": "green", "failed": "red", "cancelled": "yellow"}


@main.command()
@click.argument("task_id", metavar="[ID]", required=False, shell_complete=task_ids)
@click.option("--limit", type=click.IntRange(1, 10_000), default=SHOWN, show_default=True)
@click.option("--state", type=click.Choice(["cancelled", "done", "failed"]), help="Only those that ended so.")
@click.option("--role", type=click.Choice(["client", "orchestrator", "router"]), help="Only this part in them.")
@click.option("--offline", is_flag=True, help="Do not ask the ledger what it has paid for ID.")
@ledger_options
@json_option
@click.pass_obj
@command
async def tasks(
    home: Home,
    task_id: str | None,
    limit: int,
    state: str | None,
    role: str | None,
    offline: bool,
    network: str | None,
    ledger: str | None,
    as_json: bool,
) -> None:
    """List this home's tasks, or explain one.

    The newest first: those that a running node has under way, then those that have ended, as client, router or
    orchestrator.  With ID, or how it begins: who took part in it, what was agreed and paid and why, and whether its
    signed receipt holds.

    \b
    Example: cactus-mesh tasks --state failed
    """
    from cactus_mesh.records import open_records

    with open_records(existing(home.records_file)) as records:
        if task_id is not None:
            config = None if offline else load(home, network=network, ledger=ledger)
            await _explain(records, task_id, config, as_json=as_json)
            return
        running = [] if state else await _running(home, role)
        ended = records.recent(limit, state=state, role=role)
    if as_json:
        print_json({"running": running, "tasks": [record_as_json(each) for each in ended]})
        return
    if not running and not ended:
        click.echo('no tasks yet; ask something: cactus-mesh ask "What is a router?"')
        return
    now = time.time()
    for line in (*map(_running_line, running), *(_line(each, now) for each in ended)):
        click.echo(line)


async def _running(home: Home, role: str | None) -> list[dict[str, Any]]:
    """What a running node of this home has under way; nothing where none runs."""
    from cactus_mesh.control import ask_home

    try:
        found = await ask_home(home, "live")
    except NodeNotRunning:
        return []
    return [task for task in found.get("running", []) if role in (None, task["role"])]


# --- a line each -------------------------------------------------------------------------------------------------


def _running_line(task: dict[str, Any]) -> str:
    tokens = f"{task['tokens'] or 0} tokens"
    head = f"{printable(str(task['id']))[:SHOWN_ID]}  {paint('running  ', 'cyan')}  {task['role'][:12]:12}"
    return f"{head}  {_fit(task['model'] or '?'):{_MODEL_WIDTH}}  {tokens:>10}  for {ago(task['seconds'] or 0)}"


def _line(record: TaskRecord, now: float) -> str:
    state = paint(f"{record.state:9}", _COLOURS[record.state])
    what = record.code if record.state == "failed" else f"{record.tokens or 0} tokens"
    paid = "" if record.state == "failed" else f"  {_octas(record)}"
    head = f"{record.task_id.hex()[:SHOWN_ID]}  {state}  {record.role:12}"
    return f"{head}  {_fit(record.model):{_MODEL_WIDTH}}  {what:>10}{paid}  {ago(now - record.at)} ago"


def _octas(record: TaskRecord) -> str:
    if record.paid is not None:
        return f"{record.paid:>9,} octas"
    return f"≤{record.price:>8,} octas" if record.price is not None else f"{'':>15}"


def _fit(text: str) -> str:
    text = printable(text).replace("\n", " ")
    return text if len(text) <= _MODEL_WIDTH else text[: _MODEL_WIDTH - 1] + "…"


# --- everything about one ----------------------------------------------------------------------------------------


async def _explain(records: Records, task_id: str, config: Config | None, *, as_json: bool) -> None:
    from cactus_mesh.core.proofs import examine, unpack

    found = one_task(records, task_id)
    silence: MeshError | None = None
    if config is not None and found[0].to_be_paid and found[0].chain == chain_of(config):
        try:
            async with open_chain(config) as chain:
                await look_up(records, chain, found)
            found = one_task(records, task_id)
        except LedgerError as error:
            silence = error
    proven = [(each, examine(unpack(each.proof)) if each.proof else None) for each in found]
    if as_json:
        print_json({"task_id": found[0].task_id.hex(), "parts": [_part_as_json(*each) for each in proven]})
        return
    for number, (record, examined) in enumerate(proven):
        if number:
            click.echo()
        for line in lines_of(record, examined, time.time()):
            click.echo(line)
    if silence is not None:
        say(f"\nthe ledger was not asked what it paid: {printable(str(silence))}")


def _part_as_json(record: TaskRecord, examined: Examined | None) -> dict[str, Any]:
    from cactus_mesh.cli.receipts import checks_as_json, documents_as_json

    return {
        **record_as_json(record),
        "receipt": None if examined is None else checks_as_json(examined),
        "documents": documents_as_json(record),
    }


def lines_of(record: TaskRecord, examined: Examined | None, now: float) -> Iterator[str]:
    """One part in a task, for people."""
    yield from _row("task", f"{paint(record.task_id.hex(), 'bold')}  {paint(record.state, _COLOURS[record.state])}")
    yield from _row("what", f"{record.kind} with {printable(record.model)}, here as {record.role}")
    yield from _row("when", f"{when(int(record.at), now)}{_times(record)}")
    if record.code:
        yield from _row("failed", f"{record.code}; docs/errors.md says what it means and what to do")
    yield from _row("client", record.client)
    for name in ("router", "orchestrator", "delegate"):
        if (peer := getattr(record, name)) is not None:
            yield from _row("worked on" if name == "delegate" else name, f"{peer}{_is_me(record, peer)}")
    if record.tokens is not None:
        compute = "" if record.compute_ms is None else f", {record.compute_ms:,} ms of compute"
        yield from _row("tokens", f"{record.prompt_tokens or 0:,} in, {record.tokens:,} out{compute}")
    yield from _row("agreed", f"at most {octas(record.max_price)}")
    if record.price is not None:
        yield from _row("claimed", f"{octas(record.price)} by its receipt: the orchestrator's prices for these tokens")
    yield from _row("paid", _paid(record, now))
    yield from _receipt(record, examined)


def _row(title: str, text: str) -> Iterator[str]:
    """Long text goes on below; names and ids are never broken."""
    first, *more = textwrap.wrap(text, WIDTH - _TITLE, break_long_words=False, break_on_hyphens=False) or [""]
    yield f"{title:{_TITLE}}{first}"
    yield from (f"{'':{_TITLE}}{line}" for line in more)


def _times(record: TaskRecord) -> str:
    if record.latency_ms is None:
        return ""
    first = "" if record.first_token_ms is None else f", its first text after {record.first_token_ms / 1_000:.2f} s"
    return f"; over in {record.latency_ms / 1_000:.2f} s{first}"


def _is_me(record: TaskRecord, peer: str) -> str:
    return " (this home)" if peer == record.party else ""


def _paid(record: TaskRecord, now: float) -> str:
    if record.paid is None:
        if not record.to_be_paid:
            return "nothing: nobody had taken it"
        if now > record.until:
            return "not known; after its consent had run out the ledger settles nothing: ask it without --offline"
        return f"not settled yet; the ledger settles it until {when(record.until, now)}"
    if not record.paid:
        return "nothing: the ledger has not settled it, and now it can't be any more"
    assert record.to_orchestrator is not None, "a sum comes with its parts"
    assert record.to_delegate is not None, "a sum comes with its parts"
    assert record.fee is not None, "a sum comes with its parts"
    delegate = f", {record.to_delegate:,} to who did the work for it" if record.to_delegate else ""
    least = "the least of what was claimed, what was agreed and the contract's own formula"
    parts = f"{record.to_orchestrator:,} to the orchestrator{delegate}, {record.fee:,} as fee"
    return f"{octas(record.paid)}: {parts}; it is {least}"


def _receipt(record: TaskRecord, examined: Examined | None) -> Iterator[str]:
    if examined is None:
        why = "nobody sent one" if record.tokens is None else "not kept, or made room for newer ones"
        yield from _row("receipt", why)
        return
    held = [check for check in examined.checks if check.holds]
    verdict = paint("it holds", "green") if examined.holds else paint("IT DOES NOT HOLD", "red")
    yield from _row("receipt", f"{verdict}; {len(held)} of {len(examined.checks)} checks, made here and now:")
    for check in examined.checks:
        mark = {True: paint("ok ", "green"), False: paint("NO ", "red"), None: "-  "}[check.holds]
        first, *more = textwrap.wrap(printable(check.words), WIDTH - _TITLE - 4, break_long_words=False) or [""]
        yield f"{'':{_TITLE}}{mark} {first}"
        yield from (f"{'':{_TITLE}}    {line}" for line in more)
