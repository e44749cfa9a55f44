"""The tasks of this process: those under way, the last that ended, and sums; as client, router and orchestrator.

Keeps text only of tasks that this process itself has asked for, and of those only the beginning.
"""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

import trio

from cactus_mesh.clock import wall_clock
from cactus_mesh.heard import OK

if TYPE_CHECKING:
    from collections.abc import Iterator

Part = Literal["client", "router", "orchestrator"]
PARTS: Final[tuple[Part, ...]] = ("client", "router", "orchestrator")
RUNNING_TOLD: Final = 128
"""Of those under way; more than anybody reads, and less than a busy router has."""
DONE_KEPT: Final = 64
TEXT_CHARACTERS: Final = 8_000
"""Of one answer: some screens full."""
TEXTS_KEPT: Final = 64
"""Tasks with text, the longest ago forgotten first: half a megabyte."""


@dataclass(slots=True)
class Task:
    """One task in one role.  Times are of the event loop, in seconds; amounts in octas."""

    part: Part
    id: str
    model: str
    asked_at: float
    began: float
    max_price: int
    max_tokens: int
    peer: str
    """Whom it is asked of, or who asks."""
    orchestrator: str | None = None
    """Who has taken it, where that is another peer."""
    taken: bool = False
    tokens: int = 0
    first_at: float | None = None
    newest_at: float = 0.0
    outcome: str = ""
    ended: float | None = None
    price: int | None = None
    prompt_tokens: int | None = None
    finish: str | None = None
    delegated: bool = False
    pieces: list[str] = field(default_factory=list)
    characters: int = 0

    @property
    def state(self) -> str:
        """``waiting`` for somebody to take it, ``working`` towards the first token, ``streaming``, or its outcome."""
        if self.outcome:
            return self.outcome
        if self.first_at is not None:
            return "streaming"
        return "working" if self.taken else "waiting"

    @property
    def first_token_ms(self) -> float | None:
        return None if self.first_at is None else round((self.first_at - self.began) * 1_000, 1)

    @property
    def tokens_per_second(self) -> float | None:
        """Waiting for the first one included: tokens may come in one piece, and then there is nothing else to go by."""
        seconds = self.newest_at - self.began
        return round(self.tokens / seconds, 1) if self.tokens and seconds > 0 else None

    def told(self, now: float) -> dict[str, Any]:
        return {
            "id": self.id,
            "role": self.part,
            "state": self.state,
            "model": self.model,
            "peer": self.peer,
            "orchestrator": self.orchestrator,
            "asked_at": round(self.asked_at, 3),
            "seconds": round((self.ended or now) - self.began, 2),
            "first_token_ms": self.first_token_ms,
            "tokens": self.tokens,
            "max_tokens": self.max_tokens,
            "tokens_per_second": self.tokens_per_second,
            "max_price_octas": self.max_price,
            "price_octas": self.price,
            "prompt_tokens": self.prompt_tokens,
            "finish": self.finish,
            "delegated": self.delegated,
            "verified": self.outcome == OK and self.part == "client",
        }


@dataclass(slots=True)
class Totals:
    """Since the start, of one role.  *octas* is what receipts ask for: the ledger pays at most that."""

    done: int = 0
    failed: int = 0
    tokens: int = 0
    octas: int = 0


class TaskTable:
    """Filled by who is `watching`, read by `Live`."""

    def __init__(self) -> None:
        self.totals: dict[Part, Totals] = {part: Totals() for part in PARTS}
        self.done: deque[Task] = deque(maxlen=DONE_KEPT)
        self._running: dict[int, Task] = {}
        self._waits: list[float] = []
        self._with_text: deque[Task] = deque()

    def __len__(self) -> int:
        return len(self._running)

    def running(self) -> Iterator[Task]:
        """Newest first."""
        return reversed(list(self._running.values())[-RUNNING_TOLD:])

    def begin(self, task: Task) -> None:
        self._running[id(task)] = task
        if task.part == "client":
            self._with_text.append(task)
            if len(self._with_text) > TEXTS_KEPT:
                self._with_text.popleft().pieces.clear()

    def took(self, task: Task, tokens: int, text: str) -> None:
        task.newest_at = trio.current_time()
        if task.first_at is None:
            task.first_at = task.newest_at
            if len(self._waits) < DONE_KEPT:
                self._waits.append((task.first_at - task.began) * 1_000)
        task.tokens += tokens
        self.totals[task.part].tokens += tokens
        if task.part == "client" and task.characters < TEXT_CHARACTERS:
            piece = text[: TEXT_CHARACTERS - task.characters]
            task.pieces.append(piece)
            task.characters += len(piece)

    def end(self, task: Task, outcome: str) -> None:
        del self._running[id(task)]
        task.outcome, task.ended = outcome, trio.current_time()
        self.done.appendleft(task)
        self.count(task.part, outcome, task.price or 0)

    def count(self, part: Part, outcome: str, octas: int = 0) -> None:
        totals = self.totals[part]
        if outcome == OK:
            totals.done += 1
            totals.octas += octas
        else:
            totals.failed += 1

    def texts(self) -> dict[str, str]:
        """What has come of the own tasks' answers, by task id, longest ago first."""
        return {task.id: "".join(task.pieces) for task in self._with_text if task.pieces}

    def first_token_ms(self) -> float | None:
        """The median over the tasks that have got their first token since this was asked last."""
        waits, self._waits = self._waits, []
        return statistics.median(waits) if waits else None


def new_task(part: Part, asked: tuple[bytes, str, int, int], peer: str) -> Task:
    """*asked*: task id, model, maximum price, maximum tokens."""
    task_id, model, max_price, max_tokens = asked
    return Task(part, task_id.hex(), model, wall_clock() / 1_000, trio.current_time(), max_price, max_tokens, peer)
