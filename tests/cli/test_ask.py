"""One prompt from the command line, with a whole mesh in memory behind it: how likely each token of the answer was."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager

import pytest
from click.testing import CliRunner

from cactus_mesh.cli import main
from cactus_mesh.testing.engine import FAKE_TEXT, FakeEngine
from tests.test_aio_and_sync import mesh


@pytest.fixture
def ask(tmp_path, monkeypatch):
    """What `ask` prints, and its exit status."""

    def asked(*arguments, text=FAKE_TEXT):
        @asynccontextmanager
        async def open_client(**_):
            async with mesh(FakeEngine(text))() as client:
                yield client

        monkeypatch.setattr("cactus_mesh.clients.open_client", open_client)
        words = ["--home", str(tmp_path), "ask", "hi", "--model", "fake", *arguments]
        result = CliRunner().invoke(main, words)
        return result.exit_code, result.stdout

    return asked


def test_json_has_every_token_as_openai_has_it(ask):
    status, out = ask("--logprobs", "2", "--json")
    told = json.loads(out)["logprobs"]
    assert status == 0
    assert "".join(each["token"] for each in told[:-1]) == FAKE_TEXT
    assert [len(each["top_logprobs"]) for each in told] == [2] * 16
    assert (told[0]["logprob"], told[0]["bytes"]) == (-0.5, [65])
    assert (told[-1]["token"], told[-1]["bytes"]) == ("<end>", None)


def test_a_line_for_each_token_stands_below_the_answer(ask):
    status, out = ask("--logprobs", "3", "--max-tokens", "2")
    assert status == 0
    assert out.splitlines() == [
        "A cactus",
        ' 60.65 %  "A"  instead of <end> 8.21 %, " other0" 1.11 %',
        ' 60.65 %  " cactus"  instead of <end> 8.21 %, " other0" 1.11 %',
    ]


def test_no_token_says_anything_to_the_terminal(ask):
    _, out = ask("--logprobs", "0", "--max-tokens", "2", text="\x1b[2J\x9b0m two\nthree")
    assert not {"\x1b", "\x9b", "\r"} & set(out)
    assert len(out.splitlines()) == 4  # the answer's own two, and one for each token


def test_without_asking_nothing_is_told(ask):
    status, out = ask("--json")
    assert (status, "logprobs" in json.loads(out)) == (0, False)


@pytest.mark.parametrize("wrong", ["21", "-1", "many"])
def test_a_number_out_of_bounds_is_a_usage_error(ask, wrong):
    assert ask("--logprobs", wrong)[0] == 2
