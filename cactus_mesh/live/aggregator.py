"""One picture of a running process, put together from what its parts know anyway.

Samples numbers once a second and standings every ten; asks the ledger only while somebody looks.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import trio

from cactus_mesh import __version__
from cactus_mesh.claims import survey
from cactus_mesh.clock import wall_clock
from cactus_mesh.concurrency import open_service_nursery
from cactus_mesh.errors import LedgerError
from cactus_mesh.live.money import money_told
from cactus_mesh.live.series import FINE_SECONDS, Series
from cactus_mesh.live.standings import STANDINGS_SECONDS, Standings
from cactus_mesh.live.tasks import PARTS
from cactus_mesh.snapshot import peer_snapshot

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from cactus_mesh.book import Book
    from cactus_mesh.config import Config
    from cactus_mesh.core.holdings import Standing
    from cactus_mesh.directory import Directory
    from cactus_mesh.identity import Identity
    from cactus_mesh.live.tasks import TaskTable
    from cactus_mesh.ports import ConnectedPeer, Ledger, Network

VERSION: Final = 1
"""Of the snapshot's keys, which docs/dashboard.md lists; keys are added without a new one."""
PEERS_TOLD: Final = 256
"""The nearest; a drawing of more shows nothing."""
WATCHED_SECONDS: Final = 15.0
"""For so long after a look somebody is taken to be looking."""
MONEY_SECONDS: Final = 5.0
MONEY_WAIT_SECONDS: Final = 2.0
"""For the first look to have amounts; the ledger may be slow or down."""
SEARCHED_DISPUTES: Final = 8
"""Of tasks nobody has named; the claimer searches all of them, seldom."""
SERIES: Final = ("rtt_ms", "first_token_ms", "running", "peers", *(f"tokens_{part}" for part in PARTS))


def _nothing() -> dict[str, Any]:
    return {}


@dataclass(frozen=True, slots=True)
class Sources:
    """Where `Live` looks.  *more* gives what only a node has of itself."""

    identity: Identity
    config: Config
    network: Network
    ledger: Ledger
    book: Book
    tasks: TaskTable
    roles: tuple[str, ...]
    started_at: float
    directory: Directory | None = None
    more: Callable[[], Mapping[str, Any]] = _nothing
    spent_today: Callable[[], int] | None = None


