"""The sampling rule against a second implementation of it in plain Python, and against what it promises."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cactus_mesh.engine.sampling import Before, choose, gumbel_noise
from cactus_mesh.errors import EngineFailed
from cactus_mesh.messages import Sampling

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "sampling.json").read_text(encoding="utf-8"))
WORD = 2**64 - 1


def at(position: int) -> Before:
    return Before([0] * position, [])


def philox_block(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x64-10, from the paper."""
    for _ in range(10):
        high0, low0 = divmod(0xD2E7470EE14C6C93 * counter[0], 2**64)
        high1, low1 = divmod(0xCA5A826395121157 * counter[2], 2**64)
        counter = [high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0]
        key = [key[0] + 0x9E3779B97F4A7C15 & WORD, key[1] + 0xBB67AE8584CAA73B & WORD]
    return counter


def plain_noise(seed: bytes, position: int, token: int) -> float:
    words = [int.from_bytes(seed[at : at + 8], "little") for at in range(0, 32, 8)]
    x = philox_block([token // 4 + 1, position, words[2], words[3]], words[:2])[token % 4]
    return -math.log(-math.log(((x >> 12) + 0.5) / 2**52))


def plain_choice(
    raw: list[float],
    sampling: Sampling,
    seed: bytes,
    prompt: list[int],
    output: list[int],
    allowed: list[int] | None = None,
) -> int:
    logits = [logit if allowed is None or at in allowed else -math.inf for at, logit in enumerate(raw)]
    repetition = sampling.repetition_milli / 1000
    if repetition != 1:
        for token in {*prompt, *output}:
            logits[token] = logits[token] / repetition if logits[token] > 0 else logits[token] * repetition
    for token in set(output):
        logits[token] -= sampling.frequency_milli / 1000 * output.count(token) + sampling.presence_milli / 1000
    order = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    if sampling.temperature_milli == 0:
        return order[0]
    temperature = sampling.temperature_milli / 1000
    order = order[: sampling.top_k or len(order)]
    weights = {token: math.exp((logits[token] - logits[order[0]]) / temperature) for token in order}
    if sampling.top_p_milli < 1000:
        bound = sampling.top_p_milli / 1000 * sum(weights.values())
        order = [token for at, token in enumerate(order) if sum(weights[each] for each in order[:at]) < bound]
    order = [token for token in order if weights[token] >= sampling.min_p_milli / 1000]
    position = len(prompt) + len(output)
    return max(order, key=lambda t: (logits[t] / temperature + plain_noise(seed, position, t), -t))


finite_logits = st.lists(st.integers(-40, 40).map(lambda n: n / 4), min_size=1, max_size=40)
samplings = st.builds(
    Sampling,
    max_tokens=st.just(1),
    temperature_milli=st.sampled_from([0, 1, 300, 1000, 5000]),
    top_p_milli=st.sampled_from([1, 250, 900, 999, 1000]),
    top_k=st.sampled_from([0, 1, 3, 1_000_000]),
    min_p_milli=st.sampled_from([0, 1, 50, 1000]),
    repetition_milli=st.sampled_from([100, 1000, 1300]),
    frequency_milli=st.sampled_from([-2000, 0, 700]),
    presence_milli=st.sampled_from([0, 1500]),
)
seeds = st.binary(min_size=32, max_size=32)


@given(finite_logits, samplings, seeds, st.data())
def test_a_second_implementation_chooses_the_same_tokens(
    logits: list[float], sampling: Sampling, seed: bytes, data: st.DataObject
) -> None:
    ids = st.integers(0, len(logits) - 1)
    prompt, output = data.draw(st.lists(ids, max_size=9)), data.draw(st.lists(ids, max_size=9))
    allowed = data.draw(st.none() | st.lists(ids, min_size=1))
    mask = None if allowed is None else np.isin(np.arange(len(logits)), allowed)
    chosen, _ = choose(np.array(logits), sampling, seed, Before(prompt, output), mask)
    assert chosen == plain_choice(logits, sampling, seed, prompt, output, allowed)


@pytest.mark.parametrize("vector", VECTORS["noise"], ids=lambda vector: f"position {vector['position']}")
def test_the_noise_is_that_of_the_vectors(vector: dict[str, object]) -> None:
    seed, position, expected = bytes.fromhex(vector["seed"]), vector["position"], vector["noise"]
    assert gumbel_noise(seed, position, len(expected)).tolist() == pytest.approx(expected, abs=1e-12)
    assert [plain_noise(seed, position, token) for token in range(len(expected))] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("vector", VECTORS["choices"], ids=lambda vector: vector["name"])
def test_the_choices_are_those_of_the_vectors(vector: dict[str, object]) -> None:
    sampling = Sampling(max_tokens=1, **vector["sampling"])
    prompt, output, allowed = vector["prompt"], vector["output"], vector["allowed"]
    seed, logits = bytes.fromhex(vector["seed"]), vector["logits"]
    mask = None if allowed is None else np.isin(np.arange(len(logits)), allowed)
    token, logprob = choose(np.array(logits), sampling, seed, Before(prompt, output), mask)
    assert (token, logprob) == (vector["token"], pytest.approx(vector["logprob"], abs=1e-12))
    assert plain_choice(logits, sampling, seed, prompt, output, allowed) == vector["token"]


def test_equal_logits_go_to_the_lowest_id_when_greedy() -> None:
    assert choose(np.array([1.0, 3.0, 3.0]), Sampling(max_tokens=1), bytes(32), at(0))[0] == 1


def test_noise_does_not_depend_on_how_many_ids_there_are() -> None:
    seed = bytes(range(32))
    assert gumbel_noise(seed, 7, 10).tolist() == gumbel_noise(seed, 7, 1000)[:10].tolist()


def test_draws_follow_the_softmax() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.2]))
    sampling = Sampling(max_tokens=1, temperature_milli=1000)
    draws = [choose(logits, sampling, bytes(32), at(position))[0] for position in range(4000)]
    assert np.bincount(draws) / 4000 == pytest.approx([0.5, 0.3, 0.2], abs=0.03)


def test_an_impossible_token_is_never_chosen() -> None:
    logits = np.array([-math.inf, 0.0, -math.inf])
    sampling = Sampling(max_tokens=1, temperature_milli=5000)
    assert {choose(logits, sampling, bytes(32), at(position)) for position in range(50)} == {(1, 0.0)}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_output_that_is_not_a_number_is_refused(bad: float) -> None:
    with pytest.raises(EngineFailed, match="not a number"):
        choose(np.array([0.0, bad]), Sampling(max_tokens=1), bytes(32), at(0))
