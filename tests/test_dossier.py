"""What a router remembers of its audits survives it, and is bounded."""

from __future__ import annotations

import dataclasses

import pytest

from cactus_mesh import dossier as module
from cactus_mesh.core.exhibits import MAX_EXHIBITS
from cactus_mesh.core.suspicion import Suspicion
from cactus_mesh.dossier import Case, Record, open_dossier
from cactus_mesh.errors import StateMalformed
from tests.samples import CLIENT, ORCHESTRATOR

MODEL = bytes(32)
CASE = Case(CLIENT.address, bytes(16), ORCHESTRATOR.public_key, "fail", ("a", "b"), b"evidence", "wanted", 10, 20)


def case(number, **changes):
    return dataclasses.replace(CASE, task_id=number.to_bytes(16, "big"), **changes)


def test_a_record_survives_a_restart_to_the_last_bit(tmp_path):
    record = Record(7, Suspicion().after(64, 1, 1e-5).after(10, 0, 1e-5))
    with open_dossier(tmp_path / "audits.sqlite") as dossier:
        dossier.note(ORCHESTRATOR.public_key, MODEL, record, now=1)
    with open_dossier(tmp_path / "audits.sqlite") as dossier:
        assert dossier.record(ORCHESTRATOR.public_key, MODEL) == record


def test_who_was_never_audited_is_a_newcomer():
    with open_dossier(None) as dossier:
        assert dossier.record(ORCHESTRATOR.public_key, MODEL) == Record()


def test_who_was_audited_longest_ago_makes_room(monkeypatch):
    monkeypatch.setattr(module, "MAX_RECORDS", 3)
    with open_dossier(None) as dossier:
        for number in range(5):
            dossier.note(ORCHESTRATOR.public_key, bytes([number]) * 32, Record(number + 1), now=number)
        assert [dossier.record(ORCHESTRATOR.public_key, bytes([n]) * 32).passed for n in range(5)] == [0, 0, 3, 4, 5]


def test_the_newest_doubts_about_an_orchestrator_are_kept():
    with open_dossier(None) as dossier:
        for number in range(MAX_EXHIBITS + 5):
            dossier.doubt(ORCHESTRATOR.public_key, MODEL, bytes([number]))
        kept = dossier.doubts(ORCHESTRATOR.public_key, MODEL)
        assert kept == [bytes([number]) for number in reversed(range(5, MAX_EXHIBITS + 5))]
        dossier.forget_doubts(ORCHESTRATOR.public_key, MODEL)
        assert dossier.doubts(ORCHESTRATOR.public_key, MODEL) == []


def test_doubts_that_are_large_make_room_sooner(monkeypatch):
    monkeypatch.setattr(module, "MAX_DOUBTS_BYTES", 100)
    with open_dossier(None) as dossier:
        for number in range(6):
            dossier.doubt(ORCHESTRATOR.public_key, MODEL, bytes([number]) * 40)
        dossier.doubt(ORCHESTRATOR.public_key, bytes(31) + b"x", bytes(90))
        assert [each[0] for each in dossier.doubts(ORCHESTRATOR.public_key, MODEL)] == [5, 4]


def test_a_dispute_that_is_wanted_survives_a_restart_and_is_wanted_no_more_once_it_is_open(tmp_path):
    with open_dossier(tmp_path / "audits.sqlite") as dossier:
        dossier.file(CASE)
    with open_dossier(tmp_path / "audits.sqlite") as dossier:
        assert dossier.wanted() == [CASE]
        dossier.set_dispute(CASE, "opened")
        assert dossier.wanted() == []
        assert dossier.of_task(CASE.task_id) == [dataclasses.replace(CASE, dispute="opened")]


def test_old_cases_make_room_but_never_one_whose_dispute_is_wanted(monkeypatch):
    monkeypatch.setattr(module, "MAX_CASES", 3)
    with open_dossier(None) as dossier:
        dossier.file(case(1))
        for number in range(2, 9):
            dossier.file(case(number, dispute="none"))
        assert [each.task_id[-1] for each in dossier.cases(10)] == [8, 7, 6, 1]


def test_a_file_that_is_none_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "audits.sqlite").write_bytes(b"x" * 4_096)
    with pytest.raises(StateMalformed, match="move it away"), open_dossier(tmp_path / "audits.sqlite"):
        pass
