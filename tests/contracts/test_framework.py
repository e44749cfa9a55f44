"""The offline framework promises nothing that the real AptosFramework does not keep.

With CACTUS_APTOS_FRAMEWORK naming a checkout of the real one (the folder of aptos-framework, aptos-stdlib and
move-stdlib, release 1.28 or newer) every signature is compared; for release 1.28, which this compiler can read, the
contract and its tests are compiled against it, unmodified.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.contracts.framework import Function, declarations, differences, read_modules
from tests.contracts.toolchain import CONTRACTS, CompilerFailed, Toolchain, compiler

CHECKOUT = os.environ.get("CACTUS_APTOS_FRAMEWORK")
OURS_ALONE = {"genesis", "ed25519::Generated"}
"""A module for the Move VM that stands for what governance does, and a counter for test keys."""

needs_checkout = pytest.mark.skipif(
    CHECKOUT is None, reason="not compared with the real AptosFramework: CACTUS_APTOS_FRAMEWORK is not set"
)

# The compiler at hand stumbles over three places of release 1.28 itself; none is anything that the contract uses.
_STUMBLES = {
    "permissioned_signer.move": {
        "GrantedPermissionHandles[master_account_addr]\n"
        "            .active_handles.push_back(permissions_storage_addr)": "std::vector::push_back(&mut "
        "borrow_global_mut<GrantedPermissionHandles>(master_account_addr).active_handles, permissions_storage_addr)",
    },
    "account/account_abstraction.move": {
        "DerivableDispatchableAuthenticator[@aptos_framework].auth_functions.add(": "big_ordered_map::add(&mut "
        "borrow_global_mut<DerivableDispatchableAuthenticator>(@aptos_framework).auth_functions, ",
    },
    "coin.move": {
        "public entry fun freeze_coin": "public fun freeze_coin",
        "public entry fun unfreeze_coin": "public fun unfreeze_coin",
    },
}


def offline() -> dict[str, object]:
    found = read_modules((CONTRACTS / "offline_framework").rglob("*.move"))
    return {name: each for name, each in found.items() if not {name, name.split("::")[0]} & OURS_ALONE}


def test_declarations_are_read_whatever_their_names_are_called() -> None:
    one = declarations(
        "module a::m { public fun f<T: key + drop>(x: &mut vector<T>, y: n::U): (u64, T) acquires R { } }"
    )
    same = declarations("module b::m { public fun f<E: drop+key>(a: &mut vector<E>, b: U): (u64, E) { } }")
    assert one == same == {"m::f": Function(("drop+key",), ("&mut_vector<T0>", "U"), "(u64,T0)")}


@pytest.mark.parametrize(
    "other",
    [
        "public fun f(x: u64) {}",
        "public fun f<T>(x: u64): u64 {}",
        "public fun f(x: u8): u64 {}",
        "public fun g(x: u64): u64 {}",
        "fun f(x: u64): u64 {}",
    ],
)
def test_a_different_signature_is_noticed(other: str) -> None:
    ours = declarations("module a::m { public fun f(x: u64): u64 {} }")
    assert differences(ours, declarations(f"module a::m {{ {other} }}"))


def test_the_offline_framework_declares_something() -> None:
    assert len(offline()) > 60


@needs_checkout
def test_every_signature_is_that_of_the_real_framework() -> None:
    assert CHECKOUT is not None
    parts = ("move-stdlib", "aptos-stdlib", "aptos-framework")
    paths = [path for part in parts for path in (Path(CHECKOUT) / part / "sources").rglob("*.move")]
    real = read_modules(path for path in paths if not path.name.endswith(".spec.move"))
    assert differences(offline(), real) == []  # type: ignore[arg-type]


@needs_checkout
def test_the_contract_and_its_tests_compile_against_the_real_framework(tools: Toolchain, tmp_path: Path) -> None:
    assert CHECKOUT is not None
    for part in ("move-stdlib", "aptos-stdlib", "aptos-framework"):
        shutil.copytree(Path(CHECKOUT) / part, tmp_path / part)
    _smooth(tmp_path / "aptos-framework" / "sources")
    try:
        compiler(tools, "build", tmp_path / "aptos-framework")
    except CompilerFailed:
        pytest.skip("this framework is newer than the compiler at hand; only its signatures were compared")
    package = tmp_path / "package"
    for part in ("sources", "tests"):
        shutil.copytree(CONTRACTS / part, package / part)
    manifest = (CONTRACTS / "offline" / "Move.toml").read_text(encoding="utf-8")
    (package / "Move.toml").write_text(manifest.replace("offline_framework", "../aptos-framework"), encoding="utf-8")
    assert "OK" in compiler(tools, "build", package).upper()
    assert "Total tests: 0" in compiler(tools, "compile-tests", package)


def _smooth(sources: Path) -> None:
    """Put the places over which the compiler stumbles out of its way."""
    for name, changes in _STUMBLES.items():
        path = sources / name
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            for old, new in changes.items():
                text = text.replace(old, new)
            path.write_text(text, encoding="utf-8")
