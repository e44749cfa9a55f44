"""``python -m tests.nat.matrix [--write]``: a task through every pair of networks, and what paths its peers found.

One mesh holds a client, a router and an orchestrator on each kind of network, each behind a router of its own.  For a
pair the client asks for the model that only this orchestrator serves, while only the router of a third kind runs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

from cactus_mesh.testing.engine import FAKE_TEXT
from tests.nat.lab import OrderFailed, open_lab
from tests.nat.namespaces import why_not
from tests.nat.routers import KINDS, direct_expected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from tests.nat.lab import Lab, Process
    from tests.nat.routers import Kind

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "nat.md"
BEGIN: Final = "<!-- matrix: written by make nat -->"
END: Final = "<!-- end of the matrix -->"
DIRECT_SECONDS: Final = 5.0
"""In which an expected direct connection is to be there."""
PATIENCE_SECONDS: Final = 15.0
"""For which it is waited for, so that a late one can be told from none."""
UNEXPECTED_SECONDS: Final = 3.0
"""For which an unexpected one is."""
STARTS_AT_ONCE: Final = 3
PAIR_SECONDS: Final = 120.0
COVERING: Final[tuple[tuple[Kind, Kind], ...]] = (
    ("public", "random"),
    ("preserving", "changing"),
    ("changing", "resetting"),
    ("random", "random"),
    ("random", "preserving"),
    ("firewall", "double"),
    ("resetting", "firewall"),
    ("double", "public"),
)
"""Each kind on both sides, both symmetric, every way of becoming direct or not."""


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one pair.  Seconds, milliseconds and MB/s, there and back; None where there was no such path."""

    client: Kind
    router: Kind
    orchestrator: Kind
    outcome: str
    """``completed``, or the code of the error with which the task ended."""
    direct_expected: bool
    direct: bool
    direct_seconds: float | None
    relayed_rtt_ms: float | None
    direct_rtt_ms: float | None
    relayed_mb_per_s: float | None
    direct_mb_per_s: float | None
    task_seconds: float | None
    task_path: str
    """How client and router, router and orchestrator were connected after the task."""
    note: str = ""

    @property
    def completed(self) -> bool:
        return self.outcome == "completed"

    @property
    def in_time(self) -> bool:
        return self.direct_seconds is not None and self.direct_seconds <= DIRECT_SECONDS


@dataclass(frozen=True, slots=True)
class Outcome:
    """*strays* are the packets to private addresses of other networks, by where they were caught."""

    rows: list[Row]
    strays: dict[str, int]

    @property
    def good(self) -> bool:
        direct = all(row.in_time for row in self.rows if row.direct_expected)
        return direct and all(row.completed for row in self.rows) and not self.strays


def every_pair() -> list[tuple[Kind, Kind]]:
    return list(itertools.product(KINDS, KINDS))


def third(client: Kind, orchestrator: Kind) -> Kind:
    """The kind of the router for this pair: neither of the two, all of them in turn."""
    start = KINDS.index(client) + KINDS.index(orchestrator)
    turned = (KINDS[(start + step) % len(KINDS)] for step in range(1, len(KINDS) + 1))
    return next(kind for kind in turned if kind not in (client, orchestrator))


# --- the run -------------------------------------------------------------------------------------------------------


async def run_pairs(pairs: Sequence[tuple[Kind, Kind]], *, routers: Sequence[Kind] = ()) -> Outcome:
    """Rows in the order of *pairs*; *routers* names the kinds that routers may be on, by default all."""
    rows: dict[tuple[Kind, Kind], Row] = {}
    async with open_lab() as lab:
        await _start(lab, pairs)
        by_router: dict[Kind, list[tuple[Kind, Kind]]] = {}
        for pair in pairs:
            chosen = next((kind for kind in routers if kind not in pair), None) or third(*pair)
            by_router.setdefault(chosen, []).append(pair)
        for kind, its_pairs in by_router.items():
            async with _router(lab, kind, *{orchestrator for _, orchestrator in pairs}):
                for pair in its_pairs:
                    with trio.fail_after(PAIR_SECONDS):
                        rows[pair] = await _pair(lab, *pair, kind)
                    print(_progress(rows[pair], len(rows), len(pairs)), file=sys.stderr)
        strays = lab.internet.strays()
    return Outcome([rows[pair] for pair in pairs], strays)


async def _start(lab: Lab, pairs: Iterable[tuple[Kind, Kind]]) -> None:
    """A client and an orchestrator for each kind that *pairs* need."""
    limiter = trio.CapacityLimiter(STARTS_AT_ONCE)

    async def start(role: str, kind: Kind, engine: dict[str, Any]) -> None:
        async with limiter:
            await lab.node(f"{role}-{kind}", role, kind, engine)

    async with trio.open_nursery() as nursery:
        for kind in dict.fromkeys(orchestrator for _, orchestrator in pairs):
            nursery.start_soon(start, "orchestrator", kind, {"model": kind, "delay_seconds": 0.02})
        for kind in dict.fromkeys(client for client, _ in pairs):
            nursery.start_soon(start, "client", kind, {})


@asynccontextmanager
async def _router(lab: Lab, kind: Kind, *orchestrators: Kind) -> AsyncIterator[Process]:
    router = await lab.node(f"router-{kind}", "router", kind)
    try:
        await lab.acquainted(router, *orchestrators)
        yield router
    finally:
        with trio.CancelScope(shield=True):
            await router.stop()


