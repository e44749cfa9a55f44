"""Models that read texts whole instead of continuing them: vectors, labels, scores.  Their answers are JSON."""

from __future__ import annotations

import json
import math
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch

from cactus_mesh.core.readings import MOST_WIDTH, reads, written
from cactus_mesh.engine.frames import Failed, Finished, Reread, Token
from cactus_mesh.engine.runner.lane import failure
from cactus_mesh.errors import BadParameters, Busy, CannotContinue, EngineFailed, PromptTooLong
from cactus_mesh.messages import PIECE_CHARACTERS, Classify, Embed, Rerank

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from cactus_mesh.core.readings import Reads
    from cactus_mesh.engine.frames import Event, ModelFacts, Start
    from cactus_mesh.engine.settings import EngineSettings

_BATCH_TOKENS: Final = 2_048
"""Read in one step: a second or so of a small model, after which others have their turn."""
_NUMBER_CHARACTERS: Final = 18
"""Of a number with nine digits, sign, exponent and comma, at most."""
_LABEL_CHARACTERS: Final = 6
"""Around a label: quotes, colon, comma, spaces."""


@dataclass(frozen=True, slots=True)
class LoadedEncoder:
    facts: ModelFacts
    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    longest: int
    """Tokens of one text."""

    @property
    def labels(self) -> list[str]:
        names: Any = self.network.config.id2label or {}
        return [str(names[at]) for at in sorted(names)]


class Encoding:
    """One request: its texts, and what has been made of them.  Raises what it is refused with."""

    def __init__(self, model: LoadedEncoder, start: Start) -> None:
        if start.before or start.replay:
            raise CannotContinue(f"what {model.facts.name} makes is made as a whole: ask for it again, and compare")
        assert reads(start.work), "what a reading model is given to do was checked"
        self.work = start.work
        self._model = model
        self.texts = _read(model, start.work)
        self.prompt_tokens = sum(map(len, self.texts))
        self.labels = model.labels if isinstance(start.work, Classify) else []
        self.rows: list[list[float]] = []
        """Of a rereading."""
        self._written = "["
        self.done = 0
        self.seconds = 0.0
        self.again = bool(start.places)
        """Whether only some texts are read again, for an audit."""
        if self.again:
            self.texts = [self.texts[place] for place in start.places]
        else:
            self._refuse_unspeakable(start.sampling.max_tokens)

    def _refuse_unspeakable(self, max_tokens: int) -> None:
        """Raises `BadParameters` for what cannot be written as an answer."""
        if len(self.labels) > MOST_WIDTH or len({*self.labels}) < len(self.labels):
            raise BadParameters(f"{self._model.facts.name} has too many labels, or two of one name")
        most = math.ceil((len(self.texts) * self._most_characters() + 2) / PIECE_CHARACTERS)
        if max_tokens < most:
            raise BadParameters(f"an answer to so many texts may have {most} pieces; ask with max_tokens {most}")

    def _most_characters(self) -> int:
        if isinstance(self.work, Embed):
            return int(self._model.network.config.hidden_size) * _NUMBER_CHARACTERS + 4
        if isinstance(self.work, Classify):
            labels = (len(json.dumps(label)) + _LABEL_CHARACTERS for label in self.labels)
            return sum(labels) + len(self.labels) * _NUMBER_CHARACTERS + 4
        return _NUMBER_CHARACTERS

    def next_batch(self) -> list[list[int]]:
        """The next texts, as many as are read in one step."""
        batch = self.texts[self.done : self.done + 1]
        for text in self.texts[self.done + 1 :]:
            if (len(batch) + 1) * max(len(text), *map(len, batch)) > _BATCH_TOKENS:
                break
            batch.append(text)
        return batch

    def take(self, rows: list[list[float]]) -> list[str]:
        """The pieces of the answer that are certain now, with the numbers of the next texts."""
        if self.again:
            self.rows += rows
            self.done += len(rows)
            return []
        for each in written(self.work, rows, self.labels):
            self._written += ", " * (self.done > 0) + each
            self.done += 1
        over = self.done == len(self.texts)
        self._written += "]" * over
        pieces = []
        while len(self._written) > PIECE_CHARACTERS or (over and self._written):
            pieces.append(self._written[:PIECE_CHARACTERS])
            self._written = self._written[PIECE_CHARACTERS:]
        return pieces


