"""The demo as a user runs it: what it prints, and that nothing is left of it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

COMMAND = [sys.executable, "-m", "cactus_mesh", "demo"]


def leftovers() -> list[str]:
    return [path.name for path in Path(tempfile.gettempdir()).glob("cactus-mesh-demo-*")]


def test_the_demo_serves_delegates_and_pays_two_tasks():
    done = subprocess.run([*COMMAND, "--json"], capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])

    assert set(report) == {"peers", "tasks", "conserved", "seconds"}
    assert report["peers"] == 5
    assert report["conserved"] is True
    first, second = report["tasks"]
    assert first["delegate"] is None
    assert second["delegate"] not in (None, second["orchestrator"])
    for task in report["tasks"]:
        keys = {"task_id", "text", "tokens", "orchestrator", "delegate", "receipt_verified", "paid_octas"}
        assert set(task) == keys
        assert task["receipt_verified"] is True
        assert task["paid_octas"] > 0
        assert task["tokens"] > 5
        assert task["text"].strip()
    assert "router" in second["text"]
    assert leftovers() == []


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C reaches a process group differently on Windows")
def test_ctrl_c_takes_everything_down_with_it():
    with subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if line.startswith(b"  bootstrap"):
                break
        family = psutil.Process(demo.pid).children(recursive=True)
        assert len(family) >= 2
        demo.send_signal(signal.SIGINT)
        rest = demo.communicate(timeout=60)[0]

    assert demo.returncode == 130, rest.decode()
    assert psutil.wait_procs(family, timeout=10)[1] == []
    assert leftovers() == []
    assert b"Traceback" not in rest
