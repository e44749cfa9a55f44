"""The command line: what it prints when all is well, and one line, a code and an exit status when it is not."""

from __future__ import annotations

import json
import os
import socket
import stat
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from cactus_mesh.cli import main
from cactus_mesh.cli.accounts import account_of
from cactus_mesh.errors import AddressMalformed
from tests.samples import CLIENT

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

NOWHERE = "http://127.0.0.1:9"
A_PEER = "/ip4/127.0.0.1/tcp/9/p2p/12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in [name for name in os.environ if name.startswith("CACTUS_MESH_")]:
        monkeypatch.delenv(name)

    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["--home", str(tmp_path), *arguments])

    return invoke


def test_without_arguments_it_prints_help_and_binds_nothing(tmp_path):
    result = CliRunner().invoke(main, [], prog_name="cactus-mesh")
    assert result.exit_code == 0
    assert "Usage: cactus-mesh" in result.output
    assert "demo" in result.output
    assert list(tmp_path.iterdir()) == []


def test_keygen_makes_a_private_key_and_id_shows_what_it_means(run, tmp_path):
    made = json.loads(run("keygen", "--json").stdout)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    shown = json.loads(run("id", "--json").stdout)
    assert shown == made
    assert shown["peer_id"].startswith("12D3KooW")
    assert (tmp_path / "key").read_text().split("0x")[1].strip() not in run("id").output


@pytest.mark.parametrize(
    ("prepare", "arguments", "status", "code", "says"),
    [
        ("", ["id"], 2, "key.missing", "cactus-mesh keygen"),
        ("key", ["keygen"], 2, "key.exists", "never overwritten"),
        ("exposed", ["id"], 2, "key.exposed", "chmod 600"),
        ("garbage", ["id"], 2, "key.malformed", "restore it from your backup"),
        ("", ["status"], 2, "node.not_running", "cactus-mesh run"),
        ("", ["peers"], 2, "node.not_running", "cactus-mesh run"),
        ("alone", ["run"], 5, "unreachable.no_bootstrap", "--bootstrap"),
        ("", ["ask", "hi"], 5, "unreachable.no_bootstrap", "--bootstrap"),
        ("toml", ["run"], 2, "config.malformed", "did you mean matching"),
        ("", ["run", "--network", "elsewhere"], 2, "config.missing", "set ledger, contract"),
        ("", ["run", "--bootstrap", "nonsense", "--role", "router", "--ledger", NOWHERE], 4, "ledger.down", NOWHERE),
        ("", ["ask", "hi", "--bootstrap", A_PEER, "--ledger", NOWHERE], 4, "ledger.down", "cactus-mesh devnet"),
        ("", ["balance", "--ledger", NOWHERE], 4, "ledger.down", "cactus-mesh devnet"),
        ("", ["authorize", "me", "--admin-key", "none"], 2, "key.missing", "keygen"),
        ("", ["run", "--role", "bootstrap", "--model", "x", "--role", "orchestrator"], 2, "model.missing", "x"),
    ],
)
def test_each_mistake_ends_in_one_line_with_a_code_and_what_to_do(
    run, tmp_path, prepare, arguments, status, code, says
):
    if prepare in ("key", "exposed"):
        run("keygen")
    if prepare == "exposed":
        (tmp_path / "key").chmod(0o644)
    if prepare == "garbage":
        (tmp_path / "key").write_text("hello")
        (tmp_path / "key").chmod(0o600)
    if prepare == "alone":  # on whatever LAN the tests run
        (tmp_path / "config.toml").write_text("mdns = false\n")
    if prepare == "toml":
        (tmp_path / "config.toml").write_text("[matchin]\nstake = 1.0\n")

    result = run(*arguments)
    assert result.exit_code == status, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert line.endswith(f"[{code}]")
    assert says in line
    assert "Traceback" not in result.output

    as_json = run(*arguments, "--json")
    assert json.loads(as_json.stdout.splitlines()[-1])["error"]["code"] == code


def test_a_taken_port_is_named_with_the_way_out(run):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run("devnet", "--port", str(port))
    assert result.exit_code == 2
    assert "[listen.port_in_use]" in result.stderr
    assert "--port" in result.stderr


@pytest.mark.parametrize("text", ["", "me", "0x", "0xzz", "12D3KooW", "0x" + "1" * 65])
def test_what_is_neither_peer_nor_address_is_refused(text):
    with pytest.raises(AddressMalformed):
        account_of(text)


def test_an_account_is_named_by_peer_id_or_by_address():
    assert account_of(CLIENT.peer_id) == CLIENT.address
    assert account_of(CLIENT.address.upper().replace("0X", "0x")) == CLIENT.address
    assert account_of("0x1") == "0x" + "1".zfill(64)
