"""The bytes of single tokens, which may be half a character.  Knows the ways in which vocabularies write bytes."""

from __future__ import annotations

import re
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from transformers.convert_slow_tokenizer import bytes_to_unicode

if TYPE_CHECKING:
    from collections.abc import Collection

    from transformers import PreTrainedTokenizerBase

_ONE_BYTE: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")
"""As vocabularies with byte fallback write a byte."""
_BYTE_OF: Final = {letter: byte for byte, letter in bytes_to_unicode().items()}  # type: ignore[no-untyped-call]
"""Of the printable characters as which GPT-2's kind of vocabulary writes bytes."""


class TokenPieces:
    """Of one tokenizer, whose text ends at *end_ids*.  What has been found is kept: no more than the vocabulary."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, end_ids: Collection[int]) -> None:
        self._tokenizer = tokenizer
        added: dict[int, Any] = tokenizer.added_tokens_decoder
        self._added = set(added)
        self._special = {id_ for id_, each in added.items() if each.special} | set(tokenizer.all_special_ids)
        self._special |= set(end_ids)
        decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
        rules = b"" if decoder is None else decoder.__getstate__()
        self._is_byte_level = b'"ByteLevel"' in rules
        self._falls_back_to_bytes = decoder is None or b'"ByteFallback"' in rules
        self._found: dict[int, tuple[bytes, bool]] = {}

    def of(self, id_: int, *, first: bool = False) -> tuple[bytes, bool]:
        """What *id_* adds to a text, and False; or the name of a special token, which adds nothing, and True.

        As the *first* of a text it may be without the space that it begins with elsewhere.
        """
        found = self._found.get(id_)
        if found is None:
            found = self._found[id_] = self._find(id_)
        piece, special = found
        if first and not special and piece[:1] == b" " and self._decode([id_])[:1] != " ":
            return piece[1:], False
        return found

    def _find(self, id_: int) -> tuple[bytes, bool]:
        written = self._tokenizer.convert_ids_to_tokens(id_)
        if not isinstance(written, str):  # a row of the model that its tokenizer has no use for
            return f"<{id_}>".encode(), True
        if id_ in self._special:
            return written.encode(), True
        if id_ in self._added:  # written as they are
            return self._read(id_).encode(), False
        if self._is_byte_level and all(letter in _BYTE_OF for letter in written):
            return bytes(_BYTE_OF[letter] for letter in written), False
        if self._falls_back_to_bytes and (byte := _ONE_BYTE.fullmatch(written)):
            return bytes.fromhex(byte[1]), False
        return self._read(id_).encode(), False

    def _read(self, id_: int) -> str:
        """What it reads as behind another token: at the beginning of a text spaces may be cut off."""
        if self._anchor is None:
            return self._decode([id_])
        return self._decode([self._anchor, id_]).removeprefix(self._decode([self._anchor]))

    @cached_property
    def _anchor(self) -> int | None:
        return next((id_ for id_ in range(len(self._tokenizer)) if self._decode([id_]).isalnum()), None)

    def _decode(self, ids: list[int]) -> str:
        text = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text
