"""The likeliest tokens, against transformers' own softmax: whatever else a token is chosen by, alone or in company."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import trio
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from msgspec import UNSET, structs

from cactus_mesh.core.likelihoods import fault_in, read_likelihood
from cactus_mesh.engine.sampling import likeliest
from cactus_mesh.errors import BadParameters
from cactus_mesh.messages import Constraint, Embed, Generate, Sampling
from cactus_mesh.ports import EngineTokens
from tests.engine.test_generation import LONG, SAMPLED, SHORT, index
from tests.engine.test_port import QUESTION, SEED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cactus_mesh.core.likelihoods import TokenLogprob
    from cactus_mesh.messages import Work
    from cactus_mesh.ports import Engine
    from tests.engine.conftest import EngineThread, Run
    from tests.engine.small_models import SmallModels

TOP = 5
WAYS = {
    "greedy": Sampling(max_tokens=16, top_logprobs=TOP),
    "warm": Sampling(max_tokens=16, top_logprobs=TOP, temperature_milli=1_300),
    "penalised": structs.replace(SAMPLED, max_tokens=16, top_logprobs=TOP),
    "constrained": Sampling(max_tokens=16, top_logprobs=TOP, constraint=Constraint("regex", "[0-9]{4,40}")),
}


async def told(
    engine: Engine, work: Work, sampling: Sampling, model: int = 0, before: Sequence[int] = ()
) -> list[TokenLogprob]:
    """Of every token, after what cannot be true has been looked for as a router does."""
    found: list[TokenLogprob] = []
    async with engine.generate(engine.models[model].digest, work, sampling, SEED, before) as events:
        async for event in events:
            if isinstance(event, EngineTokens):
                assert fault_in(event.likelihoods, event.token_ids, sampling, "float32") is None
                found += map(read_likelihood, event.likelihoods, event.logprobs)
    return found


def expected(small_models: SmallModels, name: str, prompt: str, token_ids: list[int]) -> torch.Tensor:
    """The log-probabilities before each of *token_ids*, by transformers alone."""
    ids = small_models.tokenizer(name)(prompt)["input_ids"]
    return torch.log_softmax(small_models.logits(name, ids + token_ids)[len(ids) - 1 : -1], dim=-1)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("prompt", [SHORT, LONG], ids=["one chunk", "many chunks"])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_they_are_the_softmax_of_the_models_own_logits(
    real: EngineThread, small_models: SmallModels, name: str, prompt: str, way: str
) -> None:
    made = real.run(lambda engine: told(engine, Generate(prompt), WAYS[way], index(real, name)))
    rows = expected(small_models, name, prompt, [token.token_id for token in made])
    assert len(rows) == len(made) > 0
    for row, token in zip(rows, made, strict=True):
        best = torch.topk(row, TOP)
        assert [each.token_id for each in token.top] == best.indices.tolist()
        assert [each.logprob for each in token.top] == pytest.approx(best.values.tolist(), abs=1e-4)
        assert token.logprob == pytest.approx(float(row[token.token_id]), abs=1e-4)
    if way == "constrained":
        assert any(token.token_id not in {each.token_id for each in token.top} for token in made)


def test_they_are_the_same_in_company_after_a_shared_beginning_and_where_somebody_goes_on(real: EngineThread) -> None:
    model, sampling = index(real, "llama"), WAYS["penalised"]

    async def scenario(engine: Engine) -> None:
        alone = await told(engine, Generate(LONG), sampling, model)
        together: list[list[TokenLogprob]] = []

        async def one(number: int) -> None:
            texts = LONG if number % 2 else LONG[: 60 + number]
            found = await told(engine, Generate(texts), sampling, model)
            together.extend([found] * (number % 2))

        async with trio.open_nursery() as nursery:
            for number in range(16):
                nursery.start_soon(one, number)
        cut = [token.token_id for token in alone[:7]]
        for found in [*together, await told(engine, Generate(LONG), sampling, model, cut)]:
            for token, other in zip(alone, found, strict=True):
                assert [each.token_id for each in other.top] == [each.token_id for each in token.top]
                assert [each.logprob for each in other.top] == pytest.approx([x.logprob for x in token.top], abs=1e-4)
                assert other.logprob == pytest.approx(token.logprob, abs=1e-4)

    real.run(scenario)


@pytest.mark.parametrize("top", [0, 1, 20])
def test_so_many_as_were_asked_for_beside_each_token_and_its_end(run: Run[None], top: int) -> None:
    async def scenario(engine: Engine) -> None:
        sampling = Sampling(max_tokens=64, top_logprobs=top)
        made = await told(engine, QUESTION, sampling)
        assert {len(token.top) for token in made} == {top}
        assert [token.data is None for token in made] == [False] * (len(made) - 1) + [True]  # the end has a name only
        silent = structs.replace(sampling, top_logprobs=UNSET)
        assert await told(engine, QUESTION, silent) == []

    run(scenario)


def test_the_bytes_of_all_tokens_are_the_text(run: Run[None]) -> None:
    async def scenario(engine: Engine) -> None:
        for temperature in (0, 5_000):
            sampling = Sampling(max_tokens=100, temperature_milli=temperature, top_logprobs=3)
            async with engine.generate(engine.models[0].digest, QUESTION, sampling, SEED) as events:
                found = [event async for event in events if isinstance(event, EngineTokens)]
            tokens = [read_likelihood(each, 0.0) for event in found for each in event.likelihoods]
            data = b"".join(token.data or b"" for token in tokens)
            assert data.decode(errors="replace") == "".join(event.text for event in found)

    run(scenario)


def test_a_replay_takes_no_notice(run: Run[None]) -> None:
    async def scenario(engine: Engine) -> None:
        asked = Sampling(max_tokens=24, top_logprobs=20)
        ids = [token.token_id for token in await told(engine, QUESTION, asked)]
        digest, silent = engine.models[0].digest, structs.replace(asked, top_logprobs=UNSET)
        first = await engine.replay(digest, QUESTION, asked, SEED, ids)
        second = await engine.replay(digest, QUESTION, silent, SEED, ids)
        assert (first.gaps, first.text) == (second.gaps, second.text)
        assert set(first.gaps) == {0.0}

    run(scenario)


@pytest.mark.parametrize("top", [-1, 21, True])
def test_numbers_out_of_bounds_are_refused(run: Run[None], top: int) -> None:
    async def scenario(engine: Engine) -> None:
        with pytest.raises(BadParameters):
            await told(engine, QUESTION, Sampling(max_tokens=4, top_logprobs=top))
        with pytest.raises(BadParameters, match="leave it out to embed"):
            await told(engine, Embed(["a"]), Sampling(max_tokens=4, top_logprobs=1))

    run(scenario)


# --- which are likeliest -----------------------------------------------------------------------------------------

FEW = st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 2.0])


@given(arrays(np.float64, st.integers(1, 40), elements=FEW), st.integers(0, 20))
def test_equal_ones_come_in_the_order_of_their_ids(logits: np.ndarray, count: int) -> None:
    ranked = sorted(
        (id_ for id_ in range(len(logits)) if np.isfinite(logits[id_])), key=lambda id_: (-logits[id_], id_)
    )
    assert likeliest(logits, count) == ranked[:count]
