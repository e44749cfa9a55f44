"""What a shell completes beyond commands and options: looked up in this home's files, without network or heavy imports.

Whatever is wrong with a file, there is then nothing to complete.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    import click

    from cactus_mesh.home import Home

MOST: Final = 50
"""Nobody reads a longer list."""


def _home(ctx: click.Context) -> Home:
    from cactus_mesh.home import find_home

    return find_home(ctx.find_root().params.get("home"))


def _column(home: Home, query: str) -> list[str]:
    """The first column of *query* over this home's records, which are only read."""
    path = home.records_file
    if not path.exists():
        return []
    with (
        contextlib.suppress(sqlite3.Error),
        contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=0.1)) as database,
    ):
        return [str(row[0]) for row in database.execute(query)]
    return []


def _beginning(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in dict.fromkeys(names) if name.startswith(incomplete)][:MOST]


def task_ids(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    newest = f"SELECT lower(hex(task_id)) FROM tasks ORDER BY at DESC LIMIT {10 * MOST}"  # noqa: S608 - a number of ours
    return _beginning(_column(_home(ctx), newest), incomplete)


def models(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Those that were asked before, and those of this machine."""
    home = _home(ctx)
    newest = "SELECT model FROM tasks GROUP BY model ORDER BY max(at) DESC"
    own: list[str] = []
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        own = [str(entry["name"]) for entry in json.loads(home.models_file.read_bytes())]
    return _beginning([*_column(home, newest), *own, "cactus-selftest"], incomplete)


def peers(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Those that this home has met."""
    found: list[str] = []
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        found = _ids(json.loads(_home(ctx).peers_file.read_bytes()))
    return _beginning(found, incomplete)


def _ids(value: object) -> list[str]:
    """Every peer id in a file whose form is the network's own affair."""
    match value:
        case dict():
            return [each for pair in value.items() for item in pair for each in _ids(item)]
        case list():
            return [each for item in value for each in _ids(item)]
        case str() if value.startswith("12D3KooW"):
            return [value]
    return []
