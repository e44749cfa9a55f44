"""The declared types of the contract's functions are those of the rules."""

from __future__ import annotations

import inspect

from cactus_mesh.ledger.contract import ENTRY_TYPES, VIEW_TYPES, reason_name, settled_items
from cactus_mesh.ledger.rules import BOUNDS, ENTRIES, VIEWS, codes
from cactus_mesh.ledger.rules.disputes import EQUIVOCATION_COLUMNS
from cactus_mesh.ledger.rules.tasks import BATCH_COLUMNS
from cactus_mesh.ports import Settled

VARIADIC = {
    "set_params": len(BOUNDS),
    "settle_batch": len(BATCH_COLUMNS),
    "report_equivocation": 4 + EQUIVOCATION_COLUMNS,
}


def test_every_entry_and_view_is_declared_with_its_arguments() -> None:
    entries = {name: len(inspect.signature(function).parameters) - 2 for name, function in ENTRIES.items()}
    views = {name: len(inspect.signature(function).parameters) - 1 for name, function in VIEWS.items()}
    assert {name: len(types) for name, types in ENTRY_TYPES.items()} == entries | VARIADIC
    assert {name: len(types) for name, types in VIEW_TYPES.items()} == views


def test_a_reason_of_a_newer_contract_is_shown_as_its_number() -> None:
    assert reason_name(codes.PAUSED.number) == "E_PAUSED"
    skipped = ("SettlementSkipped", {"task_id": "0x00", "reason": str(0x7FFFF)})
    assert settled_items([skipped], count=1) == [Settled(b"\x00", None, "error 0x7ffff of a newer contract")]
