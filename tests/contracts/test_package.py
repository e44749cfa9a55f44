"""The Move package compiles, its own tests pass and cover it, and it declares what the Python side declares."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import tomllib
import typing
from typing import TYPE_CHECKING, Any

import pytest

from cactus_mesh.identity import Address, PublicKey
from cactus_mesh.ledger.contract import ENTRY_TYPES, MODULE, OPTIONAL_VIEWS, VIEW_TYPES
from cactus_mesh.ledger.rules import BOUNDS, CODES, events
from tests.contracts.toolchain import CONTRACTS, CompilerFailed, Toolchain, compiler, offline_package
from tests.contracts.vm import MoveVm, VmFailed

if TYPE_CHECKING:
    from pathlib import Path

LEAST_COVERAGE = 0.97
SOURCE = (CONTRACTS / "sources" / f"{MODULE}.move").read_text(encoding="utf-8")
TESTS = "".join(path.read_text(encoding="utf-8") for path in (CONTRACTS / "tests").glob("*.move"))


@pytest.fixture(scope="module")
def tested(tools: Toolchain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package after its unit tests, with their coverage."""
    package = offline_package(tmp_path_factory.mktemp("offline") / "package")
    said = compiler(tools, "test", package)
    assert (result := re.search(r"Total tests: (\d+); passed: (\d+); failed: 0", said))
    assert result[1] == result[2]
    assert int(result[1]) == TESTS.count("#[test]")
    return package


def test_the_contract_compiles_without_a_warning(tools: Toolchain, tmp_path: Path) -> None:
    said = compiler(tools, "build", offline_package(tmp_path / "package"))
    assert "warning" not in said


@pytest.fixture(scope="module")
def coverage(tools: Toolchain, tested: Path) -> dict[tuple[str, str], tuple[int, int]]:
    """Covered and all bytecode instructions of each function of the contract, by module and name."""
    rows = re.findall(r"^\w+::(\w+),(\w+),(\d+),(\d+)$", compiler(tools, "coverage", tested), re.MULTILINE)
    ours = {path.stem for path in (CONTRACTS / "sources").glob("*.move")}
    return {(module, name): (int(some), int(whole)) for module, name, some, whole in rows if module in ours}


def test_every_public_and_entry_function_is_run_by_the_move_tests(
    coverage: dict[tuple[str, str], tuple[int, int]],
) -> None:
    for path in (CONTRACTS / "sources").glob("*.move"):
        code = re.sub(r"#\[test_only\]\s*(?:///[^\n]*\s*)*public fun \w+", "", path.read_text(encoding="utf-8"))
        names = re.findall(r"public(?:\(package\))?\s+(?:entry\s+)?fun\s+(\w+)", code)
        assert names
        assert [name for name in names if coverage[path.stem, name][0] == 0] == []


def test_the_move_tests_cover_the_bytecode(coverage: dict[tuple[str, str], tuple[int, int]]) -> None:
    covered, whole = (sum(column) for column in zip(*coverage.values(), strict=True))
    print(f"Move coverage: {covered} of {whole} instructions, {covered / whole:.2%}")
    assert covered / whole >= LEAST_COVERAGE


def test_every_error_code_is_declared_as_in_python_and_provoked_by_a_move_test() -> None:
    declared = re.findall(r"    /// (.+)\n    const (E_\w+): u64 = (0x[0-9a-f]+);", SOURCE)
    assert {name: int(number, 16) for _, name, number in declared} == {c.name: c.number for c in CODES.values()}
    meanings = {code.name: f"{code.meaning[0].upper()}{code.meaning[1:]}." for code in CODES.values()}
    assert {name: meaning for meaning, name, _ in declared} == meanings
    provoked = {int(number, 16) for number in re.findall(r"#\[expected_failure\(abort_code = (0x[0-9a-f]+),", TESTS)}
    assert [code.name for code in CODES.values() if code.number not in provoked] == []


