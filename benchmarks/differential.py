"""The Python rules against the compiled Move contract: operations compared, and how many of them differed."""

from __future__ import annotations

import secrets
import tempfile
import time
from pathlib import Path
from typing import Final

from benchmarks.report import Measurement, Target
from tests.contracts.toolchain import toolchain
from tests.contracts.vm import build, open_vm
from tests.ledger.differential import Mismatch, compare
from tests.ledger.operation import START
from tests.ledger.operations import CHAIN_ID

OPERATIONS: Final = 10_000
TARGETS: Final = (
    Target("operations", "operations after which outcome, events, views and balances were compared", ">=", OPERATIONS),
    Target("mismatches", "sequences in which the two sides differed", "<=", 0),
    Target("per_s", "operations compared per second"),
)


def measure() -> Measurement:
    """Raises `ToolchainMissing` where the Move toolchain can't be had."""
    tools = toolchain()
    with tempfile.TemporaryDirectory() as folder:
        modules = build(tools, Path(folder))
        with open_vm(tools, modules, chain_id=CHAIN_ID, now=START) as vm:
            began = time.perf_counter()
            compared = mismatches = 0
            try:
                compared = compare(vm, secrets.randbits(32), OPERATIONS)
            except Mismatch as mismatch:
                print(mismatch)
                mismatches = 1
            seconds = time.perf_counter() - began
    return Measurement({"operations": compared, "mismatches": mismatches, "per_s": compared / seconds}, 1)
