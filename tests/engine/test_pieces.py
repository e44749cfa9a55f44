"""The bytes of single tokens, of each kind of vocabulary: together they are the text, half characters and all."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from cactus_mesh.engine.models import SELFTEST_FOLDER
from cactus_mesh.engine.runner.pieces import TokenPieces

LETTERS = "abcdefghijklmnopqrstuvwxyz.,!"
END = "<|end|>"


def byte_fallback() -> Tokenizer:
    """As Llama 2 and Gemma have it: what has no token of its own is written in bytes."""
    words = [END, *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", *LETTERS, "he", "\u2581he"]
    vocabulary = {word: at for at, word in enumerate(words)}
    found = Tokenizer(models.BPE(vocabulary, [("h", "e"), ("\u2581", "he")], byte_fallback=True))
    found.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    found.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return found


def metaspace() -> Tokenizer:
    """As T5 and XLNet have it."""
    words = [(END, 0.0), ("\u2581", -1.0), *((letter, -3.0) for letter in LETTERS), ("\u2581he", -2.0)]
    found = Tokenizer(models.Unigram(words, unk_id=0))
    found.pre_tokenizer = pre_tokenizers.Metaspace()
    found.decoder = decoders.Metaspace()
    return found


@cache
def tokenizer(kind: str) -> PreTrainedTokenizerFast:
    if kind == "byte_level":
        return AutoTokenizer.from_pretrained(SELFTEST_FOLDER)
    found = PreTrainedTokenizerFast(tokenizer_object={"bytes": byte_fallback, "metaspace": metaspace}[kind]())
    found.add_special_tokens({"eos_token": END})
    found.add_tokens([AddedToken("[[plain]]", special=False)])
    return found


def pieces(kind: str) -> TokenPieces:
    return TokenPieces(tokenizer(kind), ())


def text_of(kind: str, text: str) -> bytes:
    found, ids = pieces(kind), tokenizer(kind)(text, add_special_tokens=False)["input_ids"]
    parts = [found.of(id_, first=not at) for at, id_ in enumerate(ids)]
    assert not any(special for _, special in parts)
    return b"".join(piece for piece, _ in parts)


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581"), min_size=1, max_size=12))
@pytest.mark.parametrize("kind", ["byte_level", "bytes"])
def test_all_tokens_bytes_are_the_text(kind: str, text: str) -> None:
    assert text_of(kind, text) == text.encode()


@pytest.mark.parametrize("kind", ["byte_level", "bytes", "metaspace"])
def test_a_space_before_a_word_is_the_words_but_not_where_the_text_begins(kind: str) -> None:
    found, ids = pieces(kind), tokenizer(kind)("he [[plain]] he. he", add_special_tokens=False)["input_ids"]
    read = b"".join(found.of(id_, first=not at)[0] for at, id_ in enumerate(ids))
    assert read.decode() == tokenizer(kind).decode(ids)
    first, last = found.of(ids[0], first=True)[0], found.of(ids[-1])[0]
    assert (first[:1], last[-2:]) == (b"h", b"he")


@pytest.mark.parametrize("kind", ["byte_level", "bytes", "metaspace"])
def test_special_tokens_have_names_and_what_the_tokenizer_does_not_know_has_a_number(kind: str) -> None:
    found, end = pieces(kind), tokenizer(kind).eos_token_id
    assert found.of(end) == (tokenizer(kind).eos_token.encode(), True)
    assert found.of(len(tokenizer(kind)) + 5) == (f"<{len(tokenizer(kind)) + 5}>".encode(), True)
    assert TokenPieces(tokenizer(kind), {7}).of(7)[1]  # a text may end with it, whatever its tokenizer thinks


def test_a_byte_is_a_byte_where_the_vocabulary_writes_them_and_a_word_where_it_does_not() -> None:
    assert pieces("bytes").of(tokenizer("bytes").convert_tokens_to_ids("<0xF0>")) == (b"\xf0", False)
    plain = tokenizer("metaspace")
    plain.add_tokens(["<0xF0>"])
    assert pieces("metaspace").of(plain.convert_tokens_to_ids("<0xF0>")) == (b"<0xF0>", False)
