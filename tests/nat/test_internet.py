"""The lab itself: each kind of router does to connections what its name says."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.nat.namespaces import Namespaces, _remove, open_namespaces, run
from tests.nat.routers import KINDS, PORT, WITHOUT_NAT, Kind, direct_expected

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.nat.internet import Internet, Machine

SOURCES = (33_000, 33_100)
SERVER = """
import socket
listener = socket.create_server(("0.0.0.0", 4101), backlog=16)
print("ready", flush=True)
while True:
    accepted, where = listener.accept()
    accepted.sendall(f"{where[0]} {where[1]}".encode())
    accepted.close()
"""
SEEN = """
import socket, sys
sock = socket.socket()
sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
sock.bind(("0.0.0.0", int(sys.argv[2])))
sock.settimeout(1)
try:
    sock.connect((sys.argv[1], int(sys.argv[3])))
    print(sock.recv(100).decode())
except OSError as error:
    print(type(error).__name__)
"""


def seen(machine: Machine, host: str, *, source: int = 0, port: int = PORT) -> str:
    """What a server at *host* sees of a connection from *machine*, or why there is none."""
    python = (sys.executable, "-I", "-S", "-c", SEEN, host, str(source), str(port))
    return run("ip", "netns", "exec", machine.namespace, *python).strip()


@contextmanager
def serving(*machines: Machine) -> Iterator[None]:
    """A server on each of *machines* that tells everybody whom it sees."""
    with ExitStack() as stack:
        for machine in machines:
            command = ["ip", "netns", "exec", machine.namespace, sys.executable, "-I", "-S", "-c", SERVER]
            process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
            stack.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
        yield


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_rewrites_ports_and_treats_strangers_as_its_name_says(internet: Internet, kind: Kind) -> None:
    servers = [internet.machine(name, "public") for name in ("one", "two")]
    machine = internet.machine("inside", kind)
    outside = machine.address if kind in WITHOUT_NAT else machine.site.wan
    with serving(*servers, machine):
        views = [seen(machine, server.address, source=port).split() for port in SOURCES for server in servers]
        stranger = seen(servers[0], outside)

    assert {view[0] for view in views} == {outside}
    ports = [int(view[1]) for view in views]
    kept = [port for port in SOURCES for _ in servers]
    if kind == "random":
        assert len({*ports, *SOURCES}) == 6
    else:
        assert ports == [port + (20_000 if kind == "changing" else 0) for port in kept]
    expected = {"public": servers[0].address, "resetting": "ConnectionRefusedError"}
    assert stranger.split()[0] == expected.get(kind, "TimeoutError")


def test_a_cut_line_is_silent_and_a_restored_one_carries_again(internet: Internet) -> None:
    server, machine = internet.machine("one", "public"), internet.machine("inside", "preserving")
    with serving(server):
        assert seen(machine, server.address).startswith("11.")
        internet.cut(machine.site)
        assert seen(machine, server.address) == "TimeoutError"
        internet.restore(machine.site)
        assert seen(machine, server.address).startswith("11.")


def test_a_machine_that_moves_is_seen_at_its_new_place(internet: Internet) -> None:
    server, machine = internet.machine("one", "public"), internet.machine("inside", "preserving")
    with serving(server):
        first = seen(machine, server.address).split()[0]
        internet.move(machine, "changing")
        assert seen(machine, server.address).split()[0] == machine.site.wan != first


def test_dialling_the_private_address_of_another_network_is_counted(internet: Internet) -> None:
    for strays, machine in enumerate([internet.machine("outside", "public"), internet.machine("inside", "double")]):
        assert bool(internet.strays()) == bool(strays)
        seen(machine, "192.168.77.2")
    assert len(internet.strays()) == 2


def test_what_a_dead_run_left_behind_is_removed_and_what_lives_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_namespaces() as living:
        kept = living.add("kept")
        monkeypatch.setattr("tests.nat.namespaces._started", lambda pid: 1)
        stale = Namespaces().add("stale")
        monkeypatch.undo()
        try:
            with open_namespaces():
                listed = run("ip", "netns", "list")
        finally:
            if stale in run("ip", "netns", "list"):
                _remove(stale)
    assert stale not in listed
    assert kept in listed
    assert str(os.getpid()) in kept


def test_which_pairs_are_expected_to_become_direct() -> None:
    expected = {(one, other) for one in KINDS for other in KINDS if direct_expected(one, other)}
    assert len(expected) == 49 - 11
    assert ("random", "public") in expected
    assert not {("random", "random"), ("preserving", "random"), ("random", "firewall")} & expected
