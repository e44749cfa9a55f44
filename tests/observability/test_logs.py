"""A line about a task says which and whose; no line says what was asked, answered, or with which key."""

from __future__ import annotations

import io
import json
import logging

import pytest

from cactus_mesh.spans import about, client_part, router_part, working_on
from cactus_mesh.terminal import set_up_logging
from cactus_mesh.testing.engine import FAKE_TEXT
from tests.observability.conftest import PROMPT

TASK = bytes(range(16))


@pytest.fixture
def log(monkeypatch):
    """Lines as they are written, as JSON."""
    kept, level = logging.root.handlers[:], logging.root.level
    target = io.StringIO()
    monkeypatch.setattr("sys.stderr", target)
    set_up_logging(1, "json")
    yield lambda: [json.loads(line) for line in target.getvalue().splitlines()]
    logging.root.handlers[:] = kept
    logging.root.setLevel(level)
    logging.getLogger("cactus_mesh").setLevel(logging.NOTSET)


def test_a_line_within_a_task_carries_its_id_and_the_peer(log):
    logger = logging.getLogger("cactus_mesh.test")
    with working_on(router_part(TASK, b"router", b"client"), "12D3KooWpeer"):
        logger.info("within")
        logger.info("of another", extra={"peer": "12D3KooWother"})
    logger.info("after")
    within, other, after = log()
    assert (within["task"], within["peer"]) == (TASK.hex(), "12D3KooWpeer")
    assert other["peer"] == "12D3KooWother"
    assert "task" not in after


def test_what_lies_within_adds_to_what_is_around_it(log):
    with about(route="/v1/x"), working_on(client_part(TASK, b"client")):
        logging.getLogger("cactus_mesh.test").warning("both")
    (line,) = log()
    assert (line["route"], line["task"], line["level"]) == ("/v1/x", TASK.hex(), "warning")


def test_every_line_of_a_running_node_has_the_documented_keys(seen):
    for name, lines in seen.logs.items():
        assert len(lines) > 5, name
        for line in lines:
            assert {"time", "level", "logger", "message"} <= set(line)
            assert isinstance(line["time"], float)
            assert line["level"] in ("debug", "info", "warning", "error", "critical")


def test_what_a_router_says_of_a_task_names_it(seen):
    settled = [line for line in seen.logs["router"] if line["message"] == "settled"]
    assert [line["task"] for line in settled] == seen.tasks[:1]


@pytest.mark.parametrize("name", ["router", "orchestrator"])
def test_at_the_highest_verbosity_no_prompt_no_answer_and_no_key_is_logged(seen, name):
    everything = json.dumps(seen.logs[name])
    assert PROMPT not in everything
    assert FAKE_TEXT[:20] not in everything
    assert [secret for secret in seen.secrets if secret in everything] == []
    assert all(len(secret) == 64 for secret in seen.secrets)
