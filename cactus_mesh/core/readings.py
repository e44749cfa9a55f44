"""Answers to work that reads texts whole: how each is written, to the letter, and how far two of them are apart.

There is one way to write any content, so that nobody can make an answer, and with it his pay, longer than it is.
"""

from __future__ import annotations

import json
import math
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from cactus_mesh.errors import MessageMalformed
from cactus_mesh.messages import MOST_NUMBERS, MOST_PLACES, Classify, Embed, Rerank, text_digest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeGuard

    from cactus_mesh.messages import Work

    Reads = Embed | Classify | Rerank

MOST_WIDTH: Final = MOST_NUMBERS // MOST_PLACES
"""Numbers for one text: so those of all that are read again fit into a finding."""
UNIT_SLACK: Final = 1e-4
"""How far the length of a vector may be from 1: rounding takes some 1e-7 for each of a few thousand numbers."""
LEAST_PROBABILITY: Final = 1e-6
"""Smaller ones are all the same to an audit: below it a difference is of no use to anybody."""

_numbers = msgspec.json.Decoder(list[float])
_labelled = msgspec.json.Decoder(list[dict[str, float]])
_first = json.JSONDecoder()
_NUMBER: Final = 17
"""Characters of a number, with what comes between two."""


@dataclass(frozen=True, slots=True)
class Reading:
    """*rows*: for each text its numbers, singles; *labels*: what the numbers of a row are called, if anything."""

    rows: tuple[Sequence[float], ...]
    labels: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        return len(self.rows[0])


def reads(work: Work) -> TypeGuard[Reads]:
    """Whether *work* is answered as a whole, by what this module speaks of."""
    return isinstance(work, Embed | Classify | Rerank)


def passages_of(work: Reads) -> list[str]:
    """The texts that an answer has an entry for."""
    return work.documents if isinstance(work, Rerank) else work.inputs


def efforts_of(work: Reads) -> list[int]:
    """What each text weighs when lots are drawn: about the share of the work that it makes."""
    every = len(work.query.encode()) + 1 if isinstance(work, Rerank) else 1
    return [every + len(text.encode()) for text in passages_of(work)]


# --- how it is written -------------------------------------------------------------------------------------------


def written(work: Reads, rows: Sequence[Sequence[float]], labels: Sequence[str] = ()) -> list[str]:
    """The entries of an answer; ``, `` comes between them and brackets around them.  A zero has no sign."""
    width = len(rows[0]) if rows else 0
    match work:
        case Embed():
            form = f"[{', '.join(['%.9g'] * width)}]"
        case Classify():
            named = (json.dumps(label, ensure_ascii=False).replace("%", "%%") for label in labels)
            form = "{" + ", ".join(f"{label}: %.9g" for label in named) + "}"
        case Rerank():
            form = "%.9g"
    return [form % tuple(number + 0.0 for number in row) for row in rows]


def read(work: Reads, text: str) -> Reading:
    """What *text* says about each text of *work*.  Raises `MessageMalformed` unless it has an entry for each."""
    try:
        rows, labels = _decoded(work, text)
        reading = Reading(tuple(array("f", row) for row in rows), labels)
    except (msgspec.DecodeError, ValueError, OverflowError, RecursionError) as error:
        raise MessageMalformed(f"this is no answer to what was asked: {error}") from None
    widths = {len(row) for row in reading.rows}
    if len(reading.rows) != len(passages_of(work)) or len(widths) != 1 or not 1 <= reading.width <= MOST_WIDTH:
        raise MessageMalformed("this answer has not the same numbers for each text")
    return reading


def _decoded(work: Reads, text: str) -> tuple[list[list[float]], tuple[str, ...]]:
    """Refuses first what is too long to be an answer at all: hostile megabytes are not looked at one by one."""
    count = len(passages_of(work))
    match work:
        case Embed():
            rows = text[2:-2].split("], [", count)
            if text[:2] + text[-2:] != "[[]]" or len(rows) != count or max(map(len, rows)) > MOST_WIDTH * _NUMBER:
                raise MessageMalformed("this answer is no list of so many vectors")
            # each on its own, so that a thread that reads megabytes lets others in between
            return [_numbers.decode(f"[{row}]") for row in rows], ()
        case Rerank():
            if len(text) > count * _NUMBER + 2:
                raise MessageMalformed("this answer is longer than so many scores")
            return [[score] for score in _numbers.decode(text)], ()
        case Classify():
            return _decoded_labels(text, count)


def _decoded_labels(text: str, count: int) -> tuple[list[list[float]], tuple[str, ...]]:
    longest = _NUMBER * len(text) // count  # of the first entry: others have the same labels and shorter numbers
    if not text.startswith("[{") or text.count('": ') > count * MOST_WIDTH:
        raise MessageMalformed("this answer is no list of so many labels")
    first, end = _first.raw_decode(text[: longest + 1], 1)
    labels = tuple(first)
    if len(text) > count * (end + _NUMBER * len(labels)) + 2:
        raise MessageMalformed("this answer is longer than so many labels")
    entries = _labelled.decode(text)
    if any(tuple(entry) != labels for entry in entries):
        raise MessageMalformed("this answer has not the same labels for each text")
    return [list(entry.values()) for entry in entries], labels


def well_formed(work: Reads, text: str) -> bool:
    """Whether *text* is an answer, written as every answer is: about 25 ms for each million characters."""
    try:
        found = read(work, text)
    except MessageMalformed:
        return False
    if f"[{', '.join(written(work, found.rows, found.labels))}]" != text:
        return False
    match work:
        case Embed():
            return all(abs(math.hypot(*row) - 1) <= UNIT_SLACK for row in found.rows)
        case Classify():
            return all(min(row) >= 0 and max(row) <= 1 for row in found.rows)
        case Rerank():
            return True


def labels_digest(labels: Sequence[str]) -> bytes:
    return text_digest(json.dumps(labels, ensure_ascii=False))


# --- how far two are apart ---------------------------------------------------------------------------------------


def distance(work: Reads, claimed: Sequence[float], found: Sequence[float]) -> float:
    """Between two answers about one text: 0 where they say the same.

    Of vectors the Euclidean one; of probabilities the largest difference of logarithms, which does not hide behind
    a model that is sure of itself; of scores their difference, as a share of the second where that is above 1, since
    rounding grows with the numbers that are added up.
    """
    match work:
        case Embed():
            return math.dist(claimed, found)
        case Classify():
            return max(abs(_log(one) - _log(other)) for one, other in zip(claimed, found, strict=True))
        case Rerank():
            return abs(claimed[0] - found[0]) / max(1.0, abs(found[0]))


def _log(probability: float) -> float:
    return math.log(max(probability, LEAST_PROBABILITY))
