"""Which tokens can go on to a text of the kind that was asked for: a JSON schema or a regular expression."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import llguidance
import llguidance.hf
import numpy as np
from transformers import PreTrainedTokenizerFast

from cactus_mesh.errors import BadParameters

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cactus_mesh.engine.runner.loading import LoadedModel
    from cactus_mesh.messages import Constraint


_JSON_STYLE: Final[Any] = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""As Python writes JSON.  Where whitespace is free, a model may go on with it for ever."""


class Constrained:
    """Raises `BadParameters` for a constraint that makes no sense, and for a model that cannot obey one."""

    def __init__(self, model: LoadedModel, constraint: Constraint) -> None:
        tokenizer = model.tokenizer
        if not model.end_ids or not isinstance(tokenizer, PreTrainedTokenizerFast):
            why = "has a tokenizer of an old kind" if model.end_ids else "has no token that ends a text"
            raise BadParameters(f"{model.facts.name} {why}, so its texts cannot be constrained; ask without")
        self._vocabulary = model.vocabulary
        self._matcher = llguidance.LLMatcher(_words(tokenizer, model.end_ids), _grammar(constraint), log_level=0)
        self._check(f"this {constraint.kind} cannot be used")
        self._matcher.compute_bitmask()
        self._check(f"this {constraint.kind} cannot be used, for no text is of that kind")

    def allowed(self) -> NDArray[np.bool_]:
        """One for each id that may come next: at least one.  Raises `BadParameters`: who made the constraint is to
        blame for where it leads."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._check("the text cannot go on as its constraint wants")
        found = np.zeros(self._vocabulary, dtype=np.bool_)
        known = np.unpackbits(bits, bitorder="little")[: self._vocabulary]
        found[: len(known)] = known
        return found

    def take(self, token: int) -> None:
        """Raises `BadParameters`."""
        self._matcher.consume_token(token)
        self._check("the constraint is too much for this engine")

    def _check(self, what: str) -> None:
        if self._matcher.is_error():
            raise BadParameters(f"{what}: {self._matcher.get_error().strip().splitlines()[0][:300]}")


def _grammar(constraint: Constraint) -> str:
    try:
        if constraint.kind == "regex":
            return llguidance.LLMatcher.grammar_from_regex(constraint.text)
        return llguidance.LLMatcher.grammar_from_json_schema(constraint.text, defaults=_JSON_STYLE)
    except ValueError as error:
        raise BadParameters(f"this {constraint.kind} cannot be used: {str(error)[:300]}") from None


@lru_cache(maxsize=32)  # as many as a node may have models; each takes a moment to make
def _words(tokenizer: PreTrainedTokenizerFast, end_ids: frozenset[int]) -> Any:
    return llguidance.hf.from_tokenizer(tokenizer, eos_token=sorted(end_ids))
