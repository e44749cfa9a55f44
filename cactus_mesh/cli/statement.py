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
_TITLE_WIDTH: Final = 17
_AMOUNT_WIDTH: Final = 20
_INDENT: Final = " " * (_TITLE_WIDTH + 3)


def apt(amount: int) -> str:
    """With all eight decimals, so that points stand above one another and no octa hides."""
    whole, rest = divmod(amount, OCTAS_PER_APT)
    return f"{whole:,}.{rest:08d}"


def lines_of(found: Sequence[Holding], now: float) -> Iterator[str]:
    yield f"{'':{_TITLE_WIDTH}} {'APT':>{_AMOUNT_WIDTH}}"
    for each in found:
        amount = "" if each.kind == "dispute" else apt(each.amount)
        yield f"{_TITLES[each.kind]:{_TITLE_WIDTH}} {amount:>{_AMOUNT_WIDTH}}".rstrip()
        yield from textwrap.wrap(
            each.why, WIDTH, initial_indent=_INDENT, subsequent_indent=_INDENT, break_on_hyphens=False
        )
        if each.until is not None:
            word = "since" if each.until <= now else "until"
            yield f"{_INDENT}{word} {when(each.until, now)}"
        if each.do:
            yield f"{_INDENT}> {each.do}"


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
