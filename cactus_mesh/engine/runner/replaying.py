"""A replay: the answer of somebody else, each of whose tokens is judged where this model would have chosen its own."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from cactus_mesh.engine.frames import Replayed
from cactus_mesh.engine.gaps import judge
from cactus_mesh.engine.requests import check_length
from cactus_mesh.engine.runner.generation import Generation, Made, prompt_ids
from cactus_mesh.engine.sampling import Before

if TYPE_CHECKING:
    import numpy as np

    from cactus_mesh.engine.frames import Start
    from cactus_mesh.engine.runner.loading import LoadedModel
    from cactus_mesh.messages import Ending


class Replaying(Generation):
    """Reads all claimed tokens but the last as if they belonged to the prompt.  Raises as `Generation`."""

    def __init__(self, model: LoadedModel, start: Start) -> None:
        self._claimed = start.before
        readable = [token if token < model.vocabulary else 0 for token in start.before[:-1]]
        super().__init__(model, start, prompt_ids(model, start.work), readable)
        self._logprobs: list[float] = []
        self._gaps: list[float] = []
        self._pieces: list[str] = []
        self._finish: Ending | None = None
        self._left = False
        """Whether a token has left the constraint: nothing that follows could be."""

    def _check_length(self) -> None:
        check_length(self._model.facts.model(), len(self.prompt), len(self._claimed))

    @property
    def room(self) -> int:
        return len(self._claimed)

    @property
    def over(self) -> bool:
        return len(self._gaps) == len(self._claimed)

    def take_all(self, rows: np.ndarray[Any, np.dtype[np.float64]]) -> list[Made]:
        """Judge a claimed token by each of *rows*.  Nothing is made by it."""
        for row in rows:
            self._judge(row, self._claimed[len(self._gaps)])
        return []

    def _judge(self, logits: np.ndarray[Any, np.dtype[np.float64]], token: int) -> None:
        ended = self._finish is not None
        constrained = None if ended or self._left else self._constrained
        allowed = constrained.allowed() if constrained else None
        before = Before(self.prompt, self._output)
        logprob, gap = judge(logits, token, self._sampling, self._seed, before, allowed)
        self._logprobs.append(logprob)
        self._gaps.append(math.inf if ended or self._left else gap)
        self._output.append(token if token < self._model.vocabulary else 0)
        if ended:
            self._finish = None  # it goes on after its end
            self._left = True
            return
        if constrained and token not in self._model.end_ids:
            if allowed is not None and token < len(allowed) and allowed[token]:
                constrained.take(token)
            else:
                self._left = True
        if token < self._model.vocabulary:
            made = self._decide(token, logprob)
            self._pieces.append(made.text)
            self._finish = None if self._left else made.finish

    def told(self, id_: int) -> Replayed:
        """What came of it, once it is `over`."""
        return Replayed(
            id_, self._logprobs, self._gaps, "".join(self._pieces), self._finish, len(self.prompt), self.compute_ms
        )
