"""A long work with bytes: a line now and then where nobody watches, nothing beside JSON, and an end when one leaves."""

from __future__ import annotations

import pytest

from cactus_mesh.cli import progress
from cactus_mesh.cli.progress import Progress


def test_a_line_is_said_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("fetching\x1b[2J some/model", shown=True) as told:
        told.tell(1_000_000, 4_000_000)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(progress, "_LINE_SECONDS", 0.0)
    with Progress("fetching\x1b[2J some/model", shown=True) as told:
        told.tell(1_000_000, 4_000_000)
    found = capsys.readouterr()
    assert (found.out, found.err) == ("", "fetching[2J some/model: 1.0 of 4.0 MB\n")


def test_beside_json_nothing_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "_LINE_SECONDS", 0.0)
    with Progress("reading", shown=False) as told:
        told.tell(1, 2)
    assert capsys.readouterr().err == ""


def test_who_goes_on_when_nobody_waits_is_ended() -> None:
    with Progress("reading", shown=True) as told:
        told.tell(1, 2)
    with pytest.raises(InterruptedError):
        told.tell(2, 2)
