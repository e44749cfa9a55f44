"""What can be true of log-probabilities, and how they travel: honest ones always pass, each lie has its own words."""

from __future__ import annotations

import math
import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from cactus_mesh.core.likelihoods import (
    Alternative,
    TokenLogprob,
    chosen_of,
    chunks_of,
    fault_in,
    likelihood_of,
    read_likelihood,
    shown,
)
from cactus_mesh.errors import MessageMalformed
from cactus_mesh.messages import (
    MAX_LIKELIHOODS,
    MAX_MESSAGE_BYTES,
    MAX_PIECE_BYTES,
    MAX_TOP_LOGPROBS,
    Constraint,
    Sampling,
    decode_item,
    encode_unsigned,
    sampling_digest,
)
from cactus_mesh.ports import EngineTokens

GREEDY = Sampling(max_tokens=9, top_logprobs=3)
WARM = msgspec.structs.replace(GREEDY, temperature_milli=700)


def made(chosen=(5, -0.5), others=((5, -0.5), (7, -1.5), (9, -3.0))):
    pairs = [chosen, *others]
    return likelihood_of([id_ for id_, _ in pairs], [number for _, number in pairs], [(b"x", False)] * len(pairs))


def fault(likelihood, sampling=GREEDY, dtype="float32", token=5):
    return fault_in([likelihood], [token], sampling, dtype)


@given(
    logits=st.lists(st.floats(-60, 60), min_size=1, max_size=30),
    at=st.integers(0, 29),
    top=st.integers(0, MAX_TOP_LOGPROBS),
)
def test_what_a_softmax_gives_is_always_believed(logits, at, top):
    chosen = at % len(logits)
    total = math.log(sum(map(math.exp, logits)))
    ranked = sorted(range(len(logits)), key=lambda id_: (-logits[id_], id_))[:top]
    ids = [chosen, *ranked]
    likelihood = likelihood_of(ids, [logits[id_] - total for id_ in ids], [(b"", False)] * len(ids))
    assert fault(likelihood, msgspec.structs.replace(WARM, top_logprobs=top), token=chosen) is None


LIES = {
    "of another token": (made(chosen=(6, -0.5)), GREEDY),
    "of 3 alternatives, where 2 were asked for": (made(), msgspec.structs.replace(GREEDY, top_logprobs=2)),
    "with an alternative given twice": (made(others=((5, -0.5), (7, -1.5), (7, -1.5))), GREEDY),
    "that are no logarithms of probabilities": (made(chosen=(5, 0.1), others=((5, 0.1),)), GREEDY),
    "out of order": (made(others=((5, -0.5), (7, -3.0), (9, -1.5))), GREEDY),
    "with two numbers for one token": (made(others=((5, -0.4), (7, -1.5))), GREEDY),
    "that leave out the chosen token, which is likelier than others": (made(others=((7, -1.5), (9, -3.0))), WARM),
    "by which the likeliest token was not chosen": (made((5, -0.9), others=((7, -0.8), (5, -0.9))), GREEDY),
    "that sum to more than 1": (made(others=((5, -0.5), (7, -0.6), (9, -0.7))), GREEDY),
}


@pytest.mark.parametrize(("why", "lie"), LIES.items(), ids=LIES)
def test_each_lie_is_told_by_what_is_wrong_with_it(why, lie):
    assert fault(*lie) == why


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 1.0])
@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_number_that_is_no_probability_is_none_in_any_place(number, at):
    numbers = [-0.5, -0.5, -1.5, -3.0]
    numbers[at] = number
    likelihood = msgspec.structs.replace(made(), logprobs=struct.pack("<4f", *numbers))
    assert fault(likelihood) == "that are no logarithms of probabilities"


@pytest.mark.parametrize("change", [{"logprobs": bytes(15)}, {"logprobs": b""}, {"pieces": [b"x"]}, {"token_ids": [5]}])
def test_parts_that_do_not_go_together_are_refused(change):
    assert fault(msgspec.structs.replace(made(), **change)) == "of which some parts are missing"


def test_there_is_one_for_each_token_where_they_are_asked_for_and_none_where_not():
    silent = msgspec.structs.replace(GREEDY, top_logprobs=UNSET)
    assert fault_in([made()], [5], silent) == "that nobody has asked for"
    assert fault_in([], [5], GREEDY) == "of 0 tokens with 1 tokens"
    assert fault_in([made()], [5, 6], GREEDY) == "of 1 tokens with 2 tokens"
    assert fault_in([], [5], silent) is None


OTHER = made((5, -0.9), others=((7, -0.8), (5, -0.9)))


@pytest.mark.parametrize(
    "rule",
    [
        {"temperature_milli": 1},
        {"repetition_milli": 1_100},
        {"frequency_milli": 1},
        {"presence_milli": -1},
        {"constraint": Constraint("regex", "x")},
    ],
    ids=str,
)
def test_where_other_rules_choose_the_likeliest_need_not_be_chosen(rule):
    assert fault(OTHER, msgspec.structs.replace(GREEDY, **rule)) is None
    assert fault(OTHER, dtype="upstream") is None  # whose rules nobody knows
    assert fault(OTHER) is not None


def test_a_chosen_token_beyond_the_likeliest_is_reported_beside_them():
    assert fault(made((8, -4.0)), WARM, token=8) is None
    assert fault(made((8, -2.0)), WARM, token=8) == "that leave out the chosen token, which is likelier than others"


