"""LiteLLM's SDK, unmodified, accepts the gateway: see litellm_sdk.py.  It has an environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from benchmarks._litellm import LiteLLMMissing, environment, install
from cactus_mesh.gateway.keys import add_key
from cactus_mesh.testing.engine import FAKE_TEXT, FakeEngine
from tests.gateway.conftest import EMBEDDER, VECTORS, open_site

REQUIRED = os.environ.get("CACTUS_REQUIRE_LITELLM") == "1"
RUN_SECONDS = 120
SCRIPT = Path(__file__).with_name("litellm_sdk.py")


@pytest.fixture(scope="module")
def python() -> Path:
    """Skips loudly where the benchmark has not installed it; with CACTUS_REQUIRE_LITELLM=1 it is installed here."""
    reason = "THE SDK OF LITELLM WAS NOT TESTED: it is not installed; CACTUS_REQUIRE_LITELLM=1 installs and tests it"
    try:
        if REQUIRED or (environment() / "complete").exists():
            return install().with_name("python")
    except LiteLLMMissing as missing:
        pytest.fail(str(missing), pytrace=False)
    print(f"\n{reason}", file=sys.__stderr__)
    pytest.skip(reason)


async def test_litellms_sdk_does_what_it_does_elsewhere(python, tmp_path):
    path = tmp_path / "keys.json"
    key = add_key(path, "litellm")
    async with (
        open_site(keys_file=path) as quick,
        open_site(FakeEngine(delay_seconds=0.3), keys_file=path) as slow,
        open_site(FakeEngine(VECTORS, model=EMBEDDER), keys_file=path) as embeds,
    ):
        asked = os.environ | {
            "CACTUS_URL": f"{quick.url}/v1",
            "CACTUS_SLOW_URL": f"{slow.url}/v1",
            "CACTUS_EMBED_URL": f"{embeds.url}/v1",
            "CACTUS_KEY": key,
            "CACTUS_TEXT": FAKE_TEXT,
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        }
        with trio.fail_after(RUN_SECONDS):
            done = await trio.run_process(
                [str(python), str(SCRIPT)], env=asked, capture_stdout=True, stderr=subprocess.STDOUT, check=False
            )
        assert done.returncode == 0, done.stdout.decode(errors="replace")
        assert quick.engine.started == 4  # a repeated order is not done again
        await slow.idle()
