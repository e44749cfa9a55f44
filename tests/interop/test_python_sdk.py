"""aptos-sdk, unmodified and under its own asyncio, accepts the embedded ledger: see python_sdk.py."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import trio

from cactus_mesh.ledger import dev
from cactus_mesh.ledger.devnet import open_devnet
from tests.interop.node import PROJECT
from tests.interop.python_sdk import SCENARIOS

if TYPE_CHECKING:
    from pathlib import Path

RUN_SECONDS = 120
ROOT = PROJECT.parents[2]


async def test_the_python_sdk_does_all_that_it_does_elsewhere(tmp_path: Path) -> None:
    async with open_devnet(tmp_path) as devnet:
        command = [sys.executable, "-m", "tests.interop.python_sdk", devnet.url, devnet.contract]
        with trio.fail_after(RUN_SECONDS):
            done = await trio.run_process(command, cwd=ROOT, capture_stdout=True, stderr=subprocess.STDOUT, check=False)
        said = done.stdout.decode(errors="replace")
        assert done.returncode == 0, said
        assert said.split() == [scenario.__name__ for scenario in SCENARIOS]
        assert (await dev.audit(devnet.url)).conserved
