"""Which list of known peers a node joins through, and what it does when there is none that it may believe."""

from __future__ import annotations

import logging

import pytest

from cactus_mesh.config import find_home, load_config
from cactus_mesh.core.peerlist import sign_list
from cactus_mesh.errors import ConfigMalformed, PeerListExpired, PeerListRejected
from cactus_mesh.known import with_known_peers
from tests.samples import CLIENT, ROUTER

NOW = 1_800_000_000
DAY = 86_400
PEER = f"/ip4/203.0.113.7/tcp/4101/p2p/{ROUTER.peer_id}"
NETWORK = f"""
ledger = "http://127.0.0.1:9"
contract = "0x{"ab" * 32}"
chain_id = 7
publisher = "{CLIENT.peer_id}"
"""


@pytest.fixture
def home(tmp_path):
    (tmp_path / "networks").mkdir()
    (tmp_path / "networks" / "garden.toml").write_text(NETWORK)
    return find_home(tmp_path, {})


def write_list(home, expires_at=NOW + DAY, publisher=CLIENT):
    data = sign_list(publisher, "garden", [PEER], issued_at=NOW - DAY, expires_at=expires_at)
    (home.config / "networks" / "garden.peers.json").write_bytes(data)


def joined(home, **flags):
    return with_known_peers(load_config(home, {"network": "garden", **flags}, {}), home, NOW).bootstrap


def test_a_users_own_network_has_its_file_and_its_list_in_the_home(home):
    write_list(home)
    assert joined(home) == (PEER,)


def test_a_peer_that_the_user_names_goes_before_the_list_even_a_bad_one(home):
    write_list(home, expires_at=NOW - 1)
    other = f"/ip4/198.51.100.1/tcp/1/p2p/{CLIENT.peer_id}"
    assert joined(home, bootstrap=[other]) == (other,)


@pytest.mark.parametrize(
    ("changes", "error"), [({"expires_at": NOW - 1}, PeerListExpired), ({"publisher": ROUTER}, PeerListRejected)]
)
def test_a_bad_list_is_an_error_that_names_the_file_and_the_way_out(home, changes, error):
    write_list(home, **changes)
    with pytest.raises(error, match=r"garden\.peers\.json.*--bootstrap"):
        joined(home)


def test_with_peers_remembered_a_bad_list_is_only_worth_a_warning(home, caplog):
    write_list(home, expires_at=NOW - 1)
    home.peers_file.write_text("{}")
    with caplog.at_level(logging.WARNING):
        assert joined(home) == ()
    assert "list of known peers is not used" in caplog.text


def test_whoever_begins_a_network_needs_no_list(home):
    write_list(home, expires_at=NOW - 1)
    assert joined(home, roles=["bootstrap"]) == ()


def test_a_network_without_a_publisher_has_no_list(home):
    write_list(home)
    (home.config / "networks" / "garden.toml").write_text(NETWORK.replace("publisher", "# publisher"))
    assert joined(home) == ()


def test_a_publisher_must_be_a_peer_id(home):
    with pytest.raises(ConfigMalformed, match="publisher must be the peer id"):
        joined(home, publisher="me")
