"""What every engine refuses before it starts: parameters outside the protocol's bounds, prompts beyond the context.

Pure; the same words for the real engine and for fakes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import UNSET

from cactus_mesh.core.readings import passages_of, reads
from cactus_mesh.errors import BadParameters, CannotContinue, PromptTooLong, UnknownModel
from cactus_mesh.messages import MOST_PLACES, Sampling, Work, kind_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cactus_mesh.ports import EngineModel

SEED_BYTES: Final = 32


def check_parameters(work: Work, sampling: Sampling, seed: bytes) -> None:
    """The bounds that the protocol's types declare, for values that did not come off the wire.

    Raises `BadParameters`.
    """
    if len(seed) != SEED_BYTES:
        raise BadParameters(f"a seed has {SEED_BYTES} bytes, not {len(seed)}")
    for value, kind in ((work, Work), (sampling, Sampling)):
        try:
            msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=kind)
        except (msgspec.MsgspecError, TypeError, ValueError, OverflowError) as error:
            raise BadParameters(f"this request is outside the protocol's bounds: {error}") from None
    if sampling.top_logprobs is not UNSET and kind_of(work) not in ("chat", "generate"):
        raise BadParameters(f"top_logprobs is for texts that are continued; leave it out to {kind_of(work)}")


def check_before(sampling: Sampling, before: Sequence[int]) -> None:
    """Tokens to go on from.  Raises `CannotContinue`."""
    if len(before) > sampling.max_tokens or any(not 0 <= token < 1 << 32 for token in before):
        raise CannotContinue("there are more tokens to go on from than were asked for, or some are none")


def check_answer(sampling: Sampling, token_ids: Sequence[int]) -> None:
    """Tokens to be judged.  Raises `BadParameters`."""
    if not 0 < len(token_ids) <= sampling.max_tokens or any(not 0 <= token < 1 << 32 for token in token_ids):
        raise BadParameters(f"an answer has 1 to {sampling.max_tokens} tokens here, this one {len(token_ids)}")


def check_places(work: Work, places: Sequence[int]) -> None:
    """Texts to be read again.  Raises `BadParameters`."""
    if not reads(work):
        raise BadParameters("only work that reads texts whole is read again in part; have the whole answer replayed")
    count = len(passages_of(work))
    if not 0 < len(places) <= MOST_PLACES or sorted({*places}) != [*places] or not 0 <= places[0] <= places[-1] < count:
        raise BadParameters(f"of {count} texts 1 to {MOST_PLACES} can be read again, named once each and in order")


def find_model(models: Sequence[EngineModel], digest: bytes, work: Work) -> EngineModel:
    """The model of *digest*, when it can do *work*.  Raises `UnknownModel` or `BadParameters`."""
    for model in models:
        if model.digest == digest:
            break
    else:
        offered = ", ".join(f"{model.name} ({model.digest.hex()[:12]})" for model in models)
        raise UnknownModel(f"no model with digest {digest.hex()[:12]} is loaded here; there are: {offered}")
    kind = kind_of(work)
    if kind == "chat" and kind not in model.kinds and "generate" in model.kinds:
        raise BadParameters(f"{model.name} has no chat template; send it a plain prompt (generate) instead")
    if kind not in model.kinds:
        raise BadParameters(f"{model.name} does not {kind}; it can {' and '.join(model.kinds)}")
    return model


def check_length(model: EngineModel, prompt_tokens: int, max_tokens: int) -> None:
    """Prompt and output share the context.  Raises `PromptTooLong` with the numbers that would fit."""
    context = model.context_tokens
    if prompt_tokens >= context:
        raise PromptTooLong(
            f"the prompt has {prompt_tokens} tokens and {model.name} takes {context} for prompt and output together; "
            f"shorten it to at most {context - max_tokens if max_tokens < context else context - 1} tokens"
        )
    if prompt_tokens + max_tokens > context:
        raise PromptTooLong(
            f"the prompt's {prompt_tokens} tokens and max_tokens {max_tokens} make {prompt_tokens + max_tokens}, and "
            f"{model.name} takes {context}; with this prompt max_tokens can be at most {context - prompt_tokens}"
        )
