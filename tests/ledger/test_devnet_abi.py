"""The served ABIs are those of the compiled Move modules, and the framework's as far as it is used."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from cactus_mesh.ledger.contract import MODULE
from cactus_mesh.ledger.dev import DEVNET_CONTRACT
from cactus_mesh.ledger.devnet.abi import contract_abis
from cactus_mesh.ledger.devnet.framework import module_abis
from cactus_mesh.ledger.devnet.resources import STATUSES
from tests.contracts.toolchain import CONTRACTS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.contracts.vm import MoveVm
    from tests.ledger.node import Node

MODULES = sorted(path.stem for path in (CONTRACTS / "sources").glob("*.move"))


def _by_name(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """The order of a compiled module's parts is the compiler's; each name is there once."""
    named = {each["name"]: each for each in entries}
    assert len(named) == len(entries)
    return named


def _decoded(vm: MoveVm, modules: list[Path], name: str) -> dict[str, Any]:
    """What the Move VM decodes from the bytecode, as if it lay where the embedded ledger keeps it."""
    (path,) = (each for each in modules if each.stem == name)
    text = json.dumps(vm.ask("abi", str(path))["value"]).replace(', "0x1::hooks"', "")
    abi: dict[str, Any] = json.loads(re.sub(rf"0x1::({'|'.join(MODULES)})\b", rf"{DEVNET_CONTRACT}::\1", text))
    return abi


@pytest.mark.parametrize("name", MODULES)
async def test_the_served_abi_is_that_of_the_compiled_module(
    node: Node, vm: MoveVm, modules: list[Path], name: str
) -> None:
    served = (await node.http.get(f"/v1/accounts/{DEVNET_CONTRACT}/module/{name}")).json()["abi"]
    decoded = _decoded(vm, modules, name)
    for struct in served["structs"]:
        del struct["is_event"]  # the decoder does not know this newer field; the next test compares it
    assert (served["address"], served["name"]) == (DEVNET_CONTRACT, decoded["name"])
    assert served["friends"] == decoded["friends"]
    assert _by_name(served["structs"]) == _by_name(decoded["structs"])
    assert _by_name(served["exposed_functions"]) == _by_name(decoded["exposed_functions"])


def test_the_events_are_marked_as_in_the_source() -> None:
    source = (CONTRACTS / "sources" / f"{MODULE}.move").read_text(encoding="utf-8")
    marked = {each["name"] for each in contract_abis(DEVNET_CONTRACT)[MODULE]["structs"] if each["is_event"]}
    assert marked == set(re.findall(r"#\[event\]\s+struct (\w+)", source))


def test_the_numbers_of_a_servers_status_are_those_of_the_source() -> None:
    source = (CONTRACTS / "sources" / f"{MODULE}.move").read_text(encoding="utf-8")
    declared = {name.lower(): int(number) for name, number in re.findall(r"const SERVER_(\w+): u8 = (\d);", source)}
    assert {name: number for number, name in enumerate(STATUSES)} == declared


async def test_modules_are_listed_and_missing_ones_named(node: Node) -> None:
    ours = (await node.http.get(f"/v1/accounts/{DEVNET_CONTRACT}/modules")).json()
    assert sorted(each["abi"]["name"] for each in ours) == MODULES
    framework = (await node.http.get("/v1/accounts/0x1/modules")).json()
    assert {"account", "aptos_account", "coin", "primary_fungible_store"} <= {each["abi"]["name"] for each in framework}
    assert (await node.http.get("/v1/accounts/0xb0b/modules")).json() == []


def test_the_frameworks_functions_are_those_that_the_contract_is_compiled_with(vm: MoveVm, modules: list[Path]) -> None:
    """As far as the offline framework has them, whose signatures are compared with the real one's."""
    compared = 0
    for path in modules:
        served = module_abis().get(path.stem, {"exposed_functions": []})
        declared = _by_name(vm.ask("abi", str(path))["value"]["exposed_functions"])
        for function in served["exposed_functions"]:
            if function["name"] in declared:
                for part in ("generic_type_params", "params", "return"):
                    assert function[part] == declared[function["name"]][part], (path.stem, function["name"], part)
                compared += 1
    assert compared > 0
