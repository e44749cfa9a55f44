"""What people and programs read: exact amounts, harmless text, logs that hold JSON's own types."""

from __future__ import annotations

import json
import logging

import pytest

from cactus_mesh.terminal import _LogJson, octas, printable


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        (0, "0 octas"),
        (99_999, "99,999 octas"),
        (100_000, "100,000 octas (0.001 APT)"),
        (999_999_017, "999,999,017 octas (9.99999017 APT)"),
        (8_999_999_000, "8,999,999,000 octas (89.99999 APT)"),
        (100_000_000_000, "100,000,000,000 octas (1,000 APT)"),
    ],
)
def test_an_amount_is_shown_to_the_last_octa(amount, shown):
    assert octas(amount) == shown


def test_what_a_peer_says_cannot_drive_the_terminal():
    assert printable("a\x1b[31mb\x1b]0;title\x07\nc\td\x9b2Je\u202ef") == "a[31mb]0;title\nc\td2Jef"


def test_a_logged_value_keeps_its_type():
    record = logging.makeLogRecord({"msg": "connected", "inbound": False, "tasks": 3, "rtt": None, "peer": ("a",)})
    line = json.loads(_LogJson().format(record))
    assert (line["inbound"], line["tasks"], line["rtt"], line["peer"]) == (False, 3, None, "('a',)")