async def _pair(lab: Lab, client: Kind, orchestrator: Kind, router: Kind) -> Row:
    asker, worker = lab.processes[f"client-{client}"], lab.processes[f"orchestrator-{orchestrator}"]
    path, note = await _path(asker, worker, direct_expected(client, orchestrator))
    outcome, seconds = "completed", None
    try:
        answer = await asker.do("ask", model=orchestrator, within=60.0)
        seconds = answer["seconds"]
        if answer["text"] != FAKE_TEXT or answer["orchestrator"] != worker.peer_id:
            outcome = "wrong answer"
    except OrderFailed as error:
        outcome, note = error.code, error.message
    except trio.TooSlowError:
        outcome = "no end"
    return Row(
        client=client,
        router=router,
        orchestrator=orchestrator,
        outcome=outcome,
        direct_expected=direct_expected(client, orchestrator),
        task_seconds=seconds,
        task_path=await _task_path(asker, lab.processes[f"router-{router}"], worker),
        note=note,
        **path,
    )


async def _path(asker: Process, worker: Process, expected: bool) -> tuple[dict[str, Any], str]:
    """Connect *asker* to *worker* by its key alone, and watch the path; what was measured, or why nothing was."""
    found: dict[str, Any] = {"direct_seconds": None, "relayed": None, "direct": None}
    why = ""
    try:
        found = await asker.do(
            "path", peer=worker.peer_id, patience=PATIENCE_SECONDS if expected else UNEXPECTED_SECONDS
        )
        why = found["why_relayed"] if expected else ""
    except (OrderFailed, trio.TooSlowError) as error:
        why = str(error)
    relayed, direct = found["relayed"] or {}, found["direct"] or {}
    return {
        "direct": found["direct_seconds"] is not None,
        "direct_seconds": found["direct_seconds"],
        "relayed_rtt_ms": relayed.get("rtt_ms"),
        "direct_rtt_ms": direct.get("rtt_ms"),
        "relayed_mb_per_s": relayed.get("mb_per_s"),
        "direct_mb_per_s": direct.get("mb_per_s"),
    }, why


async def _task_path(asker: Process, router: Process, worker: Process) -> str:
    """The two connections that carried the task, as the router sees them."""
    peers = {peer["peer"]: peer for peer in (await router.do("status"))["peers"]}
    words = {True: "relayed", False: "direct", None: "gone"}
    return ", ".join(words[peers.get(each.peer_id, {}).get("relayed")] for each in (asker, worker))


# --- the report ----------------------------------------------------------------------------------------------------


def figures(rows: Sequence[Row]) -> dict[str, float]:
    return {
        "pairs": len(rows),
        "completed": sum(row.completed for row in rows),
        "direct_expected": sum(row.direct_expected for row in rows),
        "direct_reached": sum(row.direct_expected and row.in_time for row in rows),
    }


def _progress(row: Row, done: int, count: int) -> str:
    path = "no direct connection" if row.direct_seconds is None else f"direct after {row.direct_seconds:.1f} s"
    pair = f"{row.client} - {row.router} - {row.orchestrator}"
    return f"{done:3}/{count} {pair:40} {row.outcome:12} {path:24} {row.task_path:20} {row.note}"


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = [
        "| client | orchestrator | router | task | expected | the two became | relayed ms, MB/s | direct ms, MB/s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        path = "relayed" if row.direct_seconds is None else f"direct, {row.direct_seconds:.1f} s"
        task = f"{row.outcome}, {row.task_seconds:.1f} s" if row.task_seconds else row.outcome
        relayed = _pair_of(row.relayed_rtt_ms, row.relayed_mb_per_s)
        direct = _pair_of(row.direct_rtt_ms, row.direct_mb_per_s)
        expected = "direct" if row.direct_expected else "relayed"
        cells = (row.client, row.orchestrator, row.router, task, expected, path, relayed, direct)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _pair_of(milliseconds: float | None, rate: float | None) -> str:
    return ", ".join("-" if value is None else f"{value:.1f}" for value in (milliseconds, rate))


def write(outcome: Outcome) -> None:
    """Put the table into the document, between its marks."""
    counts = figures(outcome.rows)
    text = DOCUMENT.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    said = (
        f"{counts['completed']:.0f} of {counts['pairs']:.0f} tasks completed; {counts['direct_reached']:.0f} of "
        f"{counts['direct_expected']:.0f} pairs that can be direct were so within {DIRECT_SECONDS:.0f} s. "
        f"{sum(outcome.strays.values()) or 'No'} packets to private addresses left their networks."
    )
    DOCUMENT.write_text(f"{before}{BEGIN}\n{said}\n\n{table(outcome.rows)}\n{END}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.nat.matrix", description=__doc__)
    parser.add_argument("--covering", action="store_true", help="only the pairs that CI runs")
    parser.add_argument("--write", action="store_true", help=f"write the table to {DOCUMENT.name}")
    parser.add_argument("--json", action="store_true", help="print rows and figures as JSON")
    arguments = parser.parse_args()
    if why_not():
        sys.exit(f"the lab cannot be made here: {why_not()}")
    outcome = trio.run(run_pairs, COVERING if arguments.covering else every_pair())
    rows = outcome.rows
    if arguments.write:
        write(outcome)
    if arguments.json:
        print(json.dumps({"figures": figures(rows), **asdict(outcome)}))
    else:
        print(table(rows))
        print(figures(rows))
        print("packets to private addresses of other networks:", outcome.strays or "none")
    sys.exit(0 if outcome.good else 1)


if __name__ == "__main__":
    main()
