"""``python -m tests.ledger.serve``: an embedded ledger in a process of its own, to be killed.

Prints "loaded", reads one line of JSON (home; point and after say when it kills itself), prints its URL.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import trio

from cactus_mesh.ledger.devnet import DevnetSettings, serve_devnet
from cactus_mesh.ledger.devnet.store import Store

POINTS = ("before commit", "within commit", "after commit")


def die() -> None:
    if hasattr(signal, "SIGKILL"):
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(9)


def doom(point: str, after: int, statement: int) -> None:
    """Die at *point* of the commit that follows *after* others; within it, at its SQL statement number *statement*."""
    commit, commits = Store.commit, 0

    def commit_or_die(self: Store, records: Any, rows: Any) -> None:
        nonlocal commits
        commits += 1
        doomed = commits > after
        if doomed and point == "before commit":
            die()
        if doomed and point == "within commit":
            left = iter(range(statement))
            self._database.set_trace_callback(lambda _: die() if next(left, None) is None else None)
        commit(self, records, rows)
        if doomed:
            die()

    Store.commit = commit_or_die  # type: ignore[method-assign]


async def main() -> None:
    print("loaded", flush=True)
    asked = json.loads(sys.stdin.readline())
    if asked["point"] in POINTS:
        doom(asked["point"], asked["after"], asked["statement"])
    async with trio.open_nursery() as nursery:
        devnet = await nursery.start(serve_devnet, DevnetSettings(Path(asked["home"]), port=0))
        print(devnet.url, flush=True)


if __name__ == "__main__":
    trio.run(main)
