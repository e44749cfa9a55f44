"""Where the lines of a conversation come from: a terminal with editing and history, or a pipe."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol

import trio

from cactus_mesh.cli.talk import COMMANDS

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import History
    from prompt_toolkit.key_binding import KeyBindings

MOST_KEPT: Final = 1_000
"""Lines of history; the oldest go when a chat begins."""


class Lines(Protocol):
    async def next(self) -> str | None:
        """The next line, None at the end.  Raises KeyboardInterrupt for a Ctrl-C while it is written."""
        ...


class PipedLines:
    """Each line of standard input."""

    async def next(self) -> str | None:
        line = await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
        return line.rstrip("\r\n") if line else None


class TypedLines:
    """Lines that somebody writes; prompt_toolkit runs its own loop, in a thread, while one is written."""

    def __init__(self, history: Path | None) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import WordCompleter

        self._session: PromptSession[str] = PromptSession(
            history=open_history(history),
            key_bindings=_keys(),
            multiline=True,
            completer=WordCompleter([*COMMANDS], sentence=True),
            complete_while_typing=False,
        )

    async def next(self) -> str | None:
        try:
            return await trio.to_thread.run_sync(self._ask)
        except EOFError:
            return None

    def _ask(self) -> str:
        return self._session.prompt("> ", prompt_continuation="  ", handle_sigint=False)


def _keys() -> KeyBindings:
    """Enter sends, also in the middle of several lines; Esc Enter begins a new one."""
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    keys = KeyBindings()

    @keys.add("enter")
    def _send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys


def open_history(path: Path | None) -> History:
    """Lines of earlier chats, in a private file; None keeps them only while the chat lasts."""
    from prompt_toolkit.history import History, InMemoryHistory

    if path is None:
        return InMemoryHistory()
    kept = path

    class Kept(History):
        def load_history_strings(self) -> Iterable[str]:
            return reversed(read_history(kept))

        def store_string(self, string: str) -> None:
            append_history(kept, string)

    trim_history(kept)
    return Kept()


def read_history(path: Path) -> list[str]:
    """The oldest first.  What is no line of ours is passed over."""
    found: list[str] = []
    with suppress(OSError):
        for line in path.read_bytes().splitlines():
            with suppress(ValueError):
                text = json.loads(line)
                if isinstance(text, str):
                    found.append(text)
    return found


def append_history(path: Path, text: str) -> None:
    with suppress(OSError):  # a disk that is full is no reason to end a conversation
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab") as file:
            file.write(json.dumps(text).encode() + b"\n")


def trim_history(path: Path) -> None:
    from cactus_mesh.files import write_private

    lines = read_history(path)
    if len(lines) > MOST_KEPT:
        with suppress(OSError):
            write_private(path, b"".join(json.dumps(line).encode() + b"\n" for line in lines[-MOST_KEPT:]))
