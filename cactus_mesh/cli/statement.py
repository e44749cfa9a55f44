"""How ``balance`` looks: each amount to the octa in one column, why it is where it is, until when, and what to do."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any, Final

from cactus_mesh.cli.accounts import when
from cactus_mesh.terminal import OCTAS_PER_APT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cactus_mesh.core.holdings import Holding, Standing

WIDTH: Final = 80
_TITLES: Final = {
    "coins": "coins",
    "deposit": "deposit",
    "escrow": "in escrow",
    "withdrawal": "leaving",
    "stake": "stake",
    "unbonding": "unbonding",
    "bond": "bond",
    "dispute": "dispute",
    "budget": "held for clients",
}
_TITLE_WIDTH: Final = 16
_AMOUNT_WIDTH: Final = 17
_TEXT: Final = _TITLE_WIDTH + _AMOUNT_WIDTH + 3
"""The column where the explanations begin."""
_COMMAND: Final = 2
"""The column of a command that is too long to stand under its explanation: it must be copied in one piece."""


def apt(amount: int) -> str:
    """With all eight decimals, so that points stand above one another and no octa hides."""
    whole, rest = divmod(amount, OCTAS_PER_APT)
    return f"{whole:,}.{rest:08d}"


def lines_of(found: Sequence[Holding], now: float) -> Iterator[str]:
    yield f"{'':{_TITLE_WIDTH}} {'APT':>{_AMOUNT_WIDTH}}"
    for each in found:
        amount = "" if each.kind == "dispute" else apt(each.amount)
        title = f"{_TITLES[each.kind]:{_TITLE_WIDTH}} {amount:>{_AMOUNT_WIDTH}}  "
        text = textwrap.wrap(each.why, WIDTH - _TEXT, break_on_hyphens=False)
        if each.until is not None:
            date, distance = when(each.until, now).split(", ")
            word = "since" if each.until <= now else "until"
            line = f"{word} {date} ({distance})"
            text += [line] if len(line) <= WIDTH - _TEXT else [f"{word} {date}", f"      ({distance})"]
        yield f"{title}{text[0]}"
        yield from (f"{'':{_TEXT}}{line}" for line in text[1:])
        if each.do:
            fits = _TEXT + len(each.do) + 2 <= WIDTH
            yield f"{'':{_TEXT if fits else _COMMAND}}> {each.do}"


def as_json(standing: Standing, found: Sequence[Holding]) -> dict[str, Any]:
    """The sums by kind, of what is the account's own, and every line of the statement."""
    own = {kind: sum(each.amount for each in found if each.kind == kind and each.own) for kind in _TITLES}
    return {
        "address": standing.account,
        "known": standing.known,
        "coins": own["coins"],
        "deposit": own["deposit"],
        "escrowed": own["escrow"],
        "withdrawing": own["withdrawal"],
        "stake": own["stake"],
        "unbonding": own["unbonding"],
        "bonds": own["bond"],
        "claimable": sum(each.amount for each in found if each.due and each.own),
        "holdings": [
            {
                "kind": each.kind,
                "octas": each.amount,
                "own": each.own,
                "why": each.why,
                "until": each.until,
                "due": each.due,
                "do": each.do or None,
            }
            for each in found
        ],
    }