class EncoderLane:
    """One such model at work, as `Lane` is for others: requests take turns, a batch of texts each."""

    def __init__(self, model: LoadedEncoder, settings: EngineSettings) -> None:
        self.model = model
        self._slots = settings.slots
        self._turns: deque[tuple[int, Encoding]] = deque()

    def __len__(self) -> int:
        return len(self._turns)

    @property
    def memory(self) -> tuple[int, int]:
        """It keeps nothing between steps."""
        return 0, 0

    def start(self, start: Start) -> None:
        if len(self) >= self._slots:
            raise Busy("all slots are taken; try again or ask another orchestrator")
        self._turns.append((start.id, Encoding(self.model, start)))

    def drop(self, id_: int) -> None:
        self._turns = deque(turn for turn in self._turns if turn[0] != id_)

    def stop(self, _id: int) -> list[Event]:
        """Nothing: what it makes is of use only as a whole."""
        return []

    def step(self) -> list[Event]:
        id_, encoding = self._turns.popleft()
        began = time.perf_counter()
        try:
            pieces = encoding.take(_encode(self.model, encoding.work, encoding.next_batch()))
        except Exception as error:
            why = failure(error)
            return [Failed(id_, why.code, why.message)]
        encoding.seconds += time.perf_counter() - began
        told: list[Event] = [Token(id_, 0, 0.0, piece) for piece in pieces]
        if encoding.done < len(encoding.texts):
            self._turns.append((id_, encoding))
            return told
        if encoding.again:
            return [Reread(id_, encoding.rows, encoding.labels, encoding.prompt_tokens)]
        return [*told, Finished(id_, "stop", encoding.prompt_tokens, max(1, math.ceil(encoding.seconds * 1000)))]


def _read(model: LoadedEncoder, work: object) -> list[list[int]]:
    """The tokens of each text.  Raises `PromptTooLong`."""
    texts: list[list[int]] = []
    for parts in _parts(work):
        ids = [int(token) for token in model.tokenizer(*parts)["input_ids"]]
        if len(ids) > model.longest:
            name = model.facts.name
            raise PromptTooLong(f"a text has {len(ids)} tokens, and {name} reads {model.longest}; cut it in pieces")
        texts.append(ids)
    if not all(texts):
        raise BadParameters("a text is empty; say something")
    return texts


def _parts(work: object) -> Iterator[tuple[str, ...]]:
    if isinstance(work, Rerank):
        yield from ((work.query, document) for document in work.documents)
    elif isinstance(work, Embed | Classify):
        yield from ((text,) for text in work.inputs)


def _encode(model: LoadedEncoder, work: Reads, batch: Sequence[list[int]]) -> list[list[float]]:
    """The numbers that the model makes of each text.  Raises `EngineFailed`."""
    inputs = _padded(model, work, batch)
    with torch.inference_mode():
        output: Any = model.network(**inputs)
        if isinstance(work, Embed):
            numbers = _pooled(output.last_hidden_state.float(), inputs["attention_mask"], work.pooling)
        elif isinstance(work, Classify):
            logits = output.logits.float()
            several = model.network.config.problem_type == "multi_label_classification"
            numbers = torch.sigmoid(logits) if several else torch.softmax(logits, dim=-1)
        else:
            numbers = output.logits.float()[:, :1]
    if not bool(torch.isfinite(numbers).all()) or (isinstance(work, Embed) and not bool(numbers.any(dim=-1).all())):
        raise EngineFailed("the model's output is not a number, or nothing; its weights or its dtype are unusable")
    rows: list[list[float]] = numbers.cpu().tolist()
    return rows


def _padded(model: LoadedEncoder, work: object, batch: Sequence[list[int]]) -> dict[str, torch.Tensor]:
    longest = max(map(len, batch))
    padding = model.tokenizer.pad_token_id or 0
    device = model.network.device
    ids = torch.tensor([[*text, *[padding] * (longest - len(text))] for text in batch], device=device)
    mask = torch.tensor([[1] * len(text) + [0] * (longest - len(text)) for text in batch], device=device)
    inputs = {"input_ids": ids, "attention_mask": mask}
    if isinstance(work, Rerank) and "token_type_ids" in model.tokenizer.model_input_names:
        inputs["token_type_ids"] = _second_parts(model, ids)
    return inputs


def _second_parts(model: LoadedEncoder, ids: torch.Tensor) -> torch.Tensor:
    """1 from the token after the first separator on, where BERT has its second text; 0 in the padding."""
    ends = (ids == model.tokenizer.sep_token_id).long()
    second: torch.Tensor = (ends.cumsum(dim=1) - ends == 1).long()
    return second


def _pooled(states: torch.Tensor, mask: torch.Tensor, pooling: str) -> torch.Tensor:
    if pooling == "cls":
        found = states[:, 0]
    else:
        weights = mask[:, :, None].to(states.dtype)
        found = (states * weights).sum(dim=1) / weights.sum(dim=1)
    unit: torch.Tensor = torch.nn.functional.normalize(found, dim=-1)
    return unit
