"""The official OpenAI client for Node, unmodified, accepts the gateway: see openai-node/gateway.test.mjs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from cactus_mesh.gateway.keys import add_key
from cactus_mesh.testing.engine import FAKE_TEXT, FakeEngine
from tests.gateway.conftest import EMBEDDER, VECTORS, open_site
from tests.interop.node import REQUIRED, NodeMissing, modules, node

RUN_SECONDS = 120
PROJECT = Path(__file__).parent / "openai-node"
SCRIPT = PROJECT / "gateway.test.mjs"


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    """Skips loudly without Node; with CACTUS_REQUIRE_NODE=1 that is a failure."""
    try:
        return os.environ | {"CACTUS_NODE": node(), "CACTUS_MODULES": str(modules(PROJECT))}
    except NodeMissing as missing:
        reason = f"THE OPENAI CLIENT FOR NODE WAS NOT TESTED: {missing}"
        if REQUIRED:
            pytest.fail(f"{reason} (CACTUS_REQUIRE_NODE=1)", pytrace=False)
        print(f"\n{reason}", file=sys.__stderr__)
        pytest.skip(reason)


async def test_the_official_client_for_node_does_all_that_it_does_elsewhere(environment, tmp_path):
    path = tmp_path / "keys.json"
    key = add_key(path, "node")
    async with (
        open_site(keys_file=path) as quick,
        open_site(FakeEngine(delay_seconds=0.5), keys_file=path) as slow,
        open_site(FakeEngine(VECTORS, model=EMBEDDER), keys_file=path) as embeds,
    ):
        asked = environment | {
            "CACTUS_URL": f"{quick.url}/v1",
            "CACTUS_SLOW_URL": f"{slow.url}/v1",
            "CACTUS_EMBED_URL": f"{embeds.url}/v1",
            "CACTUS_KEY": key,
            "CACTUS_TEXT": FAKE_TEXT,
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
        await slow.idle()
