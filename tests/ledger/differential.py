"""The Python rules and the compiled Move contract, step by step on the same operations.

An `Operation` is plain data (who, when, which entry, which arguments), so that a sequence can be run again without some
of its members: that is how a failing one is made small.  After each operation everything that either side shows is
compared: outcome, abort code, events, all views of everybody and of all tasks, coins and vaults.
"""

from __future__ import annotations

import dataclasses
import inspect
import random
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from cactus_mesh.ledger import rules
from cactus_mesh.ledger.contract import ENTRY_TYPES, MODULE, VIEW_TYPES
from cactus_mesh.ledger.rules import Abort, State, Tx
from cactus_mesh.ledger.rules.state import SlashKey, TaskKey, vault
from tests.contracts.vm import CONTRACT, MoveAbort, MoveVm
from tests.ledger.operation import START, Operation
from tests.ledger.operations import ACCOUNTS, CHAIN_ID, Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from cactus_mesh.identity import Address

SEQUENCE_LENGTH: Final = 90
"""Long enough for tasks, disputes and withdrawals to run their course, short enough to shrink in seconds."""


class Mismatch(AssertionError):
    """The two sides differ; the message says in what, and after which operations."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one operation did: its events, or the code with which it aborted."""

    code: int | None
    events: list[tuple[str, Any]]


# --- the two sides ------------------------------------------------------------------------------------------------


def new_state() -> State:
    state = rules.init(CHAIN_ID, CONTRACT, CONTRACT)
    state.take_journal()
    return state


def run_python(state: State, operation: Operation) -> Outcome:
    if operation.entry == "mint":
        rules.mint(state, *operation.arguments)
        state.take_journal()
        return Outcome(None, [])
    try:
        events = rules.ENTRIES[operation.entry](state, Tx(operation.sender, operation.now), *operation.arguments)
    except Abort as abort:
        assert not state.take_journal(), "an abort left a trace"
        return Outcome(abort.code.number, [])
    state.take_journal()
    return Outcome(None, [(type(event).__name__, vm_json(event)) for event in events])


def run_move(vm: MoveVm, operation: Operation) -> Outcome:
    if operation.entry == "mint":
        vm.call(CONTRACT, "genesis", "mint", ("address", "u64"), operation.arguments)
        return Outcome(None, [])
    types_ = ENTRY_TYPES[operation.entry]
    try:
        events = vm.call(operation.sender, MODULE, operation.entry, types_, operation.arguments)
    except MoveAbort as abort:
        if abort.module != MODULE or abort.wrote:
            raise Mismatch(f"{operation} aborted in {abort}, and wrote: {abort.wrote}") from abort
        return Outcome(abort.code, [])
    return Outcome(None, events)


@dataclass(frozen=True, slots=True)
class Subjects:
    """What is looked at after each operation."""

    tasks: tuple[TaskKey, ...]
    operators: tuple[Address, ...]

    @classmethod
    def of(cls, state: State, operation: Operation) -> Subjects:
        """Every task that exists, and the one that the operation is about."""
        keys = dict.fromkeys([*state.tasks, *operation.tasks])
        worker = {key: task.orchestrator for key, task in state.tasks.items()}
        return cls(tuple(keys), tuple(worker.get(key, operation.sender) for key in keys))


def look_python(state: State, subjects: Subjects) -> dict[str, Any]:
    views = rules.VIEWS
    return {
        "config": vm_json(views["config"](state)),
        "params": vm_json(views["params"](state)),
        "orchestrators": [vm_json(views["orchestrator"](state, each)) for each in ACCOUNTS],
        "servers": [vm_json(views["server"](state, each)) for each in ACCOUNTS],
        "clients": [vm_json(views["client"](state, each)) for each in ACCOUNTS],
        "rates": [vm_json(views["success_rate"](state, each)) for each in ACCOUNTS],
        "coins": [str(state.coins.get(each, 0)) for each in ACCOUNTS],
        "client_vaults": [str(state.vaults.get(vault(CONTRACT, "client", each), 0)) for each in ACCOUNTS],
        "stake_vaults": [str(state.vaults.get(vault(CONTRACT, "stake", each), 0)) for each in ACCOUNTS],
        "tasks": [vm_json(views["task"](state, *key)) for key in subjects.tasks],
        "disputes": [vm_json(views["dispute"](state, *key)) for key in subjects.tasks],
        "slashed": [
            views["slashed"](state, *SlashKey(operator, *key))
            for key, operator in zip(subjects.tasks, subjects.operators, strict=True)
        ],
        "nonces": [views["nonce_used"](state, key.client, nonce_of(key)) for key in subjects.tasks],
    }


_SNAPSHOT_TYPES: Final = ("vector<address>", "vector<address>", "vector<vector<u8>>", "vector<u64>", "vector<address>")


def look_move(vm: MoveVm, subjects: Subjects) -> dict[str, Any]:
    arguments = (
        list(ACCOUNTS),
        [key.client for key in subjects.tasks],
        [key.task_id for key in subjects.tasks],
        [nonce_of(key) for key in subjects.tasks],
        list(subjects.operators),
    )
    looked: dict[str, Any] = vm.view("hooks", "snapshot", _SNAPSHOT_TYPES, arguments)
    return looked


def nonce_of(key: TaskKey) -> int:
    return int.from_bytes(key.task_id[-8:])


# --- comparing ----------------------------------------------------------------------------------------------------


