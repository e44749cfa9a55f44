"""What is said and believed on a LAN."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cactus_mesh.net.mdns import MAX_TOLD, Neighbour, announcement, neighbour
from tests.net.peers import identity

ALICE, BOB = identity(1).peer_id, identity(2).peer_id
HERE = f"/ip4/192.168.1.7/tcp/4101/p2p/{ALICE}"
SIX = f"/ip6/fd00::7/tcp/4101/p2p/{ALICE}"


def record(*entries: str) -> bytes:
    return b"".join(bytes((len(entry),)) + entry.encode() for entry in entries)


def test_what_one_peer_announces_another_understands():
    told = announcement("home", [HERE, SIX])
    assert neighbour(told, "home") == Neighbour(ALICE, ("/ip4/192.168.1.7/tcp/4101", "/ip6/fd00::7/tcp/4101"))


def test_another_networks_peers_are_left_in_peace():
    assert neighbour(announcement("home", [HERE]), "office") is None


def test_only_addresses_of_the_lan_are_announced():
    elsewhere = [
        f"/ip4/127.0.0.1/tcp/4101/p2p/{ALICE}",
        f"/ip4/8.8.8.8/tcp/4101/p2p/{ALICE}",
        f"/ip4/0.0.0.0/tcp/4101/p2p/{ALICE}",
        f"/ip4/8.8.8.8/tcp/1/p2p/{BOB}/p2p-circuit/p2p/{ALICE}",
        f"/dns4/example.org/tcp/4101/p2p/{ALICE}",
    ]
    assert announcement("home", elsewhere) == b""
    assert announcement("home", [*elsewhere, HERE]) == announcement("home", [HERE])


def test_an_answer_about_addresses_elsewhere_or_about_several_peers_is_not_believed():
    network = "network=home"
    for address in ("/ip4/8.8.8.8/tcp/1", "/ip4/127.0.0.1/tcp/1", "/dns4/example.org/tcp/1", "/ip4/10.0.0.1/tcp/0"):
        assert neighbour(record(network, f"dnsaddr={address}/p2p/{ALICE}"), "home") is None
    assert neighbour(record(network, "dnsaddr=/ip4/10.0.0.1/tcp/1"), "home") is None
    both = record(network, f"dnsaddr={HERE}", f"dnsaddr=/ip4/10.0.0.1/tcp/1/p2p/{BOB}")
    assert neighbour(both, "home") is None


def test_a_peer_with_a_thousand_addresses_is_read_in_part():
    many = [f"dnsaddr=/ip4/10.0.{number // 250}.{number % 250 + 1}/tcp/1/p2p/{ALICE}" for number in range(1000)]
    found = neighbour(record("network=home", *many), "home")
    assert found is not None
    assert len(found.addresses) == MAX_TOLD


@given(st.binary(max_size=300))
def test_no_answer_hurts(text: bytes):
    found = neighbour(record("network=home", f"dnsaddr={HERE}") + text, "home")
    assert found is None or found.peer == ALICE
