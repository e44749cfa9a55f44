"""The Move contract does what the Python rules do, and a difference of one line would be seen."""

from __future__ import annotations

import os
import secrets
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from cactus_mesh.ledger.contract import ENTRY_TYPES
from cactus_mesh.ledger.rules import CODES, clients, disputes, payment
from tests.contracts.toolchain import REQUIRED
from tests.ledger import differential
from tests.ledger.differential import Mismatch, compare, fails, mutated, shrink

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.contracts.vm import MoveVm
    from tests.ledger.operation import Operation

ALL_OPERATIONS = 10_000
OPERATIONS = int(os.environ.get("CACTUS_DIFFERENTIAL_OPERATIONS", ALL_OPERATIONS if REQUIRED else 1_000))
"""In one run of the tests, half with a fixed seed and half with a fresh one; all of them where Move is required."""
FIXED_SEED = 20_261_126
MUTANT_OPERATIONS = 20_000
"""Within so many operations a mutant must be caught; most take a few hundred."""


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """How often each entry succeeded and each code was given, as abort or as reason to skip."""
    counted: Counter[str] = Counter()
    run = differential.run_python

    def counting(state: differential.State, operation: Operation) -> differential.Outcome:
        outcome = run(state, operation)
        counted[CODES[outcome.code].name if outcome.code is not None else operation.entry] += 1
        counted.update(CODES[int(data["reason"])].name for name, data in outcome.events if name == "SettlementSkipped")
        return outcome

    monkeypatch.setattr(differential, "run_python", counting)
    return counted


def test_both_sides_agree_after_every_operation(vm: MoveVm, seen: Counter[str]) -> None:
    compared = compare(vm, FIXED_SEED, OPERATIONS // 2)
    print(f"{compared} operations with the fixed seed {FIXED_SEED} agree")
    if OPERATIONS >= ALL_OPERATIONS:
        expected = ENTRY_TYPES.keys() | {code.name for code in CODES.values()}
        assert expected - seen.keys() == set(), "the operations have become too tame"


def test_both_sides_agree_with_a_fresh_seed(vm: MoveVm) -> None:
    seed = secrets.randbits(32)
    compared = compare(vm, seed, OPERATIONS // 2)
    print(f"{compared} operations with the fresh seed {seed} agree")


@pytest.mark.parametrize(
    ("module", "function", "old", "new"),
    [
        (payment, "consent_refused", "tx.now > consent.expires_at", "tx.now >= consent.expires_at"),
        (clients, "withdraw", "entry.release_at <= tx.now)", "entry.release_at < tx.now)"),
        (disputes, "_slash", "min(amount, _loss(state, incident))", "min(amount, 0)"),
    ],
    ids=["a boundary", "a deadline", "who is paid"],
)
def test_a_change_of_one_line_is_caught_and_shrunk(
    vm: MoveVm, module: object, function: str, old: str, new: str
) -> None:
    with (
        mutated(module, function, old, new),
        pytest.raises(Mismatch, match=r"the smallest sequence found") as caught,
    ):
        compare(vm, FIXED_SEED, MUTANT_OPERATIONS)
    lines = str(caught.value).split("the smallest sequence found")[1].splitlines()[1:]
    print(f"{function}: {len(lines)} operations show it\n" + "\n".join(lines))
    assert len(lines) <= 15
    assert fails(vm, []) is None


def test_shrinking_keeps_what_fails_and_drops_the_rest() -> None:
    needed = [3, 17, 40]
    assert shrink(list(range(50)), lambda some: all(each in some for each in needed)) == needed  # type: ignore[arg-type]
