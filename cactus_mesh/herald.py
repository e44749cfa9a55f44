"""Makes this peer known: its signed advert on request, in the DHT, and by gossip as often as the network affords."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import trio

from cactus_mesh.clock import wall_clock
from cactus_mesh.concurrency import open_service_nursery
from cactus_mesh.core.adverts import heartbeat_seconds, lease_seconds
from cactus_mesh.core.serving import Load
from cactus_mesh.directory import ADVERT_METHOD, role_key
from cactus_mesh.errors import MeshError
from cactus_mesh.messages import MAX_VALIDITY_MS, Advert, seal
from cactus_mesh.topics import adverts_topic

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trio import TaskStatus

    from cactus_mesh.clock import Clock
    from cactus_mesh.identity import Identity
    from cactus_mesh.messages import ModelOffer, Role, Sealed
    from cactus_mesh.ports import Call, Network

ADVERTS_AT_ONCE: Final = 64
LEAST_SHARE_OF_HEARTBEAT: Final = 0.2
"""Of a heartbeat lies between two adverts of one peer, however fast its load changes."""

log = logging.getLogger(__name__)


class Herald:
    """One peer's word on itself.  *load* is asked at each advert; *peers_seen* is how large the network looks."""

    def __init__(
        self,
        identity: Identity,
        network: Network,
        name: str,
        roles: Sequence[Role],
        *,
        offers: Sequence[ModelOffer] = (),
        engine: str = "",
        region: str = "",
        load: Callable[[], Load] = lambda: Load(0, 0),
        peers_seen: Callable[[], int] = lambda: 0,
        clock: Clock = wall_clock,
    ) -> None:
        self._identity = identity
        self._network = network
        self._name = name
        self._roles = list(roles)
        self._offers = list(offers)
        self._engine = engine
        self._region = region
        self._load = load
        self._peers_seen = peers_seen
        self._clock = clock
        self._sequence = 0
        self._changed = trio.Event()

    def load_changed(self) -> None:
        """Say so soon: a slot was taken or came free."""
        self._changed.set()

    def advert(self) -> Sealed[Advert]:
        """A new advert, valid for a few heartbeats."""
        now_ms = self._clock()
        self._sequence = max(self._sequence + 1, now_ms)  # grows also over a restart
        load = self._load()
        body = Advert(
            sequence=self._sequence,
            roles=self._roles,
            addresses=self._network.addresses()[:16],
            models=self._offers,
            slots=load.slots,
            busy=load.busy,
            region=self._region,
            engine=self._engine,
        )
        valid_ms = min(MAX_VALIDITY_MS, int(lease_seconds(self._peers_seen()) * 1_000))
        return seal(body, self._identity, now_ms=now_ms, valid_ms=valid_ms)

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve, provide and gossip the advert until cancelled."""
        self._network.serve(ADVERT_METHOD, self._answer, at_once=ADVERTS_AT_ONCE)
        async with open_service_nursery() as nursery:
            for role in self._roles:
                nursery.start_soon(self._network.provide, role_key(role))
            task_status.started()
            while True:
                await self._publish()
                heartbeat = heartbeat_seconds(self._peers_seen())
                await trio.sleep(heartbeat * LEAST_SHARE_OF_HEARTBEAT)
                with trio.move_on_after(heartbeat):
                    await self._changed.wait()
                self._changed = trio.Event()

    async def _answer(self, call: Call) -> None:
        await call.send(self.advert().raw)

    async def _publish(self) -> None:
        raw = self.advert().raw
        for offer in self._offers:
            try:
                await self._network.publish(adverts_topic(self._name, offer.name), raw)
            except MeshError as error:
                log.info("an advert was not gossiped", extra={"code": error.code})
