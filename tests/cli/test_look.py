"""What `status`, `peers` and `ping` print: each path with its reason, within 80 columns."""

from __future__ import annotations

import json

import click
import pytest
import trio

from cactus_mesh.cli.look import _ping, peer_lines, status_lines
from cactus_mesh.errors import AddressMalformed, CallTimeout, PeerUnreachable
from cactus_mesh.snapshot import whom
from tests.samples import CLIENT, ROUTER

NOW = 1_800_000_000.0
PEER = {
    "peer_id": ROUTER.peer_id,
    "roles": ["router"],
    "relayed": False,
    "relay": None,
    "why_relayed": None,
    "address": f"/ip4/203.0.113.7/tcp/4101/p2p/{ROUTER.peer_id}",
    "rtt_ms": 12.345,
    "since": NOW - 7_500,
    "agent": "tests",
}
RELAYED = PEER | {"relayed": True, "relay": CLIENT.peer_id, "why_relayed": "both NATs are symmetric", "rtt_ms": 80.0}
STATUS = {
    "peer_id": ROUTER.peer_id,
    "address": ROUTER.address,
    "network": "local",
    "ledger": "http://127.0.0.1:8790",
    "roles": ["router"],
    "started_at": NOW - 61,
    "addresses": ["/ip4/203.0.113.7/tcp/4101"],
    "peers": 3,
    "peers_known": 9,
    "reachability": "private",
    "nat": "endpoint-independent",
    "port_preserving": True,
    "observed": ["/ip4/203.0.113.7/tcp/4101"],
    "steps": [
        {"name": "public", "state": "failed", "detail": "nobody dials back", "seconds": 3.21, "since": NOW - 50},
        {"name": "relayed", "state": "works", "detail": "2 reservations", "seconds": 0.4, "since": NOW - 40},
    ],
    "relays": [CLIENT.peer_id],
    "failed_dials": {"/ip4/198.51.100.1/tcp/1": "connection refused"},
    "serves": ["cactus-selftest"],
    "router": {"running": 2, "unsettled": 0},
    "orchestrator": None,
}


def plain(lines):
    return [click.unstyle(line) for line in lines]


def test_status_says_which_models_are_in_memory_and_which_is_being_loaded():
    memory = {"used": 3 << 30, "room": 12 << 30, "loaded": ["small", "smaller"], "loading": "large"}
    found = STATUS | {"orchestrator": {"slots": 16, "busy": 2, "served": 7, "memory": memory}}
    lines = plain(status_lines(found, NOW))
    assert "orchestrator         slots 16, busy 2, served 7" in lines
    assert lines[-1] == "in memory            small, smaller (3.0 of 12.0 GiB); loading large"


def test_a_direct_peer_has_its_address_round_trip_and_age():
    first, second = plain(peer_lines(PEER, NOW))
    assert first == f"{ROUTER.peer_id}  router"
    assert second == "  direct   /ip4/203.0.113.7/tcp/4101  12.3 ms  for 2 h 5 min"


def test_a_relayed_peer_says_through_whom_and_why_not_directly():
    _, second, third = plain(peer_lines(RELAYED, NOW))
    assert f"relayed  via …{CLIENT.peer_id[-8:]}" in second
    assert third.strip() == "not direct: both NATs are symmetric"


def test_what_peers_say_cannot_move_the_terminal():
    nasty = RELAYED | {"why_relayed": "\x1b[2J gone", "address": "/ip4/1.2.3.4\x07"}
    assert not any("\x1b[2J" in line or "\x07" in line for line in peer_lines(nasty, NOW))


def test_the_status_names_every_step_of_the_ladder_and_fits_a_terminal():
    lines = plain(status_lines(STATUS, NOW))
    text = "\n".join(lines)
    assert "reachable  not directly; through 1 relay" in text
    assert "NAT        endpoint-independent: holes can be punched; keeps port numbers" in text
    assert "ladder     public   failed        3.2 s  nobody dials back" in text
    assert "           relayed  works         0.4 s  2 reservations" in text
    assert "connection refused" in text
    assert "router               running 2, unsettled 0" in text
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("nat", ["unknown", "none", "endpoint-independent", "symmetric"])
@pytest.mark.parametrize("reach", ["unknown", "public", "mapped", "private"])
@pytest.mark.parametrize("preserving", [None, True, False])
def test_every_state_has_words_that_fit(nat, reach, preserving):
    found = STATUS | {"nat": nat, "reachability": reach, "port_preserving": preserving}
    assert max(map(len, plain(status_lines(found, NOW)))) <= 80


async def pinged(answers, **options):
    left = iter(answers)

    async def ask():
        answer = next(left)
        if isinstance(answer, Exception):
            raise answer
        return answer

    await _ping(ask, len(answers), **options)


async def test_a_ping_shows_the_upgrade_from_relayed_to_direct(capsys, autojump_clock):
    await pinged([RELAYED, RELAYED, PEER, PEER], as_json=False)
    lines = click.unstyle(capsys.readouterr().out).splitlines()
    assert "relayed  via" in lines[1]
    assert lines[3].endswith("direct now, after 2.0 s")
    assert lines[4].endswith("12.3 ms")
    assert lines[5].startswith("4 of 4 answered; round trip 12.3 / 46.2 / 80.0 ms")


async def test_a_ping_that_stays_relayed_ends_with_the_reason(capsys, autojump_clock):
    await pinged([RELAYED], as_json=True)
    answer, summary = map(json.loads, capsys.readouterr().out.splitlines())
    assert answer["event"] == "answer"
    assert summary["relayed"] is True
    assert summary["why_relayed"] == "both NATs are symmetric"
    assert summary["direct_after_seconds"] is None


async def test_one_lost_answer_is_shown_and_no_answer_at_all_is_an_error(capsys, autojump_clock):
    await pinged([PEER, CallTimeout("X does not answer within 20 s"), PEER], as_json=False)
    assert "2 of 3 answered" in capsys.readouterr().out
    with pytest.raises(CallTimeout):
        await pinged([CallTimeout("slow"), CallTimeout("slow")], as_json=False)


async def test_a_peer_that_cannot_be_reached_is_not_tried_again_and_again(capsys):
    with trio.fail_after(5), pytest.raises(PeerUnreachable, match="tried"):
        await pinged([PeerUnreachable("tried everything"), PEER], as_json=False)


def test_a_peer_is_named_by_id_by_address_or_by_its_end_when_connected():
    at = f"/ip4/203.0.113.7/tcp/4101/p2p/{ROUTER.peer_id}"
    assert whom(ROUTER.peer_id, []) == (ROUTER.peer_id, [])
    assert whom(at, []) == (ROUTER.peer_id, [at])
    assert whom("…" + ROUTER.peer_id[-8:], [CLIENT.peer_id, ROUTER.peer_id]) == (ROUTER.peer_id, [])


@pytest.mark.parametrize(
    "target", ["", "me", "12D3KooW", "/ip4/203.0.113.7/tcp/4101", "/nonsense", ROUTER.peer_id[-3:]]
)
def test_whatever_else_names_nobody(target):
    with pytest.raises(AddressMalformed):
        whom(target, [CLIENT.peer_id, ROUTER.peer_id])
