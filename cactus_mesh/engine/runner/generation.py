"""One generation: its prompt's tokens, its own KV cache, its next token.  Knows nothing of the others."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
import torch

from cactus_mesh.engine.requests import check_length
from cactus_mesh.engine.sampling import choose
from cactus_mesh.engine.text import OutputText
from cactus_mesh.errors import BadParameters
from cactus_mesh.messages import Generate

if TYPE_CHECKING:
    from cactus_mesh.engine.frames import Start
    from cactus_mesh.engine.runner.loading import LoadedModel
    from cactus_mesh.messages import Chat, FinishReason, Work


@dataclass(frozen=True, slots=True)
class Made:
    """A decided token.  *finish* is set with the last."""

    token_id: int
    logprob: float
    text: str
    finish: FinishReason | None


class Generation:
    """Raises `BadParameters` or `PromptTooLong` when it cannot be begun."""

    def __init__(self, model: LoadedModel, start: Start) -> None:
        self._model = model
        self._sampling = start.sampling
        self._seed = start.seed
        self._prompt = prompt_ids(model, start.work)
        check_length(model.facts.model(), len(self._prompt), start.sampling.max_tokens)
        self._text = OutputText(self._decode_text, start.sampling.stop)
        self._cache: Any = None
        self._last: int | None = None
        self._made = 0
        self._seconds = 0.0

    @property
    def prompt_tokens(self) -> int:
        return len(self._prompt)

    @property
    def compute_ms(self) -> int:
        """Time spent on this generation alone, rounded up."""
        return math.ceil(self._seconds * 1000)

    def prefill(self, start: int, end: int) -> None:
        """Read a chunk that is not the prompt's last."""
        began = time.perf_counter()
        self._forward(self._prompt[start:end])
        self._seconds += time.perf_counter() - began

    def first(self, start: int) -> Made:
        """Read the prompt's last chunk and make the first token."""
        return self._step(self._prompt[start:])

    def next(self) -> Made:
        assert self._last is not None
        return self._step([self._last])

    def _step(self, ids: list[int]) -> Made:
        began = time.perf_counter()
        logits = self._forward(ids)
        position = len(self._prompt) + self._made
        token, logprob = choose(logits, self._sampling, self._seed, position)
        self._last = token
        self._made += 1
        made = self._decide(token, logprob)
        self._seconds += time.perf_counter() - began
        return made

    def _forward(self, ids: list[int]) -> np.ndarray[Any, np.dtype[np.float64]]:
        """The logits after the last of *ids*."""
        network = self._model.network
        with torch.inference_mode():  # a quarter faster than without gradients alone, for a small model
            output = network(
                input_ids=torch.tensor([ids], device=network.device),
                past_key_values=self._cache,
                use_cache=True,
                **self._model.last_logits_only,
            )
        self._cache = output.past_key_values
        return output.logits[0, -1].float().cpu().numpy().astype(np.float64)  # type: ignore[no-any-return]

    def _decide(self, token: int, logprob: float) -> Made:
        """The end-of-text token gives no text; a stop string counts before the length."""
        finish: FinishReason | None = None
        text, stopped = "", False
        if token in self._model.end_ids:
            finish = "stop"
        else:
            text, stopped = self._text.push(token)
            if self._made == self._sampling.max_tokens:
                finish = "length"
        if finish is not None and not stopped:
            rest, stopped = self._text.finish()
            text += rest
        return Made(token, logprob, text, "stop_string" if stopped else finish)

    def _decode_text(self, ids: list[int]) -> str:
        text = self._model.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text


def prompt_ids(model: LoadedModel, work: Work) -> list[int]:
    """The prompt's tokens, as the model's tokenizer and template make them.  Raises `BadParameters`."""
    if isinstance(work, Generate):
        ids = _encode(model, work.prompt, special=True)
        if not ids and isinstance(model.tokenizer.bos_token_id, int):
            ids = [model.tokenizer.bos_token_id]
    else:
        ids = _encode(model, _conversation(model, work), special=False)
    if not ids:
        raise BadParameters("the prompt is empty, and this model has no token to begin a text with; say something")
    if max(ids) >= model.vocabulary:
        raise BadParameters(f"the prompt has a token that {model.facts.name} does not know; leave out special tokens")
    return ids


def _encode(model: LoadedModel, text: str, *, special: bool) -> list[int]:
    ids = model.tokenizer(text, add_special_tokens=special)["input_ids"]
    return [int(token) for token in ids]


def _conversation(model: LoadedModel, work: Chat) -> str:
    messages = [{"role": message.role, "content": message.content} for message in work.messages]
    try:
        text = model.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    except jinja2.TemplateError as error:
        raise BadParameters(f"the chat template of {model.facts.name} refuses these messages: {error}") from None
    assert isinstance(text, str)
    return text
