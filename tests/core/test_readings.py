"""Of an answer about texts there is one way to write it, and two of them are apart by what they say."""

from __future__ import annotations

import math
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cactus_mesh.core.readings import (
    LEAST_PROBABILITY,
    MOST_WIDTH,
    distance,
    efforts_of,
    labels_digest,
    passages_of,
    read,
    reads,
    well_formed,
    written,
)
from cactus_mesh.errors import MessageMalformed
from cactus_mesh.messages import Classify, Embed, Generate, Rerank, text_digest

TWO = ["one", "two"]
EMBED, CLASSIFY, RERANK = Embed(TWO), Classify(TWO), Rerank("which?", TWO)
singles = st.floats(width=32, allow_nan=False, allow_infinity=False)


def whole(work, rows, labels=()):
    return f"[{', '.join(written(work, rows, labels))}]"


def single(number):
    return struct.unpack("f", struct.pack("f", number))[0]


@given(st.lists(singles, min_size=2, max_size=2))
def test_scores_as_they_are_written_are_well_formed_and_read_back_to_the_bit(scores):
    text = whole(RERANK, [[score] for score in scores])
    assert well_formed(RERANK, text)
    assert [row[0] for row in read(RERANK, text).rows] == scores


@given(st.lists(st.lists(st.floats(-1, 1), min_size=5, max_size=5), min_size=2, max_size=2))
def test_vectors_as_they_are_written_are_well_formed(rows):
    unit = [[single(number / (math.hypot(*row) or 1)) for number in row] for row in rows]
    assert well_formed(EMBED, whole(EMBED, unit)) == all(any(row) for row in unit)


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=3, max_size=3, unique=True),
    st.lists(st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3), min_size=2, max_size=2),
)
def test_labels_of_any_name_as_they_are_written_are_well_formed(labels, rows):
    text = whole(CLASSIFY, rows, labels)
    assert well_formed(CLASSIFY, text)
    assert read(CLASSIFY, text).labels == tuple(labels)
    assert [list(row) for row in read(CLASSIFY, text).rows] == rows


OTHERWISE = [
    (
        EMBED,
        [
            *("[[1, 0],[1, 0]]", "[[1, 0], [1,0]]", "[[1, 0], [1, 0]] ", " [[1, 0], [1, 0]]", "[[1, 0], [1, 0],]"),
            *(
                "[[1.0, 0], [1, 0]]",
                "[[1, -0], [1, 0]]",
                "[[1, 0.0], [1, 0]]",
                "[[1e0, 0], [1, 0]]",
                "[[1, 0e9], [1, 0]]",
            ),
            *("[[0.6000000241, -0.8], [1, 0]]", "[[0.6, -0.800000012], [1, 0]]", "[[0.60000002, 0.800000012], [1, 0]]"),
            *(
                "[[1, 0]]",
                "[[1, 0], [1, 0], [1, 0]]",
                "[[1], [1, 0]]",
                "[[], []]",
                "[]",
                "[[1, 0], 1]",
                '[[1, "0"], [1, 0]]',
            ),
            *(
                "[[1, NaN], [1, 0]]",
                "[[Infinity, 0], [1, 0]]",
                "[[1e999, 0], [1, 0]]",
                "[[1e300, 0], [1, 0]]",
                "[[1e39, 0], [1, 0]]",
            ),
            *(
                "[[0.5, 0], [1, 0]]",
                "[[1, 1], [1, 0]]",
                "[[0, 0], [1, 0]]",
                "[[1, 1e-50], [1, 0]]",
                "[[1, true], [1, 0]]",
            ),
            *(
                "",
                "null",
                "[[1, 0], [1, 0]",
                "[" * 100_000,
                "[[" + "1" * 100_000 + ", 0], [1, 0]]",
                "[[1, null], [1, 0]]",
            ),
            *('{"a": 1}', "[[1, 0], [1, 0]]x", "\ufeff[[1, 0], [1, 0]]", "[[1, 0], [[1], 0]]"),
        ],
    ),
    (
        CLASSIFY,
        [
            *('[{"a": 1}, {"b": 1}]', '[{"a": 0.5, "b": 0.5}, {"b": 0.5, "a": 0.5}]', '[{"a": 1, "a": 1}, {"a": 1}]'),
            *('[{"\\u0061": 1}, {"a": 1}]', '[{"a":1}, {"a": 1}]', '[{"a": 1.5}, {"a": 1}]', '[{"a": -0.5}, {"a": 1}]'),
            *(
                "[{}, {}]",
                '[{"a": "1"}, {"a": 1}]',
                '[{"a": 1}]',
                '[{"a": 1}, {"a": 1, "b": 0}]',
                "[1, 1]",
                "[{1: 1}, {1: 1}]",
            ),
            *('[{"\ud800": 1}, {"\ud800": 1}]', '[{"a\n": 1}, {"a\n": 1}]', '[{"a": -0}, {"a": 1}]'),
        ],
    ),
    (
        RERANK,
        [
            "[1]",
            "[1, 2, 3]",
            "[1,2]",
            "[01, 2]",
            "[+1, 2]",
            "[1., 2]",
            "[1E3, 2]",
            "[1000.0, 2]",
            "[-0, 2]",
            "[[1], [2]]",
        ],
    ),
]


