"""One cause, one class, one code; the same on both ends of the wire and in the documentation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cactus_mesh import errors
from cactus_mesh.errors import (
    BY_CODE,
    Busy,
    KeyFileExposed,
    LedgerAborted,
    MeshError,
    PeerError,
    PeerFailed,
    UsageError,
    from_wire,
    to_wire,
)

DOCUMENT = (Path(__file__).parents[1] / "docs" / "errors.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `([a-z_.]+)` \| (.+?) \| (.+?) \|$", DOCUMENT, re.MULTILINE)


def classes(root=MeshError):
    return [root, *(kind for child in root.__subclasses__() for kind in classes(child))]


BRANCHES = [kind for kind in classes() if kind.__subclasses__()]
CAUSES = [kind for kind in classes() if not kind.__subclasses__()]


def test_every_class_has_a_code_of_its_own():
    codes = [kind.code for kind in classes()]
    assert all("code" in vars(kind) for kind in classes())
    assert len(set(codes)) == len(codes) == len(BY_CODE)


@pytest.mark.parametrize("kind", classes(), ids=lambda kind: kind.__name__)
def test_every_class_is_drawn_once_in_the_tree(kind):
    assert len(re.findall(rf"\b{kind.__name__}\b", errors.__doc__)) == 1


def test_nothing_is_drawn_in_the_tree_that_is_not_there():
    tree = errors.__doc__[errors.__doc__.index("MeshError\n") :]
    drawn = set(re.findall(r"\b[A-Z][a-z]+(?:[A-Z][a-zA-Z]*)?\b", tree))
    assert drawn == {kind.__name__ for kind in classes()}


def test_each_branch_has_its_own_exit_status():
    status = {kind.__name__: kind.exit_status for kind in MeshError.__subclasses__() if kind in BRANCHES}
    assert status == {
        "UsageError": 2,
        "PeerError": 3,
        "LedgerError": 4,
        "UnreachableError": 5,
        "TaskError": 6,
    }
    assert all(cause.exit_status == cause.__mro__[1].exit_status for cause in CAUSES)


@pytest.mark.parametrize("kind", classes(), ids=lambda kind: kind.__name__)
def test_an_error_comes_back_from_the_wire_as_itself(kind):
    again = from_wire(kind.code, "what to do", kind.retry)
    assert type(again) is kind
    assert str(again) == again.message == "what to do"


@pytest.mark.parametrize("kind", [kind for kind in classes() if not issubclass(kind, UsageError)])
def test_a_peer_is_told_an_error_as_it_is(kind):
    error = kind("what to do")
    assert to_wire(error) is error
    assert to_wire(ExceptionGroup("", [ExceptionGroup("", [error])])) is error


@pytest.mark.parametrize(
    "error",
    [
        KeyFileExposed("/home/somebody/.local/share/cactus-mesh/key can be read"),
        ValueError("/home/somebody"),
        ExceptionGroup("/home/somebody", [Busy("x"), ValueError("/home/somebody")]),
    ],
)
def test_a_peer_is_not_told_what_is_this_sides_own_affair(error):
    told = to_wire(error)
    assert type(told) is PeerFailed
    assert "somebody" not in told.message


@pytest.mark.parametrize(("retry", "kind"), [(True, PeerFailed), (False, PeerError)])
def test_a_code_of_a_newer_peer_keeps_its_message_and_whether_to_try_again(retry, kind):
    error = from_wire("task.too_modern", "do this", retry)
    assert type(error) is kind
    assert error.retry is retry
    assert "do this" in error.message
    assert "'task.too_modern'" in error.message


@given(st.text(), st.text(), st.booleans())
def test_whatever_a_peer_sends_becomes_an_error(code, message, retry):
    assert isinstance(from_wire(code, message, retry), MeshError)


def test_an_abort_keeps_the_contracts_own_code():
    assert LedgerAborted("no", 7).abort_code == 7
    assert LedgerAborted("no").abort_code is None


# --- docs/errors.md ------------------------------------------------------------------------------------------------


def test_every_code_is_documented_once_and_no_other():
    assert sorted(code for code, _, _ in ROWS) == sorted(BY_CODE)


@pytest.mark.parametrize(("code", "happened", "to_do"), ROWS, ids=[code for code, _, _ in ROWS])
def test_every_row_says_what_happened_and_what_to_do(code, happened, to_do):
    assert len(happened) > 20
    assert len(to_do) > 8
    if BY_CODE[code] in CAUSES:
        assert BY_CODE[code].retry == ("Retry." in happened)
