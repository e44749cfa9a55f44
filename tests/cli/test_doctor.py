"""`doctor` in fresh homes: it always ends, says what is missing, and leaves no trace."""

from __future__ import annotations

import json
import os
import socket

import click
import pytest
from click.testing import CliRunner

from cactus_mesh.cli import main
from cactus_mesh.cli.doctor import EXIT_STATUS, lines_of, summary
from cactus_mesh.core.checkup import Finding
from cactus_mesh.doctor import ORDER
from tests.samples import CLIENT


@pytest.fixture
def examine(tmp_path, monkeypatch):
    """Runs doctor in this process; torch is looked at elsewhere, as it takes seconds to start."""
    for name in [name for name in os.environ if name.startswith("CACTUS_MESH_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CACTUS_MESH_ROLES", "relay")
    monkeypatch.setenv("CACTUS_MESH_LISTEN", "/ip4/127.0.0.1/tcp/0")

    async def no_torch():
        return None, "not started in this test"

    monkeypatch.setattr("cactus_mesh.doctor._start_torch", no_torch)

    def run(*arguments):
        done = CliRunner().invoke(main, ["--home", str(tmp_path / "home"), "doctor", "--json", *arguments])
        report = json.loads(done.stdout.splitlines()[-1])
        assert done.exit_code == (0 if report["ok"] else EXIT_STATUS), done.output
        return {each["check"]: each for each in report["checks"]}

    return run


def test_in_a_fresh_home_it_says_what_is_missing_and_leaves_no_trace(examine, tmp_path):
    found = examine("--ledger", "http://127.0.0.1:9")
    assert tuple(found) == ORDER
    assert (found["ledger"]["verdict"], found["bootstrap"]["verdict"]) == ("fail", "fail")
    assert "--role bootstrap" in found["bootstrap"]["advice"]
    assert found["key"]["verdict"] == "pass"
    assert all(each["advice"] for each in found.values() if each["verdict"] != "pass")
    assert not (tmp_path / "home").exists()


def test_what_answers_at_a_bootstrap_address_is_told_step_by_step(examine):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        closed = f"/ip4/127.0.0.1/tcp/9/p2p/{CLIENT.peer_id}"
        found = examine("--bootstrap", closed, "--bootstrap", "nonsense", "--ledger", f"http://127.0.0.1:{port}/x y")
    measured = found["bootstrap"]["measured"]
    assert "tcp: connection refused" in measured
    assert "'nonsense' is not an address" in measured
    assert found["bootstrap"]["verdict"] == "fail"


def test_mistakes_in_settings_and_key_do_not_stop_it(examine, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "config.toml").write_text("[matchin]\n")
    (tmp_path / "home" / "key").write_text("hello")
    (tmp_path / "home" / "key").chmod(0o644)
    found = examine("--ledger", "http://127.0.0.1:9")
    assert "did you mean matching" in found["settings"]["measured"]
    assert found["key"]["verdict"] == "fail"


def test_a_finding_is_a_line_with_its_advice_beneath():
    plain = [click.unstyle(line) for line in lines_of(Finding("nat", "warn", "symmetric\nand more", "do this"))]
    assert plain == ["warn  nat         symmetric", " " * 18 + "and more", " " * 18 + "→ do this"]


def test_what_was_measured_cannot_move_the_terminal():
    (line,) = lines_of(Finding("nat", "pass", "\x1b[2Jgone"))
    assert "\x1b[2J" not in line


def test_the_last_line_says_whether_a_node_can_work_here():
    assert "2 things keep" in summary({"fail": 2, "warn": 1})
    assert "1 thing keeps" in summary({"fail": 1, "warn": 0})
    assert "could be better" in summary({"fail": 0, "warn": 1})
    assert "all is well" in summary({"fail": 0, "warn": 0})