@pytest.mark.parametrize(
    ("work", "text"), [(work, text) for work, texts in OTHERWISE for text in texts], ids=lambda value: repr(value)[:60]
)
def test_what_is_not_written_like_that_is_not_well_formed(work, text):
    assert not well_formed(work, text)


@pytest.mark.parametrize(
    ("work", "text"),
    [
        (EMBED, "[[1, 0], [0.600000024, -0.800000012]]"),
        (CLASSIFY, '[{"a": 1, "ü\\n%": 0}, {"a": 0.25, "ü\\n%": 9.99999972e-10}]'),
    ],
)
def test_the_form_in_letters(work, text):
    assert well_formed(work, text)
    assert well_formed(RERANK, "[-1.5, 1e+10]")


@settings(max_examples=300)
@given(st.sampled_from([EMBED, CLASSIFY, RERANK]), st.text() | st.text('[]{}",: 019.eE+-naN'))
def test_no_text_breaks_the_reader(work, text):
    assert well_formed(work, text) in (True, False)
    try:
        read(work, text)
    except MessageMalformed:
        assert not well_formed(work, text)


def test_a_row_is_only_so_wide():
    for width, holds in ((MOST_WIDTH, True), (MOST_WIDTH + 1, False)):
        row = [1.0, *[0.0] * (width - 1)]
        assert well_formed(Embed(["x"]), whole(Embed(["x"]), [row])) == holds


def test_a_zero_has_no_sign():
    assert written(EMBED, [[-0.0, 1.0]]) == ["[0, 1]"]


def test_only_some_work_is_read_whole():
    assert [reads(work) for work in (EMBED, CLASSIFY, RERANK, Generate("x"))] == [True, True, True, False]
    assert passages_of(EMBED) == passages_of(RERANK) == TWO


def test_a_text_weighs_its_bytes_and_a_document_those_of_its_question_too():
    assert efforts_of(Embed(["", "é", "abc"])) == [1, 3, 4]
    assert efforts_of(Rerank("abc", ["", "xy"])) == [4, 6]


# --- how far two are apart ---------------------------------------------------------------------------------------


def test_unrelated_vectors_are_further_apart_than_related_ones():
    assert distance(EMBED, [1.0, 0.0], [1.0, 0.0]) == 0
    assert distance(EMBED, [1.0, 0.0], [0.0, 1.0]) == pytest.approx(math.sqrt(2))


@given(st.floats(0, 1, width=32), st.floats(0, 1, width=32))
def test_probabilities_are_at_least_as_far_apart_as_they_differ(one, other):
    found = distance(CLASSIFY, [one], [other])
    assert found >= abs(one - other) - 2 * LEAST_PROBABILITY
    assert found == distance(CLASSIFY, [other], [one])


def test_a_model_that_is_sure_of_itself_hides_nothing():
    assert distance(CLASSIFY, [1.0, 2e-6], [1.0, 1e-6]) == pytest.approx(math.log(2))
    assert distance(CLASSIFY, [1.0, 0.0], [1.0, 1e-7]) == 0


def test_large_scores_are_rounded_by_more():
    assert distance(RERANK, [1_001.0], [1_000.0]) == pytest.approx(1e-3)
    assert distance(RERANK, [0.25], [0.5]) == 0.25
    assert distance(RERANK, [3e38], [-3e38]) == pytest.approx(2)


def test_labels_have_a_digest():
    assert labels_digest(("no", "ü")) == text_digest('["no", "ü"]')
    assert labels_digest(()) == text_digest("[]")
