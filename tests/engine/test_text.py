"""Text comes in whole characters, ends before a stop string, and is the same however it is cut into tokens."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cactus_mesh.engine.text import REPLACEMENT, Detokenizer, OutputText, StopStrings

LONGEST_STOP = 200


def decode_bytes(ids: list[int]) -> str:
    """A tokenizer whose ids are bytes."""
    return bytes(ids).decode("utf-8", errors="replace")


def decode_words(ids: list[int]) -> str:
    """A tokenizer that, like sentencepiece, drops the space of the first word."""
    return " ".join(f"w{token}" for token in ids)


def pieces_of(ids: list[int], decode: object = decode_bytes) -> list[str]:
    detokenizer = Detokenizer(decode)
    return [*(detokenizer.push(token) for token in ids), detokenizer.flush()]


@given(st.text())
@example("añ€😀" * 40)
def test_the_pieces_of_a_text_are_the_text_and_never_half_a_character(text: str) -> None:
    pieces = pieces_of(list(text.encode()))
    assert "".join(pieces) == text
    assert all(REPLACEMENT not in piece for piece in pieces) or REPLACEMENT in text


@given(st.lists(st.integers(0, 255), max_size=60))
def test_bytes_that_are_no_text_give_what_the_tokenizer_says(ids: list[int]) -> None:
    assert "".join(pieces_of(ids)) == decode_bytes(ids)


def test_a_character_of_four_tokens_comes_with_its_last() -> None:
    assert pieces_of(list("a😀b".encode())) == ["a", "", "", "", "😀", "b", ""]


def test_half_a_character_at_the_end_is_flushed() -> None:
    assert pieces_of(list("a😀".encode())[:-1]) == ["a", "", "", "", REPLACEMENT]


def test_spaces_between_words_are_kept_however_the_tokenizer_decodes() -> None:
    assert pieces_of([1, 2, 3], decode_words) == ["w1", " w2", " w3", ""]


def test_an_endless_run_of_bytes_that_are_no_text_is_decoded_in_a_bounded_window() -> None:
    longest = 0

    def decode(ids: list[int]) -> str:
        nonlocal longest
        longest = max(longest, len(ids))
        return decode_bytes(ids)

    assert "".join(pieces_of([0x80] * 1000, decode)) == REPLACEMENT * 1000
    assert longest <= 130


@pytest.mark.parametrize("size", [2, 3, 5])
def test_tokens_that_always_end_within_a_character_lose_nothing(size: int) -> None:
    data = b"x" + "\u20ac\U0001f600".encode() * 60
    tokens = [data[at : at + size] for at in range(0, len(data), size)]
    pieces = pieces_of(list(range(len(tokens))), lambda ids: b"".join(tokens[i] for i in ids).decode(errors="replace"))
    assert "".join(pieces) == data.decode()


@given(st.lists(st.sampled_from([0x80, 0xE2, 0x82, 0xAC, 0xF0, 0x61]), max_size=400))
def test_a_long_run_of_bytes_that_are_no_text_loses_nothing(ids: list[int]) -> None:
    assert "".join(pieces_of(ids)) == decode_bytes(ids)


def cut(text: str, stops: list[str], pieces: list[str]) -> tuple[str, bool]:
    matcher, given_out = StopStrings(stops), ""
    for piece in pieces:
        new, stopped = matcher.push(piece)
        given_out += new
        if stopped:
            return given_out, True
    return given_out + matcher.flush(), False


def plain_cut(text: str, stops: list[str]) -> tuple[str, bool]:
    """The definition: the first end at which any stop string stands, and of those there the longest."""
    for end in range(1, len(text) + 1):
        matches = [stop for stop in stops if text[:end].endswith(stop)]
        if matches:
            return text[: end - max(map(len, matches))], True
    return text, False


letters = st.text(alphabet="ab€", max_size=12)


@given(st.lists(letters, max_size=8), st.lists(letters.filter(bool), max_size=4))
def test_the_cut_is_the_same_however_the_text_is_cut_into_pieces(pieces: list[str], stops: list[str]) -> None:
    text = "".join(pieces)
    assert cut(text, stops, pieces) == plain_cut(text, stops)


@given(st.lists(letters, max_size=8), st.lists(letters.filter(bool), min_size=1, max_size=4))
def test_no_beginning_of_a_stop_string_leaves_before_it_is_certain(pieces: list[str], stops: list[str]) -> None:
    matcher, given_out = StopStrings(stops), ""
    expected, _ = plain_cut("".join(pieces), stops)
    for piece in pieces:
        new, stopped = matcher.push(piece)
        given_out += new
        assert expected.startswith(given_out)
        if stopped:
            break


@pytest.mark.parametrize(("stops", "kept"), [(["END"], "the "), (["the E", "END"], ""), (["x"], "the END")])
def test_a_stop_string_across_pieces_is_cut_whole(stops: list[str], kept: str) -> None:
    assert cut("the END", stops, ["th", "e E", "N", "D"])[0] == kept


def test_without_stop_strings_nothing_is_held_back() -> None:
    assert StopStrings([]).push("text") == ("text", False)


def test_a_long_stop_string_that_never_comes_is_given_out_at_the_end() -> None:
    stop = "a" * LONGEST_STOP
    assert cut("a" * 199, [stop], ["a"] * 199) == ("a" * 199, False)


def output_of(text: str, stops: list[str]) -> tuple[str, bool]:
    output, given_out = OutputText(decode_bytes, stops), ""
    for byte in text.encode():
        piece, stopped = output.push(byte)
        given_out += piece
        if stopped:
            return given_out, True
    piece, stopped = output.finish()
    return given_out + piece, stopped


@given(st.text(max_size=30), st.lists(st.text(min_size=1, max_size=3), max_size=3))
def test_tokens_become_the_text_before_the_first_stop_string(text: str, stops: list[str]) -> None:
    assert output_of(text, stops) == plain_cut(text, stops)
