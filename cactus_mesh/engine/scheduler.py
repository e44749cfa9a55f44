"""Decides which generation computes next, so that no one waits long for another.  Knows nothing of tensors and clocks.

Decoding generations make a token each in turn; after every few tokens one of the prefilling ones, in turn too, reads a
chunk of its prompt.  How a prompt is cut into chunks depends on the prompt alone, so that a generation computes the
same numbers in any company.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

DECODES_PER_CHUNK: Final = 4
"""Newcomers wait for their first token, the others for their next: a chunk costs about as much as a few tokens."""


@dataclass(frozen=True, slots=True)
class Prefill:
    """Read tokens ``start .. end`` of the prompt of generation *id*.  The last chunk also gives the first token."""

    id: int
    start: int
    end: int
    last: bool


@dataclass(frozen=True, slots=True)
class Decode:
    """Make the next token of generation *id*."""

    id: int


Step = Prefill | Decode


class Scheduler:
    """At most *slots* generations at once; prompts in chunks of at most *chunk_tokens*."""

    def __init__(self, slots: int, chunk_tokens: int) -> None:
        self._slots = slots
        self._chunk_tokens = chunk_tokens
        self._prefilling: deque[Prefill] = deque()
        self._prompt_tokens: dict[int, int] = {}
        self._decoding: dict[int, None] = {}
        self._round: deque[int] = deque()
        """Decoding generations that are still to come in this round."""
        self._since_chunk = 0
        """Tokens made since the last chunk of a prompt was read."""

    def __len__(self) -> int:
        return len(self._prompt_tokens)

    def admit(self, id_: int, prompt_tokens: int) -> bool:
        """Take a generation with a prompt of at least one token; False when all slots are taken."""
        assert prompt_tokens > 0
        assert id_ not in self._prompt_tokens
        if len(self) >= self._slots:
            return False
        self._prompt_tokens[id_] = prompt_tokens
        self._prefilling.append(self._chunk(id_, 0))
        return True

    def drop(self, id_: int) -> None:
        """Forget a generation, wherever it is; unknown ones are fine."""
        if self._prompt_tokens.pop(id_, None) is not None:
            self._decoding.pop(id_, None)
            self._prefilling = deque(chunk for chunk in self._prefilling if chunk.id != id_)
            self._round = deque(other for other in self._round if other != id_)

    def next(self) -> Step | None:
        """The step to do now, None when nothing runs.  It counts as done: a generation that fails must be dropped."""
        if self._prefilling and self._since_chunk >= min(len(self._decoding), DECODES_PER_CHUNK):
            self._since_chunk = 0
            return self._prefill(self._prefilling.popleft())
        if not self._round:
            self._round.extend(self._decoding)
        if not self._round:
            return None
        self._since_chunk += 1
        return Decode(self._round.popleft())

    def _prefill(self, chunk: Prefill) -> Prefill:
        if chunk.last:
            self._decoding[chunk.id] = None
        else:
            self._prefilling.append(self._chunk(chunk.id, chunk.end))
        return chunk

    def _chunk(self, id_: int, start: int) -> Prefill:
        total = self._prompt_tokens[id_]
        end = min(start + self._chunk_tokens, total)
        return Prefill(id_, start, end, last=end == total)
