from __future__ import annotations

import stat
import sys
from typing import TYPE_CHECKING

import pytest

from cactus_mesh.errors import StateMalformed
from cactus_mesh.net import peers
from cactus_mesh.net.addresses import Scope
from cactus_mesh.net.peers import AddressBook, write_file
from tests.net.peers import identity

if TYPE_CHECKING:
    from pathlib import Path

ONE, TWO, THREE = (identity(number).peer_id for number in (1, 2, 3))


def at(port: int) -> str:
    return f"/ip4/203.0.113.7/tcp/{port}"


def book() -> AddressBook:
    return AddressBook(remember=2)


def test_the_newest_addresses_come_first_and_sixteen_are_kept() -> None:
    known = book()
    for port in range(1, 30):
        known.learn(ONE, [at(port)])
    assert known.addresses(ONE) == [at(port) for port in range(29, 13, -1)]


def test_hearsay_comes_after_what_a_peer_says_itself() -> None:
    known = book()
    known.learn(ONE, [at(1)])
    known.learn(ONE, [at(2)], hearsay=True)
    assert known.addresses(ONE) == [at(1), at(2)]


def test_what_a_peer_named_and_names_no_more_is_forgotten_as_far_as_it_speaks_of_it() -> None:
    known = book()
    known.told(ONE, [at(1), "/ip4/192.168.1.5/tcp/1"], Scope.PRIVATE)
    known.learn(ONE, [at(2)], hearsay=True)
    known.told(ONE, [at(3)], Scope.GLOBAL)
    assert known.addresses(ONE) == [at(3), "/ip4/192.168.1.5/tcp/1", at(2)]
    known.told(ONE, [], Scope.PRIVATE)
    assert known.addresses(ONE) == [at(2)]


def test_addresses_that_lead_elsewhere_are_not_learnt() -> None:
    known = book()
    known.learn(ONE, ["/ip4/0.0.0.0/tcp/1", "nonsense", f"{at(1)}/p2p/{TWO}", "/ip4/203.0.113.7/tcp/0"])
    assert known.addresses(ONE) == []


def test_strangers_do_not_push_out_peers_that_were_of_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "MAX_PEERS", 3)
    known = book()
    known.learn(ONE, [at(1)])
    known.useful(ONE, 1.0)
    for number in range(10, 20):
        known.learn(identity(number).peer_id, [at(number)])
        known.learn(identity(number + 10).peer_id, [at(number)], hearsay=True)
    assert len(known) == 3
    assert known.addresses(ONE) == [at(1)]


def test_the_most_recently_useful_are_remembered_across_a_restart(tmp_path: Path) -> None:
    known = book()
    for peer, when in ((ONE, 5.0), (TWO, 9.0), (THREE, 1.0)):
        known.learn(peer, [at(int(when))])
        known.useful(peer, when)
    known.learn(identity(4).peer_id, [at(4)])
    path = tmp_path / "state" / "peers.json"
    write_file(path, known.dump("test"))
    later = book()
    later.load(path, "test")
    assert later.remembered() == [TWO, ONE]
    assert later.addresses(TWO) == [at(9)]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
def test_the_file_is_for_its_owner_only(tmp_path: Path) -> None:
    write_file(tmp_path / "peers.json", b"{}")
    assert stat.S_IMODE((tmp_path / "peers.json").stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["peers.json"]


def test_a_missing_file_and_another_networks_peers_are_no_peers(tmp_path: Path) -> None:
    known = book()
    known.load(tmp_path / "peers.json", "test")
    known.learn(ONE, [at(1)])
    known.useful(ONE, 1.0)
    write_file(tmp_path / "peers.json", known.dump("another"))
    later = book()
    later.load(tmp_path / "peers.json", "test")
    assert later.remembered() == []


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"version": 1}', b'{"version": 9, "network": "test", "peers": []}', b"\xff\xfe", b"[" * 9_999],
)
def test_a_malformed_file_is_named_with_the_remedy(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "peers.json"
    path.write_bytes(content)
    with pytest.raises(StateMalformed, match=r"peers\.json.*delete it"):
        book().load(path, "test")
