"""``receipts``: the signed documents of this home's tasks in a file, and whether such a file can be believed."""

from __future__ import annotations

import csv
import io
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from cactus_mesh.cli.base import json_option, main, plain_command
from cactus_mesh.cli.completing import task_ids
from cactus_mesh.cli.recorded import COLUMNS, as_json, existing, moment, one_task
from cactus_mesh.errors import OutputExists, ReceiptRejected, TaskNotKept, UsageError
from cactus_mesh.terminal import flush, octas, paint, print_json, printable, say

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from cactus_mesh.config import Home
    from cactus_mesh.core.proofs import Examined, Proof
    from cactus_mesh.records import TaskRecord

VERSION: Final = 1
"""Of the JSON export."""
BROKEN: Final = 7
"""The exit status when a receipt does not hold, as of `doctor` when something fails."""
MAX_FILE_BYTES: Final = 2 << 30
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
"""How a cell begins that a spreadsheet would run (OWASP, CSV injection)."""


@main.group()
def receipts() -> None:
    """Signed receipts: export them, and verify them offline.

    \b
    Example: cactus-mesh receipts export --since 7d --out receipts.csv
    """


# --- export ------------------------------------------------------------------------------------------------------


@receipts.command()
@click.option("--csv", "as_csv", is_flag=True, help="A table without the documents. The default.")
@json_option
@click.option("--since", metavar="TIME", help="A day (2026-11-23, UTC), a time (2026-11-23T08:00), or 36h, 7d, 2w ago.")
@click.option("--until", metavar="TIME", help="Likewise; a day counts to its end.")
@click.option("--role", type=click.Choice(["client", "orchestrator", "router"]), help="Only this part in the tasks.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Into this file (0600), all or nothing.")
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
@click.pass_obj
@plain_command
def export(
    home: Home,
    as_csv: bool,
    as_json: bool,
    since: str | None,
    until: str | None,
    role: str | None,
    out: Path | None,
    force: bool,
) -> None:
    """Write this home's tasks out: figures as CSV, or with their signed documents as JSON.

    The JSON is what `receipts verify` reads, on any machine.  It holds the token ids of answers, never a prompt.

    \b
    Example: cactus-mesh receipts export --json --since 2026-11-01 --out november.json
    """
    from cactus_mesh.files import write_private_pieces
    from cactus_mesh.records import open_records

    if as_csv and as_json:
        raise UsageError("choose one: --csv or --json")
    begin, end = moment(since) or 0.0, moment(until, end=True) or time.time() + 1
    if out is not None and out.exists() and not force:
        raise OutputExists(f"{out} is there already; name another file with --out, or replace it with --force")
    with open_records(existing(home.records_file)) as records:
        chosen = records.between(begin, end, role=role)
        pieces = _json_pieces(chosen) if as_json else _csv_pieces(chosen)
        if out is None:
            for piece in pieces:
                click.echo(piece, nl=False)
            flush()
            return
        try:
            write_private_pieces(out, (piece.encode() for piece in pieces))
        except OSError as error:
            raise UsageError(f"cannot write {out} ({error.strerror}); name another file with --out") from None
    say(f"wrote {out}")


def _csv_pieces(records: Iterable[TaskRecord]) -> Iterator[str]:
    yield _csv_row(COLUMNS)
    for record in records:
        yield _csv_row(["" if value is None else _harmless(value) for value in as_json(record).values()])


def _csv_row(values: Iterable[object]) -> str:
    into = io.StringIO()
    csv.writer(into).writerow(values)
    return into.getvalue()