class Live:
    def __init__(self, sources: Sources) -> None:
        self._from = sources
        self._series = Series(SERIES)
        self._standings = Standings(sources.directory, sources.tasks)
        self._counted = dict.fromkeys(PARTS, 0)
        self._standing: Standing | None = None
        self._money_at: float | None = None
        self._money_failed: LedgerError | None = None
        self._money_came = trio.Event()
        self._watched_until = -1.0
        self._looked_at = trio.Event()
        self.spent_today = sources.spent_today
        """In octas; set where a client runs beside a node."""

    # --- what others read ------------------------------------------------------------------------------------------

    async def fresh(self) -> dict[str, Any]:
        """`snapshot`, with amounts as soon as the ledger has told them for the first time."""
        self._look()
        with trio.move_on_after(MONEY_WAIT_SECONDS):
            await self._money_came.wait()
        return self.snapshot()

    def snapshot(self) -> dict[str, Any]:
        """Everything but texts, as JSON can hold it.  docs/dashboard.md lists the keys."""
        self._look()
        now, tasks = trio.current_time(), self._from.tasks
        return {
            "version": VERSION,
            "now": round(wall_clock() / 1_000, 3),
            "self": self._self(),
            **self._peers(),
            "running": [task.told(now) for task in tasks.running()],
            "running_total": len(tasks),
            "done": [task.told(now) for task in tasks.done],
            "totals": {part: _totals(tasks, part) for part in PARTS},
            "money": self._money(),
            "reputation": self._standings.told(),
            "series": self._series.told(),
        }

    def texts(self) -> dict[str, str]:
        """What has come of the answers to tasks that this process itself has asked for, by task id."""
        return self._from.tasks.texts()

    # --- its parts -------------------------------------------------------------------------------------------------

    def _self(self) -> dict[str, Any]:
        known = self._from
        found: dict[str, Any] = {
            "peer_id": known.identity.peer_id,
            "address": known.identity.address,
            "network": known.config.network,
            "ledger": known.config.ledger,
            "roles": list(known.roles),
            "version": __version__,
            "started_at": round(known.started_at, 3),
            "addresses": known.network.addresses(),
            "default_model": known.config.client.model,
            "default_max_price_octas": known.config.client.max_price,
        }
        return found | dict(known.more())

    def _peers(self) -> dict[str, Any]:
        peers = self._from.network.peers()
        nearest = sorted(peers, key=_distance)[:PEERS_TOLD]
        return {"peers": [peer_snapshot(peer) for peer in nearest], "peers_total": len(peers)}

    def _money(self) -> dict[str, Any]:
        now = wall_clock() / 1_000
        failed = self._money_failed
        return {
            "as_of": self._money_at,
            "error": None if failed is None else {"code": failed.code, "message": str(failed)},
            **money_told(self._standing, now),
            "spent_today_octas": None if self.spent_today is None else self.spent_today(),
            "cap_per_day_octas": self._from.config.client.cap_per_day,
        }

    # --- services --------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        self._watched_until = trio.current_time() + WATCHED_SECONDS
        self._looked_at.set()

    async def sample_for_ever(self) -> None:
        due = trio.current_time()
        rounds = 0
        while True:
            self._sample()
            if rounds % STANDINGS_SECONDS == 0:
                self._standings.sample(wall_clock() / 1_000)
            rounds += FINE_SECONDS
            due = max(due + FINE_SECONDS, trio.current_time())
            await trio.sleep_until(due)

    def _sample(self) -> None:
        tasks, peers = self._from.tasks, self._from.network.peers()
        rtts = sorted(peer.rtt_ms for peer in peers if peer.rtt_ms is not None)
        sample: dict[str, float | None] = {
            "rtt_ms": rtts[len(rtts) // 2] if rtts else None,
            "first_token_ms": tasks.first_token_ms(),
            "running": float(len(tasks)),
            "peers": float(len(peers)),
        }
        for part in PARTS:
            tokens = tasks.totals[part].tokens
            sample[f"tokens_{part}"] = float(tokens - self._counted[part]) / FINE_SECONDS
            self._counted[part] = tokens
        self._series.add(wall_clock() / 1_000, sample)

    async def survey_while_watched(self) -> None:
        while True:
            if trio.current_time() >= self._watched_until:
                self._looked_at = trio.Event()
                await self._looked_at.wait()
            await self._survey()
            await trio.sleep(MONEY_SECONDS)

    async def _survey(self) -> None:
        known, now = self._from, wall_clock() / 1_000
        try:
            self._standing = await survey(
                known.ledger, known.book, known.identity.address, now, search=SEARCHED_DISPUTES
            )
        except LedgerError as error:
            self._money_failed = error
        else:
            self._money_at, self._money_failed = round(now, 3), None
        self._money_came.set()


@asynccontextmanager
async def open_live(sources: Sources) -> AsyncIterator[Live]:
    """Keep a picture of *sources* for the length of the block."""
    live = Live(sources)
    async with open_service_nursery() as nursery:
        nursery.start_soon(live.sample_for_ever)
        nursery.start_soon(live.survey_while_watched)
        yield live


def _distance(peer: ConnectedPeer) -> tuple[bool, float, str]:
    return peer.rtt_ms is None, peer.rtt_ms or 0.0, peer.peer


def _totals(tasks: TaskTable, part: Any) -> dict[str, int]:
    totals = tasks.totals[part]
    return {"done": totals.done, "failed": totals.failed, "tokens": totals.tokens, "octas": totals.octas}
