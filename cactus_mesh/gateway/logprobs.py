"""OpenAI's objects around the log-probabilities of a reply's tokens, whole or in pieces.

Listed are the tokens that the text consists of: not the end of the text, nor what belongs to a stop string.
"""

from __future__ import annotations

import codecs
from collections import deque
from typing import TYPE_CHECKING, Any

from cactus_mesh.core.likelihoods import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cactus_mesh.core.likelihoods import Alternative, TokenLogprob


class Tokens:
    """Of one reply, a *chat* or a plain completion.  *cut*: its text may end before a stop string."""

    def __init__(self, chat: bool, *, cut: bool) -> None:
        self._chat = chat
        self._cut = cut
        self._waiting: deque[TokenLogprob] = deque()
        self._said_bytes = 0
        self._begun_bytes = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0
        """Characters of the text before the next token."""

    def take(self, text: str, tokens: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        """What goes out with *text*, where some does."""
        self._waiting += (token for token in tokens if token.data is not None)
        self._said_bytes += len(text.encode())
        found = []
        while self._waiting and (not self._cut or self._ends_at(self._waiting[0]) <= self._said_bytes):
            found.append(self._next())
        return self._object(found) if found else None

    def end(self, finish: str) -> dict[str, Any] | None:
        """What else belongs to the text."""
        found = []
        while self._waiting and (finish != "stop_string" or self._begun_bytes < self._said_bytes):
            found.append(self._next())
        return self._object(found) if found else None

    def whole(self, text: str, tokens: Sequence[TokenLogprob], finish: str) -> dict[str, Any]:
        self._waiting += (token for token in tokens if token.data is not None)
        self._said_bytes = len(text.encode())
        return self.end(finish) or self._object([])

    def _ends_at(self, token: TokenLogprob) -> int:
        return self._begun_bytes + len(token.data or b"")

    def _next(self) -> TokenLogprob:
        token = self._waiting.popleft()
        self._begun_bytes = self._ends_at(token)
        return token

    def _object(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
        if self._chat:
            return {"content": [shown(token) for token in tokens], "refusal": None}
        return {
            "tokens": [_name(token) for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [{_name(each): each.logprob for each in (*token.top, token)} for token in tokens],
            "text_offset": [self._place(token) for token in tokens],
        }

    def _place(self, token: TokenLogprob) -> int:
        before = self._offset
        self._offset += len(self._decoder.decode(token.data or b""))
        return before


def _name(token: Alternative) -> str:
    """Plain completions mark what is no whole character."""
    is_text = token.data is None or token.data == token.token.encode()
    return token.token if is_text else f"bytes:{token.token}"
