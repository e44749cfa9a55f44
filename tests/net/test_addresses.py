from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cactus_mesh.errors import AddressMalformed
from cactus_mesh.net.addresses import (
    Address,
    Scope,
    dialable,
    parse_address,
    reachable_at,
    scope_of,
    worth_hearing,
    worth_telling,
)
from tests.net.peers import identity

PEER, OTHER, OWN = (identity(number).peer_id for number in (1, 2, 3))


@pytest.mark.parametrize(
    "text",
    [
        "/ip4/203.0.113.7/tcp/4001",
        f"/ip4/203.0.113.7/tcp/4001/p2p/{PEER}",
        f"/ip6/2001:db8::1/tcp/4001/p2p/{PEER}",
        f"/dns4/node.example.org/tcp/4001/p2p/{PEER}",
        f"/ip4/203.0.113.7/tcp/4001/p2p/{OTHER}/p2p-circuit",
        f"/ip4/203.0.113.7/tcp/4001/p2p/{OTHER}/p2p-circuit/p2p/{PEER}",
    ],
)
def test_an_address_comes_back_as_it_was_written(text: str) -> None:
    assert str(parse_address(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "203.0.113.7:4001",
        "/ip4/203.0.113.7",
        "/ip4/203.0.113.300/tcp/1",
        "/ip4/203.0.113.7/tcp/65536",
        "/ip4/203.0.113.7/tcp/-1",
        "/ip4/203.0.113.7/tcp/४",
        "/ip4/203.0.113.7/udp/4001/quic-v1",
        "/ip4/203.0.113.7/tcp/4001/ws/ws",
        "/ip4/203.0.113.7/tcp/4001/p2p/QmNotAKey",
        "/ip6/203.0.113.7/tcp/1",
        "/dns4//tcp/1",
        "/dns4/a host/tcp/1",
        "/dns4/a/b/tcp/1",
        "/ip4/203.0.113.7/tcp/4001/p2p-circuit",
        "x" * 1_000,
    ],
)
def test_what_cannot_be_used_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(AddressMalformed, match="12D3KooW"):
        parse_address(text)


@given(st.one_of(st.text(max_size=80), st.text(alphabet="/ip46tcpdns0123456789.:Q", max_size=60)))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        address = parse_address(text)
    except AddressMalformed:
        return
    assert parse_address(str(address)) == address


def test_only_what_may_lead_to_the_peer_is_dialled_and_relays_come_last() -> None:
    texts = [
        f"/ip4/203.0.113.9/tcp/1/p2p/{OTHER}/p2p-circuit",
        "/ip4/0.0.0.0/tcp/4001",
        "/ip6/::/tcp/4001",
        "/ip4/203.0.113.7/tcp/0",
        f"/ip4/203.0.113.7/tcp/4001/p2p/{OTHER}",
        "nonsense",
        "/ip4/203.0.113.7/tcp/4001",
        f"/ip4/203.0.113.7/tcp/4001/p2p/{PEER}",
        f"/ip4/203.0.113.8/tcp/1/p2p/{OWN}/p2p-circuit/p2p/{PEER}",
        f"/ip4/203.0.113.8/tcp/1/p2p/{PEER}/p2p-circuit/p2p/{PEER}",
    ]
    assert [str(address) for address in dialable(texts, PEER, OWN)] == [
        f"/ip4/203.0.113.7/tcp/4001/p2p/{PEER}",
        f"/ip4/203.0.113.9/tcp/1/p2p/{OTHER}/p2p-circuit/p2p/{PEER}",
    ]
    assert dialable(texts, OWN, OWN) == []


def test_wildcards_are_the_interfaces_and_the_loopback_what_carries_farthest_first() -> None:
    everywhere = [Address("ip4", "0.0.0.0", 4001), Address("ip6", "::", 4002), Address("ip4", "127.0.0.1", 4003)]
    interfaces = ["192.168.1.5", "2001:db8::5"]
    assert [str(address) for address in reachable_at(everywhere, interfaces)] == [
        "/ip6/2001:db8::5/tcp/4002",
        "/ip4/192.168.1.5/tcp/4001",
        "/ip4/127.0.0.1/tcp/4001",
        "/ip6/::1/tcp/4002",
        "/ip4/127.0.0.1/tcp/4003",
    ]
    assert [str(address) for address in reachable_at(everywhere[:1], [])] == ["/ip4/127.0.0.1/tcp/4001"]
    assert reachable_at([], interfaces) == []


@pytest.mark.parametrize(
    ("host", "scope"),
    [
        ("127.9.9.9", Scope.LOOPBACK),
        ("::1", Scope.LOOPBACK),
        ("localhost", Scope.LOOPBACK),
        ("10.1.2.3", Scope.PRIVATE),
        ("172.31.0.1", Scope.PRIVATE),
        ("172.32.0.1", Scope.GLOBAL),
        ("100.64.0.1", Scope.PRIVATE),
        ("169.254.1.1", Scope.PRIVATE),
        ("fe80::1", Scope.PRIVATE),
        ("fd00::1", Scope.PRIVATE),
        ("::ffff:192.168.1.1", Scope.PRIVATE),
        ("printer.local", Scope.PRIVATE),
        ("203.0.113.7", Scope.GLOBAL),
        ("2001:db8::1", Scope.GLOBAL),
        ("node.example.org", Scope.GLOBAL),
        ("0.0.0.0", Scope.NOWHERE),
        ("::", Scope.NOWHERE),
        ("224.0.0.251", Scope.NOWHERE),
        ("255.255.255.255", Scope.NOWHERE),
    ],
)
def test_the_scope_of_a_host(host: str, scope: Scope) -> None:
    assert scope_of(host) is scope


LOOPBACK, LAN, PUBLIC = "/ip4/127.0.0.1/tcp/1", "/ip4/192.168.1.5/tcp/1", "/ip4/203.0.113.7/tcp/1"
CIRCUIT = f"/ip4/203.0.113.9/tcp/1/p2p/{OTHER}/p2p-circuit"


def test_nobody_is_told_what_does_not_carry_as_far_as_it_is_away() -> None:
    every = [PUBLIC, LAN, LOOPBACK, CIRCUIT]
    assert worth_telling(every, Scope.GLOBAL) == [PUBLIC, CIRCUIT]
    assert worth_telling(every, Scope.PRIVATE) == [PUBLIC, LAN, CIRCUIT]
    assert worth_telling(every, Scope.LOOPBACK) == every


def test_private_addresses_count_only_of_a_peer_without_a_nat_between_us() -> None:
    every = [PUBLIC, LAN, LOOPBACK, CIRCUIT, f"{LAN}/p2p/{OTHER}", "nonsense", "/ip4/0.0.0.0/tcp/1"]
    assert worth_hearing(every, PEER, Scope.GLOBAL, "203.0.113.7") == [PUBLIC, CIRCUIT]
    assert worth_hearing(every, PEER, Scope.PRIVATE, "192.168.1.5") == [PUBLIC, LAN, CIRCUIT]
    assert worth_hearing(every, PEER, Scope.PRIVATE, "192.168.1.1") == [PUBLIC, CIRCUIT]
    assert worth_hearing(every, PEER, Scope.LOOPBACK, "127.0.0.1") == [PUBLIC, LAN, LOOPBACK, CIRCUIT]
