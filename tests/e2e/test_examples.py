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
import trio

from cactus_mesh.testing.engine import FAKE_TEXT
from cactus_mesh.testing.mesh import APT, open_process_mesh

ROOT = Path(__file__).parents[2]
EXAMPLES = {path.stem: path for path in sorted((ROOT / "examples").glob("*.py"))}
SAYS = {
    "stream_a_chat": [FAKE_TEXT, "by 12D3Koo"],
    "stream_a_chat_asyncio": [FAKE_TEXT, "by 12D3Koo"],
    "stream_a_chat_sync": [FAKE_TEXT, "by 12D3Koo"],
    "log_probabilities": ["60.65%  'A', not <end>", "by the receipt of 12D3Koo"],
    "embed": ["nobody here embeds with it"],
    "batch": ["0 A cactus", "9 A cactus"],
    "budget": ["known before: at most", "agreed to", "paid ", "refused before anything was sent"],
    "handle_errors": ["A cactus", "raise max_price", "ask for something else"],
    "receipts": ["verdict  pass"],
    "watch_events": ["connected to 12D3Koo", " sent to 12D3Koo", " done by 12D3Koo"],
    "own_node": ["this is 12D3Koo", "cactus-mesh run --bootstrap", "connections"],
    "openai_client": [FAKE_TEXT],
}
RUN_SECONDS = 120


@asynccontextmanager
async def open_users_mesh(users):
    """A mesh that answers, and the environment of each of some people with a deposit in it."""
    async with open_process_mesh() as mesh:
        await mesh.router()
        await mesh.orchestrator()
        await mesh.acquainted()
        environments = []
        for name in [f"user-{number}" for number in range(users)]:
            identity = await mesh.fund(name)
            async with mesh.ledger() as ledger:
                await ledger.deposit(identity, 100 * APT)
            place = {
                "CACTUS_MESH_HOME": str(mesh.family.home(name).state),
                "CACTUS_MESH_LEDGER": mesh.chain["url"],
                "CACTUS_MESH_BOOTSTRAP": mesh.bootstrap,
            }
            environments.append(os.environ | place)
        yield environments


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


async def try_examples(environment, names):
    for name in names:
        status, out, err = await run(environment, str(EXAMPLES[name]), "fake")
        assert status == 0, f"{name}: {err}"
        assert [text for text in SAYS[name] if text not in out] == [], f"{name}: {out}"


async def try_gateway(environment, example):
    async with open_gateway_process(environment, "gateway", "--port", "0") as ready:
        assert ready["needs_key"] is False
        await try_examples(environment | {"OPENAI_BASE_URL": f"{ready['url']}/v1"}, [example])
        await try_views(environment)


async def try_views(environment):
    """A gateway without a node is seen as a node is."""
    status, told, err = await run(environment, "-m", "cactus_mesh", "status", "--json")
    assert (status, json.loads(told)["roles"]) == (0, ["client"]), err
    status, told, err = await run(environment, "-m", "cactus_mesh", "top", "--count", "1", "--json")
    assert (status, json.loads(told)["totals"]["client"]["done"] > 0) == (0, True), err
    status, told, err = await run(environment, "-m", "cactus_mesh", "status")
    assert "as client" in told, err


async def try_node(environment):
    settings = environment | {"CACTUS_MESH_GATEWAY_PORT": "0"}
    command = ("run", "--role", "relay", "--listen", "/ip4/127.0.0.1/tcp/0", "--gateway")
    async with open_gateway_process(settings, *command) as ready, httpx.AsyncClient(timeout=30) as http:
        body = {"model": "fake", "messages": [{"role": "user", "content": "hi"}]}
        reply = await http.post(f"{ready['url']}/v1/chat/completions", json=body)
        assert reply.json()["choices"][0]["message"]["content"] == FAKE_TEXT


async def test_the_examples_and_the_gateway_run_as_their_readers_would_run_them():
    names = [name for name in EXAMPLES if name != "openai_client"]
    async with open_users_mesh(5) as (one, two, three, four, five), trio.open_nursery() as nursery:
        for number, environment in enumerate((one, two, three)):
            nursery.start_soon(try_examples, environment, names[number::3])
        nursery.start_soon(try_gateway, four, "openai_client")
        nursery.start_soon(try_node, five)


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
