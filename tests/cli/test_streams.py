"""The command line as a process: Ctrl-C, a reader that leaves, streams that are closed, a first run."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys

import pytest

COMMAND = [sys.executable, "-m", "cactus_mesh"]
PEER = "12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5"
NOWHERE = "http://127.0.0.1:9"


def run(home, *arguments, **options):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CACTUS_MESH_")}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8", **options}
    return subprocess.Popen([*COMMAND, "--home", str(home), *arguments], env=environment, **options)


def finished(home, *arguments, **options):
    process = run(home, *arguments, **options)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_the_first_run_says_once_what_it_made_and_where(tmp_path):
    status, out, err = finished(tmp_path, "balance", "--json", "--ledger", NOWHERE)
    assert status == 4
    assert out.startswith('{"error"')
    assert len(out.splitlines()) == 1
    assert err.startswith(str(tmp_path / "key"))
    assert str(tmp_path / "config.toml") in err
    assert finished(tmp_path, "balance", "--json", "--ledger", NOWHERE)[2] == ""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_ctrl_c_ends_a_command_without_a_trace(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and says nothing
        there = f"/ip4/127.0.0.1/tcp/{silent.getsockname()[1]}/p2p/{PEER}"
        process = run(tmp_path, "ping", PEER, "--bootstrap", there)
        assert process.stderr is not None
        while "joining" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, "Traceback" in err) == (130, False)


@pytest.mark.skipif(sys.platform == "win32", reason="pipes break in another way there")
@pytest.mark.parametrize("arguments", [["--help"], ["completion", "bash"], ["receipts", "export"], ["tasks", "--json"]])
def test_a_reader_that_has_gone_is_no_error_of_ours(tmp_path, arguments):
    reading, writing = os.pipe()
    os.close(reading)
    status, _, err = finished(tmp_path, *arguments, stdout=writing)
    os.close(writing)
    assert status in (1, 141)
    assert "Traceback" not in err
    assert "BrokenPipe" not in err


@pytest.mark.skipif(sys.platform == "win32", reason="a shell of Windows cannot close a stream")
@pytest.mark.parametrize("closed", ["1", "2", "1>&- 2"])
def test_a_closed_stream_stops_nothing(tmp_path, closed):
    line = f'exec "$@" {closed}>&-'
    arguments = [*COMMAND, "--home", str(tmp_path), "keygen", "--json"]
    done = subprocess.run(["sh", "-c", line, "sh", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "key").exists()


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {}])
def test_what_is_piped_has_no_colours(tmp_path, variables):
    import trio

    from tests.test_records import keep, record

    trio.run(lambda: keep(tmp_path / "records.sqlite", record(1)))
    shown = subprocess.run(
        [*COMMAND, "--home", str(tmp_path), "tasks"], capture_output=True, check=True, env=os.environ | variables
    )
    assert b"done" in shown.stdout
    assert b"\x1b" not in shown.stdout


def test_a_client_needs_no_library_for_models():
    code = (
        "import sys, cactus_mesh\nfrom cactus_mesh.clients import open_client\nfrom cactus_mesh.net import network\n"
        "from cactus_mesh.ledger import client\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & set(sys.argv[1:])))"
    )
    heavy = ["torch", "transformers", "tokenizers", "numpy", "starlette", "hypercorn"]
    heavy += ["prompt_toolkit", "opentelemetry"]
    shown = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_importing_the_library_loads_few_modules():
    code = "import sys\nfrom cactus_mesh import open_client\nprint(len(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(shown.stdout) < 700


@pytest.mark.parametrize("loading", ["cactus_mesh.cli.base", "click", "cactus_mesh.terminal"])
def test_a_ctrl_c_while_the_program_is_still_loading_leaves_no_trace(loading):
    code = (
        "import sys\nclass CtrlC:\n    def find_spec(self, name, *_):\n"
        "        if name == sys.argv[1]: raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, CtrlC())\nfrom cactus_mesh.cli import main"
    )
    done = subprocess.run([sys.executable, "-c", code, loading], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (130, b"")
