"""The live view: a node's picture as a line, as JSON, and as a screen that a hostile name cannot spoil."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from cactus_mesh.cli.top import _lines
from cactus_mesh.cli.topview import BARS, one_line, screen, sparkline

HOSTILE = "\x1b[2J[bold red]evil[/]\n=1"


def picture(**changes):
    task = {
        "id": "ab" * 16, "role": "router", "state": "streaming", "model": HOSTILE, "tokens": 7,
        "tokens_per_second": 3.0, "seconds": 2.5,
    }  # fmt: skip
    peer = {
        "peer_id": "12D3KooWpeer",
        "roles": ["router"],
        "relayed": True,
        "relay": None,
        "rtt_ms": 1.5,
        "since": 90.0,
    }
    found = {
        "now": 100.0,
        "self": {
            "peer_id": "12D3KooWmyself", "roles": ["router"], "network": HOSTILE, "started_at": 10.0,
            "router": {"running": 1, "auditing": 2, "audits_pass": 3},
        },
        "peers": [peer], "peers_total": 1, "running": [task], "running_total": 1, "done": [task | {"state": HOSTILE}],
        "totals": {"router": {"done": 4, "failed": 1, "octas": 1_234}},
        "money": {"error": None, "coins_octas": 5_000, "deposit_octas": 10},
        "series": {"fine": {"values": {"tokens_router": [1.0, 9.0], "tokens_client": [None, 1.0]}}},
    }  # fmt: skip
    return found | changes


def drawn(found) -> str:
    into = io.StringIO()
    Console(file=into, width=100, force_terminal=False).print(screen(found))
    return into.getvalue()


def test_a_screen_shows_tasks_peers_money_and_audits():
    shown = drawn(picture())
    for word in ("abababababab", "relayed", "4 done, 1 failed", "5,000", "2 auditing, 3 pass", "10.0"):
        assert word in shown


def test_a_name_from_a_peer_is_text_and_nothing_else():
    shown = drawn(picture())
    assert "\x1b" not in shown
    assert "[bold red]evil" in shown


@pytest.mark.parametrize("missing", ["money", "totals", "series"])
def test_what_a_node_does_not_tell_is_left_out(missing):
    assert drawn(picture(**{missing: {}}))
    assert one_line(picture(**{missing: {}}))


def test_a_line_names_its_numbers():
    line = one_line(picture())
    assert "peers=1 running=1 tokens_per_second=10.0 first_token_ms=- done=4 failed=1 octas=1234 auditing=2" in line


@given(st.lists(st.none() | st.floats(0, 1e9), max_size=90))
def test_a_sparkline_has_a_sign_for_each_value(values):
    shown = sparkline(values)
    assert len(shown) == min(len(values), 60)
    assert set(shown) <= {*BARS, " "}


@pytest.mark.parametrize("as_json", [True, False])
async def test_elsewhere_than_on_a_terminal_there_is_a_line_each_time(autojump_clock, capsys, as_json):
    async def look():
        return picture()

    await _lines(look, 2.0, 3, as_json=as_json)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    if as_json:
        assert json.loads(lines[0]) == json.loads(json.dumps(picture()))
