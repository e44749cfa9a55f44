"""How soon the command line answers: ``--help``, and ``run`` to "ready" without a model, beside a bare interpreter."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from benchmarks.report import Measurement, Target, median

TARGETS: Final = (
    Target("help_s", "cactus-mesh --help", "<=", 0.5),
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
    return Measurement({"help_s": median(helped), "ready_s": median(ready), "python_s": median(bare)}, RUNS)
