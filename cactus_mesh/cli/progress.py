"""How far a long work with bytes has come: a bar on a terminal, now and then a line elsewhere; on standard error."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Final

import click

from cactus_mesh.terminal import printable, say

if TYPE_CHECKING:
    from types import TracebackType

_LINE_SECONDS: Final = 5.0
_STEPS: Final = 400
"""Of a bar: more often nobody sees it move."""


class Progress:
    """`tell` may be called in a thread; once the block is left, that ends the thread's work."""

    def __init__(self, label: str, *, shown: bool) -> None:
        self._label = printable(label)
        self._shown = shown
        self._terminal = sys.stderr is not None and sys.stderr.isatty()
        self._bar: Any = None
        self._line_at = time.monotonic() + _LINE_SECONDS
        self._left = False
        self.done = 0

    def tell(self, done: int, total: int) -> None:
        """*done* of *total* bytes."""
        if self._left:
            raise InterruptedError("nobody waits for it any more")
        step, self.done = done - self.done, done
        if not self._shown or not total:
            return
        if self._terminal:
            self._draw(step, done, total)
        elif time.monotonic() >= self._line_at:
            self._line_at = time.monotonic() + _LINE_SECONDS
            say(f"{self._label}: {_of(done, total)}")

    def _draw(self, step: int, done: int, total: int) -> None:
        if self._bar is None:
            self._bar = click.progressbar(
                length=total,
                label=self._label,
                file=sys.stderr,
                item_show_func=lambda at: at,
                update_min_steps=max(total // _STEPS, 1),
            )
        self._bar.update(step, _of(done, total))

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left = True
        if self._bar is not None:
            self._bar.render_finish()


def _of(done: int, total: int) -> str:
    return f"{done / 1e6:,.1f} of {total / 1e6:,.1f} MB"