def _harmless(value: object) -> object:
    """Names come from peers: none of them is to be run as a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _json_pieces(records: Iterable[TaskRecord]) -> Iterator[str]:
    yield f'{{"version": {VERSION}, "receipts": ['
    for number, record in enumerate(records):
        yield "," if number else ""
        yield "\n" + json.dumps({**as_json(record), "documents": documents_as_json(record)}, ensure_ascii=False)
    yield "\n]}\n"


def documents_as_json(record: TaskRecord) -> dict[str, Any] | None:
    """Bytes in base64."""
    import msgspec

    from cactus_mesh.core.proofs import unpack

    if record.proof is None:
        return None
    found: dict[str, Any] = msgspec.to_builtins(unpack(record.proof))
    return found


# --- verify ------------------------------------------------------------------------------------------------------


@receipts.command()
@click.argument("source", metavar="FILE|ID", shell_complete=task_ids)
@json_option
@click.pass_obj
@plain_command
def verify(home: Home, source: str, as_json: bool) -> None:
    """Check signatures, digests and prices of receipts; asks neither network nor ledger.

    FILE is what `receipts export --json` or `tasks ID --json` wrote, - for standard input; ID a task of this home, or
    how it begins.  Whether they were settled only the ledger tells.  Exit status 7 when a receipt does not hold.

    \b
    Example: cactus-mesh receipts verify november.json
    """
    shown = [_verified(figures, proof) for figures, proof in _read(home, source)]
    broken = [each for each in shown if not each["holds"]]
    if as_json:
        print_json({"receipts": len(shown), "broken": len(broken), "results": shown})
    else:
        for each in shown:
            _show(each)
        click.echo(f"{len(shown) - len(broken)} of {len(shown)} receipts hold")
    if broken:
        sys.exit(BROKEN)


def _read(home: Home, source: str) -> list[tuple[dict[str, Any], Proof]]:
    """What is said beside each receipt, and its documents.  Tasks without documents are left out."""
    from cactus_mesh.core.proofs import unpack
    from cactus_mesh.records import open_records

    if source == "-" or Path(source).exists():
        return _in_file(source)
    if any(letter in source for letter in "./\\"):
        raise UsageError(f"there is no file {source}; export one with: cactus-mesh receipts export --json --out FILE")
    with open_records(existing(home.records_file)) as records:
        found = one_task(records, source)
    proven = [(as_json(each), unpack(each.proof)) for each in found if each.proof]
    if not proven:
        raise TaskNotKept(f"task {found[0].task_id.hex()} has no receipt here: see: cactus-mesh tasks {source}")
    return proven


def _in_file(source: str) -> list[tuple[dict[str, Any], Proof]]:
    import msgspec

    from cactus_mesh.core.proofs import Proof

    try:
        if source != "-" and Path(source).stat().st_size > MAX_FILE_BYTES:
            raise UsageError(f"{source} is larger than {MAX_FILE_BYTES >> 30} GiB; export fewer tasks at a time")
        data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
        content = msgspec.json.decode(data, type=dict[str, Any])
        items = content.get("receipts", content.get("parts"))
        if not isinstance(items, list):
            raise UsageError(f"{source} holds no receipts; export them with: cactus-mesh receipts export --json")
        return [
            (item, msgspec.convert(item["documents"], Proof))
            for item in items
            if isinstance(item, dict) and item.get("documents")
        ]
    except OSError as error:
        raise UsageError(f"cannot read {source} ({error.strerror})") from None
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise ReceiptRejected(
            f"{source} is no export of receipts ({error}); a CSV has no signatures: export with --json"
        ) from None


def _verified(figures: dict[str, Any], proof: Proof) -> dict[str, Any]:
    from cactus_mesh.core.proofs import Check, Examined, examine

    examined = examine(proof)
    differing = _differing(figures, examined)
    words = f"the figures beside it are others: {', '.join(differing)}" if differing else "the figures beside it agree"
    figured = Check("figures", not differing, words)
    whole = Examined((*examined.checks, figured), examined.receipt, examined.claim, examined.audited)
    claim = examined.claim
    return {
        "task_id": None if claim is None else claim.task_id.hex(),
        "price_octas": None if claim is None else claim.price,
        **checks_as_json(whole),
    }


def _differing(figures: dict[str, Any], examined: Examined) -> list[str]:
    """What is written beside the documents and not borne out by them."""
    if examined.receipt is None or examined.claim is None:
        return []
    signed = {
        "task_id": examined.claim.task_id.hex(),
        "client": examined.claim.client,
        "price_octas": examined.claim.price,
        "tokens": len(examined.receipt.token_ids),
        "prompt_tokens": examined.receipt.prompt_tokens,
        "compute_ms": examined.receipt.compute_ms,
    }
    return [name for name, value in signed.items() if figures.get(name) not in (None, value)]


def checks_as_json(examined: Examined) -> dict[str, Any]:
    return {
        "holds": examined.holds,
        "audited": examined.audited,
        "checks": [{"name": each.name, "holds": each.holds, "words": each.words} for each in examined.checks],
    }


def _show(found: dict[str, Any]) -> None:
    if found["holds"]:
        click.echo(f"{paint('holds', 'green')}   {found['task_id']}  {octas(found['price_octas'])}")
        return
    click.echo(f"{paint('BROKEN', 'red')}  {found['task_id'] or 'unreadable'}")
    for check in found["checks"]:
        if check["holds"] is False:
            click.echo(f"        {check['name']} fails: {printable(check['words'])}")
