"""docs/contract.md says what the code does: its tables are the code's, its example is computed."""

from __future__ import annotations

import re
from pathlib import Path

from cactus_mesh.ledger.contract import VIEW_TYPES, error_of
from cactus_mesh.ledger.rules import BOUNDS, CODES
from cactus_mesh.ledger.rules.events import TaskCompleted
from cactus_mesh.ledger.rules.params import Params, values_of
from tests.ledger.world import ADMIN, DELEGATE, World, settlement

PAGE = Path(__file__).parents[2] / "docs" / "contract.md"


def parameter_table() -> str:
    rows = ["| parameter | unit | least | default | most | meaning |", "|---|---|---:|---:|---:|---|"]
    defaults = values_of(Params())
    rows += [
        f"| `{name}` | {bound.unit} | {bound.low:,} | {defaults[name]:,} | {bound.high:,} | {bound.meaning} |"
        for name, bound in BOUNDS.items()
    ]
    return "\n".join(rows)


def error_table() -> str:
    rows = ["| code | number | meaning | what to do | raised as |", "|---|---|---|---|---|"]
    rows += [
        f"| `{code.name}` | {code.number:#x} | {code.meaning} | {code.advice} "
        f"| `{type(error_of(code.number, 'entry')).__name__}` |"
        for code in CODES.values()
    ]
    return "\n".join(rows)


def test_the_parameter_table_is_the_codes() -> None:
    assert parameter_table() in PAGE.read_text(encoding="utf-8"), "run: python -m tests.ledger.test_docs"


def test_the_error_table_is_the_codes() -> None:
    assert error_table() in PAGE.read_text(encoding="utf-8"), "run: python -m tests.ledger.test_docs"


def test_the_worked_example_is_what_the_rules_compute(world: World) -> None:
    before = {who.address: world.coins(who) for who in (ADMIN, DELEGATE)}
    (done,) = world.settle(settlement(claim={"delegate": DELEGATE.address, "delegate_bps": 4_000}))
    assert isinstance(done, TaskCompleted)
    table = dict(re.findall(r"^\| ([a-z][^|]+?) \| ([\d,]+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    example = {step: int(octas.replace(",", "")) for step, octas in table.items()}
    assert example["gross (a newcomer: 0.95 of work)"] == done.max_price - done.refund
    assert example["fee"] == done.fee
    assert example["of it to the treasury"] == world.coins(ADMIN) - before[ADMIN.address]
    assert example["to the delegate's owner"] == world.coins(DELEGATE) - before[DELEGATE.address]
    assert example["to the orchestrator's owner"] == done.payout
    assert example["refund to the client's deposit"] == done.refund
    assert example["base"] + example["computation"] + example["compute time"] == example["work"]
    assert example["work"] * 950_000 // 1_000_000 == example["gross (a newcomer: 0.95 of work)"]


def test_every_view_is_named() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert [name for name in VIEW_TYPES if f"`{name}" not in text] == []


def write() -> None:
    """Put the code's tables into the page, after their markers."""
    text = PAGE.read_text(encoding="utf-8")
    for marker, table in (("<!-- parameters -->", parameter_table()), ("<!-- errors -->", error_table())):
        text = re.sub(rf"{marker}\n(?:\n(?:\|.*\n)+)?", lambda _, m=marker, t=table: f"{m}\n\n{t}\n", text)
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write()
