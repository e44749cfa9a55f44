"""A conversation at the terminal, with a whole mesh in memory: what is said, what it costs, what does not end it."""

from __future__ import annotations

import signal
import stat
import sys

import pytest
import trio

from cactus_mesh.cli.chat import _Chat
from cactus_mesh.cli.lines import MOST_KEPT, append_history, open_history, read_history
from cactus_mesh.cli.talk import COMMANDS, HELP, MOST_MESSAGES, Talk, split
from cactus_mesh.config import ClientConfig
from cactus_mesh.errors import PriceOverBudget, UnknownModel, UsageError
from cactus_mesh.testing.engine import FAKE_TEXT, FakeEngine
from tests.world import identity, open_world


class Script:
    """Lines that somebody writes; an exception is raised in its place."""

    def __init__(self, *lines: str | type[BaseException]) -> None:
        self._lines = list(lines)

    async def next(self) -> str | None:
        await trio.lowlevel.checkpoint()
        if not self._lines:
            return None
        line = self._lines.pop(0)
        if isinstance(line, str):
            return line
        raise line


async def spoken(*lines, engine=None, talk=None, config=None, beside=None):
    """The conversation after these lines."""
    talk = talk or Talk("fake", 100_000)
    async with open_world() as world:
        await world.router()
        await world.orchestrator(engine=engine)
        client = await world.client(config=config)
        await world.settle_down()
        if beside is not None:
            world.services.start_soon(beside)
        await _Chat(client, talk, 0, None, 0.0, as_json=False).with_somebody(Script(*lines))
    return talk


async def test_the_conversation_goes_along_with_each_question_and_each_price_is_shown(autojump_clock, capsys):
    talk = await spoken("one", "two")
    assert [role for role, _ in talk.said] == ["user", "assistant"] * 2
    assert [text for _, text in talk.said] == ["one", FAKE_TEXT, "two", FAKE_TEXT]
    shown = capsys.readouterr().out
    assert shown.count("octas") == 2
    assert identity("orchestrator").peer_id[-8:] in shown
    assert talk.answers == 2
    assert talk.spent > 0


async def test_what_fails_is_explained_and_the_conversation_is_kept(autojump_clock, capsys):
    talk = await spoken("one", "/model none such", "two", "/model fake", "three")
    assert [text for role, text in talk.said if role == "user"] == ["one", "three"]
    assert UnknownModel.code in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="a test cannot press Ctrl-C there")
async def test_ctrl_c_stops_the_answer_and_keeps_what_was_made(autojump_clock, capsys):
    async def interrupt() -> None:
        await trio.sleep(3.5)
        signal.raise_signal(signal.SIGINT)

    talk = await spoken("one", "/price", engine=FakeEngine(delay_seconds=1.0), beside=interrupt)
    (_, made) = talk.said[-1]
    assert made
    assert FAKE_TEXT.startswith(made)
    assert made != FAKE_TEXT
    assert "stopped" in capsys.readouterr().out


async def test_ctrl_c_in_a_line_drops_the_line_only(autojump_clock):
    talk = await spoken(KeyboardInterrupt, "one", KeyboardInterrupt, "/quit", "never")
    assert [text for role, text in talk.said if role == "user"] == ["one"]


async def test_a_budget_is_refused_before_anything_is_sent(autojump_clock, capsys):
    talk = await spoken("one", "two", talk=Talk("fake", 100_000, budget=100_500))
    assert talk.answers == 1
    assert PriceOverBudget.code in capsys.readouterr().err


async def test_commands_say_set_forget_and_list(autojump_clock, capsys, tmp_path):
    file = tmp_path / "talk.md"
    lines = (
        "/system be brief",
        "one",
        f"/save {file}",
        f"/save {file}",
        "/save",
        "/models",
        "/price",
        "/help",
        "/hlep",
    )
    talk = await spoken(*lines, "/reset", "/system -")
    shown = capsys.readouterr()
    assert file.read_text() == f"## system\n\nbe brief\n\n## user\n\none\n\n## assistant\n\n{FAKE_TEXT}\n\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "[output.exists]" in shown.err
    assert "did you mean /help?" in shown.err
    assert "* fake" in shown.out
    assert HELP in shown.out
    assert (talk.said, talk.system) == ([], "")


async def test_a_long_conversation_sends_its_end(autojump_clock):
    talk = Talk("fake", 1, system="s", said=[("user", str(number)) for number in range(500)])
    sent = talk.messages("now")
    assert len(sent) == MOST_MESSAGES + 2
    assert (sent[0]["role"], sent[1]["content"], sent[-1]["content"]) == ("system", "300", "now")


async def test_a_pipe_has_a_question_in_each_line_and_answers_plainly(autojump_clock, capsys):
    async with open_world() as world:
        await world.router()
        await world.orchestrator()
        client = await world.client(config=ClientConfig())
        await world.settle_down()
        chat = _Chat(client, Talk("fake", 100_000), 0, None, 0.0, as_json=False)
        await chat.through_a_pipe(Script("/model is no command here", "", "two"))
    assert capsys.readouterr().out == f"{FAKE_TEXT}\n" * 2


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_in_the_help(name):
    assert name in HELP
    assert split(f"{name}  x y ") == (name, "x y")


def test_a_line_that_is_no_command_is_refused():
    with pytest.raises(UsageError, match="did you mean /quit"):
        split("/quitt")


# --- history -----------------------------------------------------------------------------------------------------


def test_history_is_private_bounded_and_survives_lines_of_any_kind(tmp_path):
    path = tmp_path / "chat-history"
    for number in range(MOST_KEPT + 5):
        append_history(path, f"line {number}\nwith another \x00")
    path.write_bytes(path.read_bytes() + b'nonsense\n{"no": "text"}\n')
    history = open_history(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(read_history(path)) == MOST_KEPT
    assert next(iter(history.load_history_strings())) == f"line {MOST_KEPT + 4}\nwith another \x00"
    history.store_string("newest")
    assert read_history(path)[-1] == "newest"


def test_without_history_nothing_is_written(tmp_path):
    open_history(None).store_string("secret")
    assert list(tmp_path.iterdir()) == []