def test_every_event_is_declared_as_in_python() -> None:
    declared = {
        name: dict(re.findall(r"(\w+): ([\w<>]+)", fields))
        for name, fields in re.findall(r"#\[event\]\s+struct (\w+) has drop, store \{(.*?)\}", SOURCE, re.DOTALL)
    }
    ours = {
        name: {field: _move_type(kind) for field, kind in typing.get_type_hints(record).items()}
        for name, record in vars(events).items()
        if inspect.isclass(record) and issubclass(record, events.Event) and record is not events.Event
    }
    assert declared == ours


def _move_type(kind: Any) -> str:
    if kind == tuple[int, ...]:
        return "vector<u64>"
    names = {Address: "address", PublicKey: "vector<u8>", bytes: "vector<u8>", int: "u64", bool: "bool", str: "String"}
    return names[kind]


def test_the_bounds_of_the_parameters_are_those_of_python() -> None:
    lowest, highest = (
        [int(value.replace("_", "")) for value in re.findall(r"[\d_]+", text)]
        for text in re.findall(r"const (?:LOWEST|HIGHEST): vector<u64> = vector\[(.*?)\];", SOURCE, re.DOTALL)
    )
    assert lowest == [bound.low for bound in BOUNDS.values()]
    assert highest == [bound.high for bound in BOUNDS.values()]
    assert (entry := re.search(r"entry fun set_params\((.*?)\)", SOURCE, re.DOTALL))
    assert re.findall(r"(\w+): u64", entry[1]) == list(BOUNDS)


@pytest.fixture(scope="module")
def abi(vm: MoveVm, modules: list[Path]) -> dict[str, Any]:
    (path,) = (each for each in modules if each.stem == MODULE)
    functions = vm.ask("abi", str(path))["value"]["exposed_functions"]
    return {each["name"]: each for each in functions if each["visibility"] == "public"}


def test_the_declared_entries_are_those_of_the_compiled_module(abi: dict[str, Any]) -> None:
    entries = {name: tuple(each["params"]) for name, each in abi.items() if each["is_entry"]}
    assert entries == {name: ("&signer", *kinds) for name, kinds in ENTRY_TYPES.items()}


def test_the_declared_views_are_those_of_the_compiled_module(abi: dict[str, Any]) -> None:
    views = {name: each for name, each in abi.items() if each["is_view"]}
    assert {name: tuple(each["params"]) for name, each in views.items()} == VIEW_TYPES
    optional = {name for name, each in views.items() if each["return"][0].startswith("0x1::option::Option<")}
    assert optional == OPTIONAL_VIEWS
    assert abi.keys() == ENTRY_TYPES.keys() | VIEW_TYPES.keys(), "nothing else is public"


def test_both_manifests_differ_in_the_framework_alone() -> None:
    real, offline = (
        tomllib.loads((CONTRACTS / name).read_text(encoding="utf-8")) for name in ("Move.toml", "offline/Move.toml")
    )
    framework = real.pop("dependencies")["AptosFramework"]
    assert offline.pop("dependencies") == {"AptosFramework": {"local": "offline_framework"}}
    assert re.fullmatch(r"[0-9a-f]{40}", framework["rev"]), "a pinned commit"
    assert real == offline


def test_a_compiler_that_finds_an_error_fails_the_test_that_asked(tools: Toolchain, tmp_path: Path) -> None:
    package = offline_package(tmp_path / "package")
    (package / "sources" / "broken.move").write_text("module cactus_mesh::broken { fun f(): u64 { true } }")
    with pytest.raises(CompilerFailed, match="cannot return"):
        compiler(tools, "build", package)


def test_a_vm_that_dies_is_an_error_and_no_crash(tools: Toolchain) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", "import os; os.abort()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process, pytest.raises(VmFailed, match=r"ended|gone"):
        MoveVm(process).ask("mark")
