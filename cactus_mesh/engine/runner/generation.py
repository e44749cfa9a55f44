"""One generation: its tokens, how the next is chosen, and the text that they make.  Knows nothing of the others."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import jinja2
from msgspec import UNSET

from cactus_mesh.core.likelihoods import likelihood_of
from cactus_mesh.engine.requests import check_length
from cactus_mesh.engine.runner.constraints import Constrained
from cactus_mesh.engine.sampling import Before, choose, likeliest
from cactus_mesh.engine.text import OutputText
from cactus_mesh.errors import BadParameters, CannotContinue
from cactus_mesh.messages import Chat, Generate

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from cactus_mesh.engine.frames import Start
    from cactus_mesh.engine.runner.loading import LoadedModel
    from cactus_mesh.messages import Ending, Likelihood, Work


@dataclass(frozen=True, slots=True)
class Made:
    """A decided token.  *finish* is set with the last."""

    token_id: int
    logprob: float
    text: str
    finish: Ending | None
    likelihood: Likelihood | None = None
    """Where it is asked for."""


class Generation:
    """Raises `BadParameters`, `PromptTooLong` or `CannotContinue` when it cannot be begun."""

    def __init__(self, model: LoadedModel, start: Start, prompt: list[int], before: list[int]) -> None:
        self._model = model
        self._sampling = start.sampling
        self._seed = start.seed
        self.prompt = prompt
        self._check_length()
        self.before = before
        """Tokens that another engine has made, each of which is chosen here again."""
        if any(token >= model.vocabulary for token in self.before):
            raise _cannot_continue(model)
        self._output: list[int] = []
        wanted = start.sampling.constraint
        self._constrained = Constrained(model, wanted) if wanted is not None else None
        self._text = OutputText(self._decode_text, start.sampling.stop)
        self._seconds = 0.0

    def _check_length(self) -> None:
        check_length(self._model.facts.model(), len(self.prompt), self._sampling.max_tokens)

    @property
    def room(self) -> int:
        """For how many tokens beside the prompt it needs memory."""
        return self._sampling.max_tokens

    @property
    def made(self) -> int:
        """Tokens chosen so far."""
        return len(self._output)

    @property
    def compute_ms(self) -> int:
        """Its share of the time of the passes that it was part of, rounded up."""
        return math.ceil(self._seconds * 1000)

    def spend(self, seconds: float) -> None:
        self._seconds += seconds

    def tokens(self, start: int, end: int) -> Sequence[int]:
        output = self._output if len(self._output) > len(self.before) else self.before
        if start >= len(self.prompt):
            return output[start - len(self.prompt) : end - len(self.prompt)]
        return [*self.prompt, *output][start:end]

    def take_all(self, rows: np.ndarray[Any, np.dtype[np.float64]]) -> list[Made]:
        """Choose a token from each of *rows*, up to the last that there is.

        Raises `EngineFailed`, and `CannotContinue` where another token was chosen before.
        """
        taken: list[Made] = []
        for row in rows:
            taken.append(self.take(row))
            at = len(self._output) - 1
            differs = at < len(self.before) and self.before[at] != taken[-1].token_id
            if differs or (taken[-1].finish is not None and at < len(self.before) - 1):
                raise _cannot_continue(self._model)
            if taken[-1].finish is not None:
                break
        return taken

    def take(self, logits: np.ndarray[Any, np.dtype[np.float64]]) -> Made:
        """Choose the next token from the logits after all tokens so far.  Raises `EngineFailed`."""
        allowed = self._constrained.allowed() if self._constrained else None
        token, logprob = choose(logits, self._sampling, self._seed, Before(self.prompt, self._output), allowed)
        self._output.append(token)
        if self._constrained and token not in self._model.end_ids:
            self._constrained.take(token)
        made, top = self._decide(token, logprob), self._sampling.top_logprobs
        return made if top is UNSET else replace(made, likelihood=self._likelihood(logits, token, logprob, top))

    def _likelihood(
        self, logits: np.ndarray[Any, np.dtype[np.float64]], token: int, logprob: float, top: int
    ) -> Likelihood:
        """By the model's own logits, whatever else the token was chosen by."""
        ids = [token, *likeliest(logits, top)]
        logprobs = [logprob + float(logits[id_] - logits[token]) for id_ in ids]
        first = len(self._output) == 1
        return likelihood_of(ids, logprobs, [self._model.pieces.of(id_, first=first) for id_ in ids])

    def _decide(self, token: int, logprob: float) -> Made:
        """The end-of-text token gives no text; a stop string counts before the length."""
        finish: Ending | None = None
        text, stopped = "", False
        if token in self._model.end_ids:
            finish = "stop"
        else:
            text, stopped = self._text.push(token)
            if len(self._output) == self._sampling.max_tokens:
                finish = "length"
        if finish is not None and not stopped:
            rest, stopped = self._text.finish()
            text += rest
        return Made(token, logprob, text, "stop_string" if stopped else finish)

    def _decode_text(self, ids: list[int]) -> str:
        text = self._model.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text


def _cannot_continue(model: LoadedModel) -> CannotContinue:
    return CannotContinue(f"the tokens to go on from are not what {model.facts.name} makes of this task")


def prompt_ids(model: LoadedModel, work: Work) -> list[int]:
    """The prompt's tokens, as the model's tokenizer and template make them.  Raises `BadParameters`."""
    if isinstance(work, Generate):
        ids = _encode(model, work.prompt, special=True)
        if not ids and isinstance(model.tokenizer.bos_token_id, int):
            ids = [model.tokenizer.bos_token_id]
    else:
        assert isinstance(work, Chat), "a model that continues texts does nothing else"
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
    except (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise BadParameters(f"the chat template of {model.facts.name} refuses these messages: {error}") from None
    assert isinstance(text, str)
    return text
