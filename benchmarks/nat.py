"""Every pair of kinds of networks, in a lab of namespaces: is the task done, do client and orchestrator meet directly.

Needs root, iproute2 and nftables; about ten minutes.  ``python -m tests.nat.matrix --write`` puts the table into
docs/nat.md.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

import trio

from benchmarks.report import Measurement, Target
from tests.nat.matrix import every_pair, figures, run_pairs
from tests.nat.namespaces import why_not
from tests.nat.routers import KINDS, direct_expected

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.nat.matrix import Row

PAIRS: Final = len(KINDS) ** 2
TARGETS: Final = (
    Target("pairs", "pairs of networks, for client and orchestrator; the router is on a third kind"),
    Target("completed", "pairs in which the streamed task was completed", ">=", PAIRS),
    Target("direct_expected", "pairs that can be direct: one is public, or neither is symmetric"),
    Target(
        "direct_reached",
        "of these, direct within 5 s",
        ">=",
        sum(direct_expected(client, orchestrator) for client in KINDS for orchestrator in KINDS),
    ),
)


def measure() -> Measurement:
    if why_not():
        sys.exit(f"the lab cannot be made here: {why_not()}")
    return report(trio.run(run_pairs, every_pair()).rows)


def report(rows: Sequence[Row]) -> Measurement:
    return Measurement(figures(rows), runs=1, rows=[asdict(row) for row in rows])
