"""The unit and the environment file of a node that systemd keeps running."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cactus_mesh import service
from cactus_mesh.config import Home, load_config
from cactus_mesh.errors import ConfigMalformed, ProcessFailed, ServiceUnavailable
from cactus_mesh.service import environment_file, environment_text, quoted, unit_file, unit_text

PRINTABLE = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")) | st.just(" "), max_size=40)
FAKE_SYSTEMCTL = """#!/bin/sh
shift
echo "$@" >> {log}
case "$1" in
  show) [ "$2" = cactus-mesh.service ] && printf 'ActiveState=active\\nUnitFileState=enabled\\nNRestarts=2\\n'; exit 0;;
  restart) [ -e {log}.refuse ] && {{ echo "Job failed" >&2; exit 1; }};;
esac
exit 0
"""


def test_the_unit_runs_this_python_with_this_home(tmp_path):
    text = unit_text("/opt/venv/bin/python", Home(tmp_path, tmp_path), tmp_path / "service.env")
    assert f"ExecStart=/opt/venv/bin/python -m cactus_mesh --home {tmp_path} run" in text
    assert f"EnvironmentFile={tmp_path}/service.env" in text
    assert "NoNewPrivileges=yes" in text


def test_the_systems_own_folders_need_no_home(tmp_path):
    assert "--home" not in unit_text("python", Home(tmp_path / "config", tmp_path / "state"), tmp_path / "env")


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("run", "run"),
        ("a b", '"a b"'),
        ("50%", '"50%%"'),
        ("$HOME", '"$$HOME"'),
        ('say "x"', '"say \\"x\\""'),
        ("", '""'),
    ],
)
def test_a_word_of_the_command_line_reaches_the_program_as_it_is(word, line):
    assert quoted(word) == line


@pytest.mark.parametrize("word", ["a\nExecStart=/bin/sh", "\x00", "\x1b[2J"])
def test_nobody_writes_a_second_line_into_the_unit_or_the_environment(word):
    with pytest.raises(ConfigMalformed):
        quoted(word)
    with pytest.raises(ConfigMalformed):
        environment_text({"ledger": word})


@given(PRINTABLE)
def test_a_value_of_the_environment_file_is_read_as_it_was_given(value):
    (_, line) = environment_text({"ledger": value}).splitlines()
    name, _, text = line.partition("=")
    assert name == "CACTUS_MESH_LEDGER"
    assert shlex.split(text.replace("\\$", "$").replace("\\`", "`")) == [value]  # a shell's quotes, as systemd's


def test_the_environment_file_holds_settings_that_the_node_understands(tmp_path):
    given = {"roles": ["relay", "router"], "ledger": "https://ledger.example/v1", "listen": ["/ip4/0.0.0.0/tcp/1"]}
    lines = environment_text(given).splitlines()[1:]
    variables = {name: shlex.split(text)[0] for name, _, text in (line.partition("=") for line in lines)}
    config = load_config(Home(tmp_path, tmp_path), {}, variables)
    assert (config.roles, config.ledger, config.listen) == (
        ("relay", "router"),
        given["ledger"],
        ("/ip4/0.0.0.0/tcp/1",),
    )


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed here")
def test_systemd_finds_no_fault_with_the_unit(tmp_path):
    unit = tmp_path / "cactus-mesh.service"
    unit.write_text(unit_text(sys.executable, Home(tmp_path / "a b", tmp_path / "a b"), tmp_path / "service.env"))
    (tmp_path / "run").mkdir(mode=0o700)
    done = subprocess.run(
        ["systemd-analyze", "--user", "verify", str(unit)],
        env=os.environ | {"XDG_RUNTIME_DIR": str(tmp_path / "run"), "SYSTEMD_LOG_LEVEL": "warning"},
        capture_output=True,
        text=True,
        check=False,
    )
    complaints = [line for line in done.stderr.splitlines() if "cactus-mesh" in line]
    assert (done.returncode, complaints) == (0, [])


@pytest.fixture
def systemctl(tmp_path, monkeypatch):
    """A stand-in that writes down what it was asked."""
    log = tmp_path / "asked"
    program = tmp_path / "bin" / "systemctl"
    program.parent.mkdir()
    program.write_text(FAKE_SYSTEMCTL.format(log=log))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return log


linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems are refused, see below")


@linux
async def test_installing_writes_both_files_and_starts_the_service(tmp_path, systemctl):
    home = Home(tmp_path / "home", tmp_path / "home")
    state = await service.install(home, {"roles": ["relay"]})
    asked = systemctl.read_text().splitlines()
    assert [line.split()[0] for line in asked if not line.startswith("show")] == ["daemon-reload", "enable", "restart"]
    assert (state.active, state.enabled, state.restarts) == ("active", True, 2)
    assert unit_file().is_file()
    assert environment_file(home).stat().st_mode & 0o077 == 0

    await service.install(home, {})
    assert 'ROLES="relay"' in environment_file(home).read_text()  # without options, what was there stays

    await service.uninstall(home)
    assert not unit_file().exists()
    assert not environment_file(home).exists()


@linux
async def test_what_systemd_complains_of_reaches_the_user(tmp_path, systemctl):
    systemctl.with_name("asked.refuse").touch()
    with pytest.raises(ProcessFailed, match="restart failed: Job failed; see: journalctl"):
        await service.install(Home(tmp_path, tmp_path), {})


@pytest.mark.parametrize(("platform", "named"), [("darwin", "macOS"), ("win32", "Windows"), ("freebsd14", "freebsd14")])
async def test_other_systems_are_refused_by_name(tmp_path, monkeypatch, platform, named):
    monkeypatch.setattr(shutil, "which", lambda _: None)  # the real one fails on a platform that it is not on
    monkeypatch.setattr(sys, "platform", platform)
    with pytest.raises(ServiceUnavailable, match=named):
        await service.install(Home(tmp_path, tmp_path), {})


@linux
async def test_a_machine_without_systemd_is_told_what_to_run(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServiceUnavailable, match=r"no systemd.*cactus-mesh run"):
        await service.install(Home(tmp_path, tmp_path), {})
