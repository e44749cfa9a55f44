"""Opens the disputes that audits want: once the task is settled, and for as long as the ledger would take one."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import trio

from cactus_mesh.core.exhibits import evidence_hash
from cactus_mesh.errors import LedgerAborted, LedgerError
from cactus_mesh.identity import peer_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from cactus_mesh.clock import Clock
    from cactus_mesh.dossier import Case, Dispute, Dossier
    from cactus_mesh.identity import Address, Identity
    from cactus_mesh.ports import Ledger

EVERY_SECONDS: Final = 10.0
"""Nothing hurries: a dispute can be opened for a day, and the stake stays in reach for a week."""

log = logging.getLogger(__name__)


class Disputer:
    """*opened* hears of each dispute of ours: its client and task."""

    def __init__(
        self,
        identity: Identity,
        ledger: Ledger,
        dossier: Dossier,
        clock: Clock,
        opened: Callable[[Address, bytes], None],
    ) -> None:
        self._identity = identity
        self._ledger = ledger
        self._dossier = dossier
        self._clock = clock
        self._opened = opened

    async def run(self) -> None:
        while True:
            for case in self._dossier.wanted():
                outcome = await self._try(case)
                if outcome != "wanted":
                    self._dossier.set_dispute(case, outcome)
            await trio.sleep(EVERY_SECONDS)

    async def _try(self, case: Case) -> Dispute:
        about = {"peer": peer_id(case.orchestrator), "task": case.task_id.hex()}
        if self._clock() // 1_000 > case.until:
            log.error("a dispute could not be opened in time", extra=about)
            return "refused"
        try:
            task = await self._ledger.task(case.client, case.task_id)
            if task is None or task.status == "created":
                return "wanted"  # the settlement is on its way
            await self._ledger.open_dispute(self._identity, case.client, case.task_id, evidence_hash(case.evidence))
        except LedgerAborted as error:
            log.error("the ledger takes no dispute", extra={**about, "why": str(error)})
            return "refused"
        except LedgerError as error:  # it is down, or this account lacks the bond: both may change
            log.warning("a dispute waits", extra={**about, "why": str(error)})
            return "wanted"
        self._opened(case.client, case.task_id)
        log.warning("a dispute was opened; its evidence: cactus-mesh audits show %s", case.task_id.hex(), extra=about)
        return "opened"