# --- travelling --------------------------------------------------------------------------------------------------


def tokens_of(*counts):
    """Events with so many tokens each, whose text counts on."""
    number, events = 0, []
    for count in counts:
        ids = tuple(range(number, number + count))
        likely = tuple(likelihood_of([id_], [-0.5], [(b"x", False)]) for id_ in ids)
        events.append(EngineTokens(ids, (-0.5,) * count, f"<{number}>", likely))
        number += count
    return events


@given(st.lists(st.integers(1, 200), max_size=6))
def test_chunks_carry_every_token_once_and_the_text_in_its_place(counts):
    events = tokens_of(*counts)
    chunks = list(chunks_of(bytes(16), 3, events))
    assert [id_ for chunk in chunks for id_ in chunk.token_ids] == list(range(sum(counts)))
    assert "".join(chunk.text for chunk in chunks) == "".join(event.text for event in events)
    assert [chunk.start for chunk in chunks] == [3 + at for at in range(0, sum(counts), MAX_LIKELIHOODS)]
    for chunk in chunks:
        assert [each.token_ids[0] for each in chunk.likelihoods] == chunk.token_ids
        assert decode_item(encode_unsigned(chunk)) == chunk


def test_the_longest_chunk_is_still_a_message():
    piece = b"\xff" * (MAX_PIECE_BYTES + 1), True
    many = MAX_TOP_LOGPROBS + 1
    likely = (likelihood_of([2**32 - 1] * many, [-0.5] * many, [piece] * many),) * MAX_LIKELIHOODS
    text = "\U0001f335" * 1_024 * MAX_LIKELIHOODS
    (chunk,) = chunks_of(bytes(16), 2**32 - 1, [EngineTokens((2**32 - 1,) * MAX_LIKELIHOODS, (), text, likely)])
    assert len(encode_unsigned(chunk)) < MAX_MESSAGE_BYTES
    assert decode_item(encode_unsigned(chunk)) == chunk


@pytest.mark.parametrize(
    "change",
    [
        {"token_ids": [1] * 22},
        {"token_ids": []},
        {"token_ids": [-1]},
        {"logprobs": bytes(88)},
        {"pieces": [b"x" * 513]},
        {"pieces": ["x"]},
        {"special": 2**21},
        {"special": True},
    ],
    ids=str,
)
def test_a_chunk_out_of_bounds_is_malformed(change):
    good = {"token_ids": [1], "logprobs": bytes(4), "pieces": [b"x"], "special": 0}
    chunk = {"item": "chunk", "task_id": bytes(16), "start": 0, "token_ids": [1], "text": "x"}
    for likelihoods in ([{**good, **change}], [good] * 65, [{**good, "more": 1}]):
        with pytest.raises(MessageMalformed):
            decode_item(msgspec.msgpack.encode({**chunk, "likelihoods": likelihoods}))
    decode_item(msgspec.msgpack.encode({**chunk, "likelihoods": [good] * 64}))


@pytest.mark.parametrize("top", [None, -1, 21, True, 1.5, "5"])
def test_sampling_out_of_bounds_is_malformed(top):
    encoded = msgspec.msgpack.encode(msgspec.to_builtins(Sampling(max_tokens=1)) | {"top_logprobs": top})
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(encoded, type=Sampling)


def test_tokens_without_likelihoods_share_a_chunk_of_the_form_that_it_always_had():
    events = [EngineTokens((1, 2), (-0.5, -0.5), "a"), EngineTokens((3,), (-0.5,), "b")]
    (chunk,) = chunks_of(bytes(16), 7, events)
    assert (chunk.start, chunk.token_ids, chunk.text) == (7, [1, 2, 3], "ab")
    assert b"likelihoods" not in encode_unsigned(chunk)
    assert list(chunks_of(bytes(16), 0, [])) == []


def test_sampling_that_asks_for_nothing_is_what_it_was_before_it_could_ask():
    plain = msgspec.msgpack.encode(Sampling(max_tokens=16))
    assert b"top_logprobs" not in plain
    assert sampling_digest(Sampling(max_tokens=16)) != sampling_digest(Sampling(max_tokens=16, top_logprobs=0))


# --- reading -----------------------------------------------------------------------------------------------------


def test_bytes_that_are_no_characters_are_written_out_and_special_tokens_have_none():
    given = likelihood_of(
        [1, 1, 2, 3], [-0.5, -0.5, -2.0, -3.0], [(b"\xf0\x9f", False)] * 2 + [(b"<e>", True), (b"a", False)]
    )
    token = read_likelihood(given, -0.25)
    assert token == TokenLogprob(
        1,
        "\\xf0\\x9f",
        b"\xf0\x9f",
        -0.25,
        (
            Alternative(1, "\\xf0\\x9f", b"\xf0\x9f", -0.5),
            Alternative(2, "<e>", None, -2.0),
            Alternative(3, "a", b"a", -3.0),
        ),
    )
    assert shown(token)["top_logprobs"][1] == {"token": "<e>", "logprob": -2.0, "bytes": None}
    assert chosen_of([given, given]) == struct.pack("<2f", -0.5, -0.5)


def test_a_number_a_little_above_zero_is_shown_as_zero():
    given = likelihood_of([1, 1], [1e-7, 1e-7], [(b"a", False)] * 2)
    assert fault_in([given], [1], GREEDY) is None
    token = read_likelihood(given, 1e-7)
    assert (token.logprob, token.top[0].logprob) == (0.0, 0.0)
