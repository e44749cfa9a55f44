"""What a router tells of how tasks ended: its own directory at once, the others by gossip, as much as they can bear."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Final

import trio

from cactus_mesh.errors import MeshError
from cactus_mesh.messages import Outcome, seal
from cactus_mesh.topics import outcomes_topic

if TYPE_CHECKING:
    from cactus_mesh.clock import Clock
    from cactus_mesh.directory import Directory
    from cactus_mesh.dispatch import Evidence
    from cactus_mesh.identity import Identity
    from cactus_mesh.ports import Network

OUTCOME_VALID_MS: Final = 120_000
OUTCOMES_PER_SECOND: Final = 5
"""What a router gossips at most: every peer of the topic pays 6-12 ms for each.  Its own memory keeps all of them."""

log = logging.getLogger(__name__)


class Outcomes:
    """One router's; `gossip` must run for others to hear of them."""

    def __init__(self, identity: Identity, network: Network, directory: Directory, name: str, clock: Clock) -> None:
        self._identity = identity
        self._network = network
        self._directory = directory
        self._topic = outcomes_topic(name)
        self._clock = clock
        self._into, self._to_publish = trio.open_memory_channel[Outcome](OUTCOMES_PER_SECOND)

    def note(self, outcome: Outcome) -> None:
        """Remember an outcome, and gossip it unless many others wait already."""
        self._directory.fold(outcome, self._identity.public_key)
        with contextlib.suppress(trio.WouldBlock):
            self._into.send_nowait(outcome)

    def convicted(self, evidence: Evidence) -> None:
        """Two verifiers have found that an answer was not what its orchestrator signed."""
        receipt = evidence.receipt.body
        delegated = bool(evidence.chain.delegations)
        self.note(
            Outcome(
                task_id=receipt.task_id,
                orchestrator=evidence.chain.liable,
                delegate=evidence.chain.worker if delegated else None,
                model_digest=receipt.model_digest,
                result="rejected",
                complexity=0,
                compute_ms=0,
                first_token_ms=0,
            )
        )

    async def gossip(self) -> None:
        """Sign and publish what waits, for ever."""
        async for outcome in self._to_publish:
            sealed = seal(outcome, self._identity, now_ms=self._clock(), valid_ms=OUTCOME_VALID_MS)
            try:
                await self._network.publish(self._topic, sealed.raw)
            except MeshError as error:
                log.info("an outcome was not gossiped", extra={"code": error.code})
            await trio.sleep(1 / OUTCOMES_PER_SECOND)
