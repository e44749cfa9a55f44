"""Every program of examples/, and the gateway from the command line, at a mesh of real processes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trio

from cactus_mesh.testing.engine import FAKE_TEXT
from cactus_mesh.testing.mesh import APT, open_process_mesh

ROOT = Path(__file__).parents[2]
EXAMPLES = {path.stem: path for path in sorted((ROOT / "examples").glob("*.py"))}
SAYS = {
    "stream_a_chat": [FAKE_TEXT, "by 12D3Koo"],
    "stream_a_chat_asyncio": [FAKE_TEXT, "by 12D3Koo"],
    "stream_a_chat_sync": [FAKE_TEXT, "by 12D3Koo"],
    "embed": ["nobody here embeds with it"],
    "batch": ["0 A cactus", "9 A cactus"],
    "budget": ["known before: at most", "agreed to", "paid ", "refused before anything was sent"],
    "handle_errors": ["A cactus", "raise max_price", "ask for something else"],
    "receipts": ["verdict  pass"],
    "watch_events": ["connected to 12D3Koo", " sent to 12D3Koo", " done by 12D3Koo"],
    "own_node": ["this is 12D3Koo", "cactus-mesh run --bootstrap", "connections"],
    "openai_client": [FAKE_TEXT],
}
RUN_SECONDS = 60


@asynccontextmanager
async def open_users_mesh():
    """A mesh that answers, and the environment of somebody with a deposit in it."""
    async with open_process_mesh() as mesh:
        await mesh.router()
        await mesh.orchestrator()
        await mesh.acquainted()
        identity = await mesh.fund("user")
        async with mesh.ledger() as ledger:
            await ledger.deposit(identity, 100 * APT)
        yield (
            mesh,
            os.environ
            | {
                "CACTUS_MESH_HOME": str(mesh.family.home("user").state),
                "CACTUS_MESH_LEDGER": mesh.chain["url"],
                "CACTUS_MESH_BOOTSTRAP": mesh.bootstrap,
            },
        )


async def run(environment, *command):
    with trio.fail_after(RUN_SECONDS):
        done = await trio.run_process(
            [sys.executable, *command],
            env=environment,
            cwd=ROOT,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_every_example_is_tried_and_told_of():
    readme = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    assert set(SAYS) == set(EXAMPLES)
    assert set(re.findall(r"^\| `(\w+)\.py`", readme, re.MULTILINE)) == set(EXAMPLES)


@pytest.fixture
async def users_mesh():
    async with open_users_mesh() as opened:
        yield opened


@asynccontextmanager
async def open_gateway_process(environment, *command):
    """The event that a command prints when its gateway is there."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "cactus_mesh", *command, "--json", "--until-stdin-closes"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        said = b""
        with trio.fail_after(RUN_SECONDS):
            while b'"event": "gateway"' not in said or not said.endswith(b"\n"):
                piece = await process.stdout.receive_some()
                assert piece, "it ended before it was ready"
                said += piece
        yield next(json.loads(line) for line in said.splitlines() if b'"gateway"' in line)
    finally:
        with trio.CancelScope(shield=True):
            await process.stdin.aclose()
            with trio.move_on_after(20):
                await process.wait()
            if process.returncode is None:
                process.kill()
                await process.wait()
            await process.stdout.aclose()
    assert process.returncode == 0


async def test_the_examples_and_the_gateway_run_as_their_readers_would_run_them(users_mesh):
    _, environment = users_mesh
    for name, path in EXAMPLES.items():
        if name == "openai_client":
            continue
        status, out, err = await run(environment, str(path), "fake")
        assert status == 0, f"{name}: {err}"
        assert [text for text in SAYS[name] if text not in out] == [], f"{name}: {out}"
    async with open_gateway_process(environment, "gateway", "--port", "0") as ready:
        assert ready["needs_key"] is False
        asked = environment | {"OPENAI_BASE_URL": f"{ready['url']}/v1"}
        status, out, err = await run(asked, str(EXAMPLES["openai_client"]), "fake")
        assert (status, out) == (0, f"{FAKE_TEXT}\n"), err


async def test_a_node_serves_the_gateway_beside_its_role(users_mesh):
    _, environment = users_mesh
    settings = environment | {"CACTUS_MESH_GATEWAY_PORT": "0"}
    command = ("run", "--role", "relay", "--listen", "/ip4/127.0.0.1/tcp/0", "--gateway")
    async with open_gateway_process(settings, *command) as ready, httpx.AsyncClient(timeout=30) as http:
        body = {"model": "fake", "messages": [{"role": "user", "content": "hi"}]}
        reply = await http.post(f"{ready['url']}/v1/chat/completions", json=body)
        assert reply.json()["choices"][0]["message"]["content"] == FAKE_TEXT


async def test_beyond_this_machine_the_gateway_wants_keys_before_it_joins_anything(tmp_path):
    environment = os.environ | {"CACTUS_MESH_HOME": str(tmp_path)}
    status, _, err = await run(environment, "-m", "cactus_mesh", "gateway", "--host", "0.0.0.0")
    assert status == 2
    assert "gateway.keys_missing" in err
    status, key, _ = await run(environment, "-m", "cactus_mesh", "gateway", "keys", "add", "laptop")
    assert (status, key[:3]) == (0, "cm_")
    status, listed, _ = await run(environment, "-m", "cactus_mesh", "gateway", "keys", "list", "--json")
    assert [each["name"] for each in json.loads(listed)] == ["laptop"]
    status, _, err = await run(environment, "-m", "cactus_mesh", "gateway", "--host", "0.0.0.0")
    assert "unreachable.no_bootstrap" in err
    status, _, _ = await run(environment, "-m", "cactus_mesh", "gateway", "keys", "remove", "laptop")
    assert status == 0
