"""@aptos-labs/ts-sdk, unmodified, accepts the embedded ledger: see ts/ledger.test.mjs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import trio

from cactus_mesh.core.settlement import CLAIM_DOMAIN, CONSENT_DOMAIN
from cactus_mesh.ledger import dev
from cactus_mesh.ledger.devnet import open_devnet
from tests.interop.node import PROJECT, REQUIRED, NodeMissing, modules, node

if TYPE_CHECKING:
    from pathlib import Path

RUN_SECONDS = 120
SCRIPT = PROJECT / "ledger.test.mjs"


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    """Skips loudly without Node; with CACTUS_REQUIRE_NODE=1 that is a failure."""
    try:
        return os.environ | {"CACTUS_NODE": node(), "CACTUS_MODULES": str(modules())}
    except NodeMissing as missing:
        reason = f"THE TYPESCRIPT SDK WAS NOT TESTED: {missing}"
        if REQUIRED:
            pytest.fail(f"{reason} (CACTUS_REQUIRE_NODE=1)", pytrace=False)
        print(f"\n{reason}", file=sys.__stderr__)
        pytest.skip(reason)


async def test_the_typescript_sdk_does_all_that_it_does_elsewhere(environment: dict[str, str], tmp_path: Path) -> None:
    async with open_devnet(tmp_path) as devnet:
        asked = environment | {
            "CACTUS_LEDGER": devnet.url,
            "CACTUS_CONTRACT": devnet.contract,
            "CACTUS_ADMIN": f"ed25519-priv-0x{devnet.admin.seed.hex()}",
            "CACTUS_CONSENT_DOMAIN": CONSENT_DOMAIN.decode(),
            "CACTUS_CLAIM_DOMAIN": CLAIM_DOMAIN.decode(),
        }
        command = [environment["CACTUS_NODE"], "--test", "--test-reporter=tap", str(SCRIPT)]
        with trio.fail_after(RUN_SECONDS):
            done = await trio.run_process(
                command, env=asked, capture_stdout=True, stderr=subprocess.STDOUT, check=False
            )
        said = done.stdout.decode(errors="replace")
        assert done.returncode == 0, said
        (tests,), (passed,) = (re.findall(rf"^# {what} (\d+)$", said, re.MULTILINE) for what in ("tests", "pass"))
        assert tests == passed != "0", said
        assert (await dev.audit(devnet.url)).conserved