@dataclass
class Comparison:
    """Both sides after the same operations."""

    vm: MoveVm
    state: State = field(default_factory=new_state)
    now: int = START
    compared: int = 0

    def __post_init__(self) -> None:
        self.vm.ask("reset")

    def step(self, operation: Operation) -> None:
        """Do *operation* on both sides.  Raises `Mismatch`."""
        if operation.now != self.now:
            self.now = operation.now
            self.vm.call(CONTRACT, "genesis", "set_time", ("u64",), (self.now,))
        if operation.entry in VIEW_TYPES:
            self._view(operation)
        else:
            self._entry(operation)
        self.compared += 1

    def _view(self, operation: Operation) -> None:
        ours = vm_json(rules.VIEWS[operation.entry](self.state, *operation.arguments))
        theirs = self.vm.view(MODULE, operation.entry, VIEW_TYPES[operation.entry], operation.arguments)
        _same(operation, operation.entry, ours, theirs)

    def _entry(self, operation: Operation) -> None:
        frozen = {key: each.bonded for key, each in self.state.orchestrators.items() if each.frozen}
        ours, theirs = run_python(self.state, operation), run_move(self.vm, operation)
        _same(operation, "abort code", ours.code, theirs.code)
        _same(operation, "events", ours.events, theirs.events)
        if ours.code is not None:
            return  # neither side wrote anything, so all that was equal still is
        subjects = Subjects.of(self.state, operation)
        _same(operation, "state", look_python(self.state, subjects), look_move(self.vm, subjects))
        self._invariants(operation, frozen, ours)

    def _invariants(self, operation: Operation, frozen: dict[Address, int], outcome: Outcome) -> None:
        broken = list(rules.violations(self.state))
        slashed = sum(int(data["amount"]) for name, data in outcome.events if name == "Slashed")
        for operator, before in frozen.items():
            if self.state.orchestrators[operator].bonded < before - slashed:
                broken.append(f"stake of {operator} left while frozen")
        if broken:
            raise Mismatch(f"{operation} broke: {broken}")


def _same(operation: Operation, what: str, ours: Any, theirs: Any) -> None:
    if ours != theirs:
        differences = "\n".join(_differences(what, ours, theirs))
        raise Mismatch(f"after {operation}\n{differences}")


def _differences(where: str, ours: Any, theirs: Any) -> Iterable[str]:
    if isinstance(ours, dict) and isinstance(theirs, dict) and ours.keys() == theirs.keys():
        for key in ours:
            yield from _differences(f"{where}.{key}", ours[key], theirs[key])
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from _differences(f"{where}[{index}]", one, other)
    elif ours != theirs:
        yield f"  {where}: Python {ours!r}, Move {theirs!r}"


def vm_json(value: Any) -> Any:
    """A value as the VM's JSON shows it: integers as strings, bytes as plain hex, addresses without leading zeros."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return str(value)
    if isinstance(value, bytes):
        return value.hex() or []
    if isinstance(value, str):
        return f"0x{int(value, 16):x}" if value.startswith("0x") and len(value) == 66 else value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: vm_json(getattr(value, name)) for name in _field_names(type(value))}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return {name: vm_json(item) for name, item in zip(value._fields, value, strict=True)}
    assert isinstance(value, list | tuple)
    return [vm_json(item) for item in value]


@cache
def _field_names(record: type) -> tuple[str, ...]:
    return tuple(each.name for each in dataclasses.fields(record))


# --- whole runs ---------------------------------------------------------------------------------------------------


def compare(vm: MoveVm, seed: int, operations: int) -> int:
    """Compare random sequences of at least *operations* operations in all; how many it were.

    Raises `Mismatch` with the smallest sequence found that still shows the first difference.
    """
    rng, done = random.Random(seed), 0
    while done < operations:
        comparison = Comparison(vm)
        writer = Writer(rng, comparison.state)
        sequence: list[Operation] = []
        while len(sequence) < SEQUENCE_LENGTH:
            for operation in writer.next():
                sequence.append(operation)
                try:
                    comparison.step(operation)
                except Mismatch as mismatch:
                    raise Mismatch(_report(vm, seed, sequence, mismatch)) from None
        done += comparison.compared
    return done


def _report(vm: MoveVm, seed: int, sequence: list[Operation], mismatch: Mismatch) -> str:
    small = shrink(sequence, lambda some: fails(vm, some))
    lines = "\n".join(f"  {operation}" for operation in small)
    return f"seed {seed}: {fails(vm, small) or mismatch}\nthe smallest sequence found ({len(small)}):\n{lines}"


def fails(vm: MoveVm, sequence: Sequence[Operation]) -> Mismatch | None:
    comparison = Comparison(vm)
    try:
        for operation in sequence:
            comparison.step(operation)
    except Mismatch as mismatch:
        return mismatch
    return None


def shrink(sequence: list[Operation], still_fails: Callable[[list[Operation]], object]) -> list[Operation]:
    """Leave out ever smaller pieces as long as the rest still fails."""
    size = max(1, len(sequence) // 2)
    while True:
        at = 0
        while at < len(sequence):
            without = sequence[:at] + sequence[at + size :]
            if without and still_fails(without):
                sequence = without
            else:
                at += size
        if size == 1:
            return sequence
        size //= 2


@contextmanager
def mutated(module: Any, function: str, old: str, new: str) -> Iterator[None]:
    """Within the block *function* of *module* has *new* where its source has *old*, for whoever imported it too."""
    before, entry = getattr(module, function), rules.ENTRIES.get(function)
    users = [each for each in vars(rules).values() if inspect.ismodule(each) and vars(each).get(function) is before]
    source = inspect.getsource(inspect.unwrap(before))
    assert source.count(old) == 1
    code = compile("from __future__ import annotations\n" + source.replace(old, new), "mutant", "exec")
    exec(code, vars(module))
    mutant = getattr(module, function)
    try:
        for user in users:
            setattr(user, function, mutant)
        yield
    finally:
        for user in users:
            setattr(user, function, before)
        if entry is not None:
            rules.ENTRIES[function] = entry
