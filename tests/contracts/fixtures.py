"""The Move toolchain, the compiled contract and its VM, once for a test run; import into a conftest."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from tests.contracts.toolchain import REQUIRED, Toolchain, ToolchainMissing, toolchain
from tests.contracts.vm import MoveVm, build, open_vm
from tests.ledger.operation import START
from tests.ledger.operations import CHAIN_ID

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def tools() -> Toolchain:
    """Skips loudly without the toolchain; with CACTUS_REQUIRE_MOVE=1 that is a failure."""
    try:
        return toolchain()
    except ToolchainMissing as missing:
        reason = f"THE MOVE CONTRACT WAS NOT TESTED: {missing}"
        if REQUIRED:
            pytest.fail(f"{reason} (CACTUS_REQUIRE_MOVE=1)", pytrace=False)
        print(f"\n{reason}", file=sys.__stderr__)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def modules(tools: Toolchain, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return build(tools, tmp_path_factory.mktemp("vm"))


@pytest.fixture(scope="session")
def vm(tools: Toolchain, modules: list[Path]) -> Iterator[MoveVm]:
    """Shared by all tests of a run; whoever changes its state resets it first."""
    with open_vm(tools, modules, chain_id=CHAIN_ID, now=START) as opened:
        yield opened
