"""One model at work: what its scheduler decides is computed here, and what comes of it told as events."""

from __future__ import annotations

import sys
import time
import traceback
from typing import TYPE_CHECKING, Any

import torch

from cactus_mesh.engine.frames import Failed, Finished, Token
from cactus_mesh.engine.prefixes import Prefixes
from cactus_mesh.engine.runner.generation import Generation, prompt_ids
from cactus_mesh.engine.runner.passes import Read
from cactus_mesh.engine.runner.replaying import Replaying
from cactus_mesh.engine.scheduler import Scheduler
from cactus_mesh.engine.shelves import Shelves
from cactus_mesh.errors import Busy, EngineFailed, MeshError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np

    from cactus_mesh.engine.frames import Event, Start
    from cactus_mesh.engine.runner.generation import Made
    from cactus_mesh.engine.runner.loading import LoadedModel
    from cactus_mesh.engine.scheduler import Piece
    from cactus_mesh.engine.settings import EngineSettings

    Rows = np.ndarray[Any, np.dtype[np.float64]]
    """One for each token that is due, with a number for each id."""


class Lane:
    def __init__(self, model: LoadedModel, settings: EngineSettings) -> None:
        self.model = model
        self._shelves = Shelves(model.room.tokens, model.facts.context_tokens)
        self._scheduler = Scheduler(
            self._shelves,
            Prefixes(model.room.blocks),
            slots=settings.slots,
            step_tokens=settings.chunk_tokens,
        )
        self._generations: dict[int, Generation] = {}

    def __len__(self) -> int:
        return len(self._scheduler)

    @property
    def memory(self) -> tuple[int, int]:
        """For keys and values, in tokens: taken, and what there is."""
        return self._shelves.taken, self.model.room.tokens

    def start(self, start: Start) -> None:
        """Raises `Busy`, `BadParameters` or `PromptTooLong`."""
        generation = (
            Replaying(self.model, start)
            if start.replay
            else Generation(self.model, start, prompt_ids(self.model, start.work), start.before)
        )
        known = len(generation.before)
        if not self._scheduler.admit(start.id, generation.prompt, generation.room, known=known):
            raise Busy("all slots are taken; try again or ask another orchestrator")
        self._generations[start.id] = generation

    def drop(self, id_: int) -> None:
        """Unknown ones are fine."""
        self._scheduler.drop(id_)
        self._generations.pop(id_, None)

    def stop(self, id_: int) -> list[Event]:
        """End a generation with what it has made."""
        generation = self._generations.get(id_)
        if generation is None or isinstance(generation, Replaying):
            return []
        self.drop(id_)
        return [Finished(id_, "cancelled", len(generation.prompt), generation.compute_ms)]

    def step(self) -> list[Event]:
        """Compute one step and say what came of it.  Nothing when there is nothing to do."""
        step = self._scheduler.next()
        if step is None:
            return []
        began = time.perf_counter()
        self.model.passes.memory.change(step.before)
        rows, failures = self._compute(step.pieces)
        done = [piece for piece in step.pieces if piece.id not in failures]
        self._scheduler.done(done)
        made, more = self._choose(rows)
        failures |= more
        self._charge(done, time.perf_counter() - began)
        return [*self._tell_made(made), *self._tell_failed(failures)]

    # --- computing ---------------------------------------------------------------------------------------------------

    def _compute(self, pieces: Sequence[Piece]) -> tuple[dict[int, Rows], dict[int, MeshError]]:
        """The logits of those whose next tokens are due.  When all together fail, each is tried alone."""
        reads = [self._read(piece) for piece in pieces]
        try:
            return self._rows(reads), {}
        except Exception as error:
            if len(reads) == 1:
                return {}, {reads[0].piece.id: failure(error)}
        rows: dict[int, Rows] = {}
        failures: dict[int, MeshError] = {}
        for read in reads:
            try:
                rows |= self._rows([read])
            except Exception as error:
                failures[read.piece.id] = failure(error)
        return rows, failures

    def _read(self, piece: Piece) -> Read:
        generation = self._generations[piece.id]
        wanted = max(0, piece.end - max(piece.start, len(generation.prompt) - 1))
        return Read(piece, generation.tokens(piece.start, piece.end), wanted)

    def _rows(self, reads: Sequence[Read]) -> dict[int, Rows]:
        return {id_: each.double().numpy() for id_, each in self.model.passes.run(reads).items()}

    def _choose(self, rows: dict[int, Rows]) -> tuple[dict[int, list[Made]], dict[int, MeshError]]:
        made: dict[int, list[Made]] = {}
        failures: dict[int, MeshError] = {}
        for id_, each in rows.items():
            try:
                made[id_] = self._generations[id_].take_all(each)
            except Exception as error:
                failures[id_] = failure(error)
        return made, failures

    def _charge(self, pieces: Sequence[Piece], seconds: float) -> None:
        """Each generation pays for its share of the tokens."""
        tokens = sum(piece.end - piece.start for piece in pieces)
        for piece in pieces:
            self._generations[piece.id].spend(seconds * (piece.end - piece.start) / tokens)

    # --- telling -----------------------------------------------------------------------------------------------------

    def _tell_made(self, made: dict[int, list[Made]]) -> Iterator[Event]:
        for id_, tokens in made.items():
            for each in tokens:
                yield Token(id_, each.token_id, each.logprob, each.text, each.likelihood)
            generation = self._generations[id_]
            if isinstance(generation, Replaying):
                if generation.over:
                    yield generation.told(id_)
                    self.drop(id_)
            elif tokens[-1].finish is not None:
                yield Finished(id_, tokens[-1].finish, len(generation.prompt), generation.compute_ms)
                self.drop(id_)
            elif generation.made > len(generation.before):
                self._scheduler.made(id_)

    def _tell_failed(self, failures: dict[int, MeshError]) -> Iterator[Event]:
        for id_, error in failures.items():
            self.model.passes.memory.clear(self._scheduler.where(id_))
            self.drop(id_)
            yield Failed(id_, error.code, error.message)


def failure(error: Exception) -> MeshError:
    """What the asker is told.  The message of a foreign error may hold pieces of a prompt, its frames do not."""
    if isinstance(error, MeshError):
        return error
    print(f"{type(error).__name__}\n{''.join(traceback.format_tb(error.__traceback__))}", file=sys.stderr)
    memory = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error)
    cause = "there is not enough memory for it" if memory else f"{type(error).__name__} in the model"
    return EngineFailed(f"the engine could not go on with this task: {cause}")
