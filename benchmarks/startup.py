"""How soon the command line answers: ``--help``, ``run`` to "ready" without a model, ``ask`` to its first token.

The mesh that is asked is warm: its five processes run, and its engine gives fixed tokens at once.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import trio

from benchmarks.report import Measurement, Target, median
from cactus_mesh.testing.mesh import APT, open_process_mesh

TARGETS: Final = (
    Target("help_s", "cactus-mesh --help", "<=", 0.15),
    Target("ask_cold_s", "cactus-mesh ask, from its start to its first token, at a mesh that is warm", "<=", 2.5),
    Target("ask_whole_s", "cactus-mesh ask, from its start to its end"),
    Target("ready_s", "cactus-mesh run (a bootstrap peer: no model) until it says ready", "<=", 5.0),
    Target("python_s", "python -c pass, for comparison"),
)
RUNS: Final = 5
CLI: Final = [sys.executable, "-m", "cactus_mesh"]


def _seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def _seconds_to_ready(home: Path, ledger: str) -> float:
    began = time.perf_counter()
    command = [*CLI, "--home", str(home), "run", "--role", "bootstrap", "--ledger", ledger, "--json"]
    with _child([*command, "--listen", "/ip4/127.0.0.1/tcp/0"]) as node:
        assert _line(node)["event"] == "ready"
        ready = time.perf_counter() - began
        _end(node)
    return ready


def _child(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*command, "--until-stdin-closes"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )


def _line(child: subprocess.Popen[bytes]) -> dict[str, str]:
    assert child.stdout is not None
    found: dict[str, str] = json.loads(child.stdout.readline())
    return found


def _end(child: subprocess.Popen[bytes]) -> None:
    assert child.stdin is not None
    child.stdin.close()
    child.wait(30)


async def _asked() -> tuple[list[float], list[float]]:
    """Seconds to the first token, and to the end, of several questions."""
    first, whole = [], []
    async with open_process_mesh() as mesh:
        await mesh.router()
        await mesh.orchestrator()
        await mesh.acquainted()
        client = await mesh.fund("client")
        async with mesh.ledger() as ledger:
            await ledger.deposit(client, 10 * APT)
        home = str(mesh.family.home("client").state)
        way = ["--ledger", mesh.chain["url"], "--bootstrap", mesh.bootstrap, "--model", "fake"]
        for _ in range(RUNS + 1):
            times = await trio.to_thread.run_sync(_seconds_of_ask, [*CLI, "--home", home, "ask", "hello", *way])
            first.append(times[0])
            whole.append(times[1])
    return first[1:], whole[1:]


def _seconds_of_ask(command: list[str]) -> tuple[float, float]:
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as asking:
        assert asking.stdout is not None
        assert asking.stdout.read(1), "nothing was answered"
        first = time.perf_counter() - began
        asking.stdout.read()
    assert asking.returncode == 0
    return first, time.perf_counter() - began


def measure() -> Measurement:
    helped, ready, bare = [], [], []
    with (
        tempfile.TemporaryDirectory(prefix="cactus-mesh-bench-") as folder,
        _child([*CLI, "--home", f"{folder}/ledger", "devnet", "--port", "0", "--json"]) as ledger,
    ):
        url = _line(ledger)["url"]
        _seconds([*CLI, "--help"])  # compiles what is not compiled yet
        _seconds_to_ready(Path(folder) / "node", url)
        for _ in range(RUNS):
            helped.append(_seconds([*CLI, "--help"]))
            bare.append(_seconds([sys.executable, "-c", "pass"]))
            ready.append(_seconds_to_ready(Path(folder) / "node", url))
        _end(ledger)
    first, whole = trio.run(_asked)
    values = {"help_s": helped, "ask_cold_s": first, "ask_whole_s": whole, "ready_s": ready, "python_s": bare}
    return Measurement({name: median(each) for name, each in values.items()}, RUNS)
