"""A network's list of known peers is believed for as long as its publisher said, and not a byte of it may differ."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cactus_mesh.core.peerlist import MAX_LIST_BYTES, MAX_VALID_SECONDS, open_list, sign_list
from cactus_mesh.errors import PeerListExpired, PeerListRejected
from tests.samples import CLIENT, ROUTER

NOW = 1_800_000_000
DAY = 86_400
PEER = f"/ip4/203.0.113.7/tcp/4101/p2p/{ROUTER.peer_id}"


def signed(publisher=CLIENT, network="garden", addresses=(PEER,), issued_at=NOW, expires_at=NOW + DAY):
    return sign_list(publisher, network, addresses, issued_at=issued_at, expires_at=expires_at)


def opened(data, network="garden", publisher=CLIENT.peer_id, now=NOW + 1):
    return open_list(data, network=network, publisher=publisher, now=now)


def test_a_signed_list_is_opened_by_those_who_know_its_publisher():
    peers = opened(signed())
    assert (peers.addresses, peers.expires_at) == ([PEER], NOW + DAY)


def test_the_layout_of_the_file_does_not_matter():
    assert opened(json.dumps(json.loads(signed())).encode()).addresses == [PEER]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"network": "desert"}, "was changed"),
        ({"issued_at": NOW - 1}, "was changed"),
        ({"expires_at": NOW + 2 * DAY}, "was changed"),
        ({"addresses": [PEER, PEER]}, "was changed"),
        ({"addresses": []}, "not a signed list"),
        ({"more": 1}, "not a signed list"),
    ],
)
def test_a_list_that_was_changed_is_refused(change, says):
    file = json.loads(signed())
    file["list"] |= change
    with pytest.raises(PeerListRejected, match=says):
        opened(json.dumps(file).encode())


def test_somebody_elses_signature_counts_for_nothing_even_under_the_publishers_name():
    file = json.loads(signed(publisher=ROUTER))
    with pytest.raises(PeerListRejected, match="the network's publisher is"):
        opened(json.dumps(file).encode())
    file["publisher"] = CLIENT.peer_id
    with pytest.raises(PeerListRejected, match="was changed"):
        opened(json.dumps(file).encode())


def test_a_list_of_another_network_is_refused():
    with pytest.raises(PeerListRejected, match="for network 'desert'"):
        opened(signed(network="desert"))


def test_an_expired_list_says_since_when():
    with pytest.raises(PeerListExpired, match=r"2\.0 days ago"):
        opened(signed(), now=NOW + 3 * DAY)


def test_a_list_from_the_future_blames_the_clock():
    with pytest.raises(PeerListRejected, match="set the clock"):
        opened(signed(), now=NOW - 3 * DAY)


@pytest.mark.parametrize("expires_at", [NOW, NOW - 1, NOW + MAX_VALID_SECONDS + 1])
def test_nobody_signs_for_ever_or_backwards(expires_at):
    with pytest.raises(PeerListRejected, match="valid for"):
        signed(expires_at=expires_at)


def test_too_many_addresses_are_not_signed_and_a_giant_file_is_not_read():
    with pytest.raises(PeerListRejected, match="cannot be signed"):
        signed(addresses=[PEER] * 129)
    with pytest.raises(PeerListRejected, match="bytes"):
        opened(b" " * (MAX_LIST_BYTES + 1))


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_by_name(data):
    with pytest.raises(PeerListRejected):
        opened(data)


@given(st.data())
def test_no_byte_of_the_list_can_be_changed_unnoticed(data):
    file = bytearray(signed())
    at = data.draw(st.integers(0, len(file) - 1))
    file[at] ^= data.draw(st.integers(1, 255))
    try:
        peers = opened(bytes(file))
    except (PeerListRejected, PeerListExpired):
        return
    assert peers == opened(signed())  # white space, or the case of a hex digit
