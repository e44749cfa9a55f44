"""Who is out there: finds orchestrators, keeps their adverts and standings, and ranks them for a task.

The I/O around `core.adverts`, `core.reputation` and `core.matching`; routers match with it, orchestrators delegate.
An advert counts only once the ledger has shown its sender's stake: names are free, stake is not.
"""

from __future__ import annotations

import contextlib
import heapq
import logging
import random
from collections import OrderedDict
from itertools import islice
from typing import TYPE_CHECKING, Final

import trio

from cactus_mesh.authorised import AuthorisedRouters
from cactus_mesh.clock import wall_clock
from cactus_mesh.concurrency import open_service_nursery
from cactus_mesh.core.adverts import AdvertBook, heartbeat_seconds
from cactus_mesh.core.matching import Candidate, Index
from cactus_mesh.core.reputation import Reputation
from cactus_mesh.errors import LedgerError, MeshError, MessageError, MessageExpired, MessageFromFuture
from cactus_mesh.identity import PublicKey, address, peer_id, public_key_of
from cactus_mesh.messages import Advert, Outcome, unseal
from cactus_mesh.topics import Topics, adverts_topic, outcomes_topic

if TYPE_CHECKING:
    from trio import TaskStatus

    from cactus_mesh.clock import Clock
    from cactus_mesh.core.matching import Need, Weights
    from cactus_mesh.core.reputation import Standing
    from cactus_mesh.identity import PeerId
    from cactus_mesh.messages import Role, Sealed
    from cactus_mesh.ports import GossipVerdict, Ledger, Network, OrchestratorView

ADVERT_METHOD: Final = "mesh.advert"
PROBE_SECONDS: Final = 15.0
"""A peer that does not give its advert in this time is left for the next round; long enough to find out that it has
moved, and where to."""
FIRST_LOOK_SECONDS: Final = 2.0
"""Between looks into the DHT while nobody is known; later as seldom as heartbeats come."""
STANDING_MS: Final = 30_000
"""How old a standing on the ledger may be before an advert has it read again."""
FIRST_SILENT_MS: Final = 10_000
SILENT_MS: Final = 300_000
"""How long a peer that gave no advert is left alone, at first and, doubled each time, at most: the DHT names dead
providers for a while, but one that has only just joined, or a relay that is busy, deserves another try soon."""
UPKEEP_SECONDS: Final = 1.0
PEERS_TO_EXAMINE: Final = 1_024
"""Waiting for a look at the ledger; beyond that a peer's next advert brings it back."""
EXAMINERS: Final = 8
MAX_STANDINGS: Final = 200_000
MAX_WARM_CONNECTIONS: Final = 128
"""Orchestrators kept connected ahead of need; the rest are dialled when chosen."""
MAX_UNRATED: Final = 64
"""Left for whoever looks next, some 3 ms of work."""
ADVERTS_LOOKED_AT: Final = 4_096
"""By who only wants to show some; it takes a millisecond or two."""

log = logging.getLogger(__name__)


def role_key(role: Role) -> str:
    """The DHT key under which peers of *role* provide."""
    return f"role/{role}"


class Directory:
    """Everything this peer knows of orchestrators.  `run` keeps it current; the rest are quick reads and notes."""

    def __init__(
        self, network: Network, ledger: Ledger, me: PublicKey, name: str, weights: Weights, clock: Clock = wall_clock
    ) -> None:
        self.book = AdvertBook()
        self.reputation = Reputation(me)
        self._index = Index(weights)
        self._unrated: OrderedDict[PublicKey, None] = OrderedDict()
        self._network = network
        self._ledger = ledger
        self._me = me
        self._name = name
        self._clock = clock
        self._rng = random.Random()
        self._standings: OrderedDict[PublicKey, tuple[OrchestratorView | None, int]] = OrderedDict()
        self._pending: OrderedDict[PublicKey, Sealed[Advert]] = OrderedDict()
        self._silent: dict[PeerId, tuple[int, int]] = {}
        """Until when, and for how long, a peer is left alone."""
        self._rtts: dict[PublicKey, float] = {}
        self._under_way: dict[PublicKey, int] = {}
        self._full: dict[PublicKey, int] = {}
        self._renewing: set[PublicKey] = set()
        self._routers = AuthorisedRouters(ledger, clock)
        self._work, self._to_examine = trio.open_memory_channel[PublicKey](PEERS_TO_EXAMINE)
        self._topics = Topics(network, name, self.hear)

    # --- reads ---------------------------------------------------------------------------------------------------

    @property
    def index(self) -> Index:
        """Where every orchestrator stands now, for each model."""
        while self._unrated:
            self._rate(self._unrated.popitem()[0])
        return self._index

    def rank(self, need: Need, *, limit: int) -> list[Candidate]:
        """The best orchestrators for *need*; raises what stands in the way (see `core.matching`)."""
        return self.index.rank(need, now_ms=self._clock(), rng=self._rng, limit=limit)

    def most_staked(self, limit: int) -> list[tuple[Sealed[Advert], OrchestratorView, Standing]]:
        """Who is known with the most stake, of the first `ADVERTS_LOOKED_AT`: advert, view of the ledger, standing."""
        found = [
            (self._standings.get(each.sender, (None, 0))[0], each) for each in islice(self.book, ADVERTS_LOOKED_AT)
        ]
        staked = [(view, each) for view, each in found if view is not None]
        best = heapq.nlargest(limit, staked, key=lambda pair: (pair[0].stake, pair[1].sender))
        return [(each, view, self._standing(each.sender, view)) for view, each in best]

    def _standing(self, orchestrator: PublicKey, view: OrchestratorView) -> Standing:
        on_ledger = view.completed, view.failed + view.timed_out
        return self.reputation.standing(orchestrator, self._clock() / 1_000, on_ledger=on_ledger)

    async def reach(self, peer: PublicKey) -> PeerId:
        """Make sure of a connection.  Raises `PeerUnreachable`."""
        known = self.book.get(peer)
        await self._network.connect(peer_id(peer), known.body.addresses if known else (), hearsay=True)
        return peer_id(peer)

    # --- notes ---------------------------------------------------------------------------------------------------

    def begin_task(self, orchestrator: PublicKey) -> None:
        """Count a task of ours at *orchestrator*, ahead of its next advert."""
        self._under_way[orchestrator] = self._under_way.get(orchestrator, 0) + 1
        self._rate_later(orchestrator)

    def end_task(self, orchestrator: PublicKey) -> None:
        self._under_way[orchestrator] -= 1
        if not self._under_way[orchestrator]:
            del self._under_way[orchestrator]
        self._rate_later(orchestrator)

    def found_full(self, orchestrator: PublicKey) -> None:
        """It refused a task for want of room: leave it alone until its next advert."""
        advert = self.book.get(orchestrator)
        if advert is not None:
            self._full[orchestrator] = advert.body.sequence
            self._rate_later(orchestrator)

    def fold(self, outcome: Outcome, router: PublicKey) -> None:
        """Take an authorised router's word, or our own, into the reputation."""
        if self.reputation.fold(outcome, router, self._clock() / 1_000):
            self._rate_later(outcome.orchestrator)

    def hear(self, raw: bytes, topic: str | None = None) -> GossipVerdict:
        """Take in an advert; the answer is what gossip should do with it.

        One of a sender whose stake is not known yet waits for a look at the ledger and is not passed on.
        """
        now_ms = self._clock()
        try:
            advert = unseal(raw, Advert, now_ms=now_ms)
        except (MessageExpired, MessageFromFuture):
            return "ignore"
        except MessageError:
            return "reject"
        if topic is not None and topic not in [adverts_topic(self._name, o.name) for o in advert.body.models]:
            return "reject"
        if advert.sender == self._me or "orchestrator" not in advert.body.roles:
            return "ignore"
        view, read_ms = self._standings.get(advert.sender, (None, -STANDING_MS))
        if now_ms - read_ms >= STANDING_MS:
            self._examine_later(advert)
        if view is None or not self.book.hear(advert, now_ms):
            return "ignore"
        self._rate_later(advert.sender)
        return "accept"

    def _examine_later(self, advert: Sealed[Advert]) -> None:
        waiting = advert.sender in self._pending
        self._pending[advert.sender] = advert
        if waiting:
            return
        try:
            self._work.send_nowait(advert.sender)
        except trio.WouldBlock:
            del self._pending[advert.sender]

    def _rate_later(self, orchestrator: PublicKey) -> None:
        """Something about *orchestrator* has changed: for who looks next, however often it changes until then."""
        self._unrated[orchestrator] = None
        if len(self._unrated) > MAX_UNRATED:
            self._rate(self._unrated.popitem(last=False)[0])

    def _rate(self, orchestrator: PublicKey) -> None:
        """Work out again where *orchestrator* stands for each model that it offers."""
        advert, view = self.book.get(orchestrator), self._standings.get(orchestrator, (None, 0))[0]
        if advert is None or view is None:
            self._index.put(orchestrator, ())
            return
        busy = max(advert.body.busy, self._under_way.get(orchestrator, 0))
        if self._full.get(orchestrator) == advert.body.sequence:
            busy = advert.body.slots
        else:
            self._full.pop(orchestrator, None)
        standing = self._standing(orchestrator, view)
        self._index.put(
            orchestrator,
            [
                Candidate(
                    orchestrator=orchestrator,
                    offer=offer,
                    slots=advert.body.slots,
                    busy=busy,
                    stake=0 if view.frozen else view.stake,
                    success=standing.success,
                    ms_per_gflop=standing.ms_per_gflop,
                    rtt_ms=self._rtts.get(orchestrator),
                    lease_ends_ms=advert.expires_at_ms,
                )
                for offer in advert.body.models
            ],
        )

    # --- services ------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the directory current until cancelled."""
        async with open_service_nursery() as nursery:
            for _ in range(EXAMINERS):
                nursery.start_soon(self._examine)
            nursery.start_soon(self._topics.run)
            await nursery.start(self._greet)
            await nursery.start(self._listen_to_routers)
            nursery.start_soon(self._look_around)
            nursery.start_soon(self._upkeep)
            task_status.started()
            await trio.sleep_forever()

    async def _greet(self, *, task_status: TaskStatus[None]) -> None:
        """Ask every orchestrator that connects for its advert."""
        async with self._network.watch() as arrivals, trio.open_nursery() as nursery:
            task_status.started()
            for known in self._network.peers():
                if "orchestrator" in known.roles:
                    nursery.start_soon(self._probe, known.peer)
            async for arrival in arrivals:
                if "orchestrator" in arrival.roles:
                    nursery.start_soon(self._probe, arrival.peer)

    async def _look_around(self) -> None:
        """Ask the peers that the DHT names and nobody has heard for their adverts, a few at a time."""
        limiter = trio.CapacityLimiter(EXAMINERS)
        while True:
            async with trio.open_nursery() as nursery:
                for found in await self._strangers():
                    nursery.start_soon(self._probe, found, limiter)
            await trio.sleep(heartbeat_seconds(len(self.book)) if len(self.book) else FIRST_LOOK_SECONDS)

    async def _strangers(self) -> list[PeerId]:
        try:
            found = await self._network.providers(role_key("orchestrator"))
        except MeshError as error:
            log.info("cannot look for orchestrators", extra={"code": error.code})
            return []
        now_ms = self._clock()
        self._silent = {peer: known for peer, known in self._silent.items() if known[0] > now_ms - SILENT_MS}
        due = [peer for peer in found[:PEERS_TO_EXAMINE] if self._silent.get(peer, (0, 0))[0] <= now_ms]
        return [peer for peer in due if self._is_stranger(peer)]

    def _is_stranger(self, peer: PeerId) -> bool:
        try:
            return peer != self._network.peer_id and self.book.get(public_key_of(peer)) is None
        except ValueError:
            return False  # another kind of key: not one of ours

    async def _probe(self, peer: PeerId, limiter: trio.CapacityLimiter | None = None) -> None:
        try:
            async with limiter or contextlib.nullcontext():
                with trio.fail_after(PROBE_SECONDS):
                    raw = await self._network.ask(peer, ADVERT_METHOD, b"")
        except (MeshError, trio.TooSlowError) as error:
            log.info("no advert from a peer", extra={"peer": peer, "why": getattr(error, "code", "timeout")})
            pause = min(2 * self._silent[peer][1], SILENT_MS) if peer in self._silent else FIRST_SILENT_MS
            self._silent[peer] = (self._clock() + pause, pause)
            return
        self._silent.pop(peer, None)
        self.hear(raw)

    async def _examine(self) -> None:
        """Read pending senders' standings from the ledger, and take in the adverts of those with a stake."""
        async for sender in self._to_examine.clone():
            try:
                view = await self._ledger.orchestrator(address(sender))
            except LedgerError as error:
                log.warning("cannot read a standing from the ledger", extra={"code": error.code})
                del self._pending[sender]
                await trio.sleep(UPKEEP_SECONDS)
                continue
            advert = self._pending.pop(sender)
            self._standings[sender] = (view, self._clock())
            self._standings.move_to_end(sender)
            if len(self._standings) > MAX_STANDINGS:
                self._standings.popitem(last=False)
            if view is None:
                self.book.forget(sender)
                log.info("an orchestrator without a stake is left out", extra={"peer": peer_id(sender)})
            else:
                self.book.hear(advert, self._clock())
                await self._welcome(advert)
            self._rate_later(sender)

    async def _welcome(self, advert: Sealed[Advert]) -> None:
        self._topics.join(offer.name for offer in advert.body.models)
        if len(self._network.peers()) < MAX_WARM_CONNECTIONS:
            try:
                with trio.fail_after(PROBE_SECONDS):
                    await self.reach(advert.sender)
            except (MeshError, trio.TooSlowError):
                log.info("an orchestrator cannot be reached yet", extra={"peer": peer_id(advert.sender)})

    async def _listen_to_routers(self, *, task_status: TaskStatus[None]) -> None:
        async with (
            self._network.subscribe(outcomes_topic(self._name), self._routers.judge) as outcomes,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(self._routers.run)
            task_status.started()
            async for gossip in outcomes:
                outcome = unseal(gossip.data, Outcome, now_ms=None)
                if outcome.sender != self._me:
                    self.fold(outcome.body, outcome.sender)

    async def _upkeep(self) -> None:
        """End leases, and note round-trip times that have changed enough to matter."""
        async with trio.open_nursery() as nursery:
            while True:
                self._keep_current(nursery)
                await trio.sleep(UPKEEP_SECONDS)

    def _keep_current(self, nursery: trio.Nursery) -> None:
        for gone in self.book.expire(self._clock()):
            self._full.pop(gone, None)
            self._rate(gone)
        connected = self._network.peers()
        for peer in connected:
            if peer.rtt_ms is not None and not _alike(self._rtts.get(peer.public_key), peer.rtt_ms):
                self._rtts[peer.public_key] = peer.rtt_ms
                self._rate(peer.public_key)
        self._rtts = {peer: rtt for peer, rtt in self._rtts.items() if self.book.get(peer)}
        for key in self._overdue({peer.public_key for peer in connected}):
            self._renewing.add(key)
            nursery.start_soon(self._renew, key)

    def _overdue(self, connected: set[PublicKey]) -> list[PublicKey]:
        """Those *connected* whose last adverts gossip has lost: they are asked before their lease ends."""
        before_ms = self._clock() + int(heartbeat_seconds(len(self.book)) * 1_000)
        ending = [key for key in self.book.ending(before_ms) if key in connected and key not in self._renewing]
        return ending[: max(EXAMINERS - len(self._renewing), 0)]

    async def _renew(self, key: PublicKey) -> None:
        try:
            await self._probe(peer_id(key))
        finally:
            self._renewing.discard(key)


def _alike(old_ms: float | None, new_ms: float) -> bool:
    return old_ms is not None and abs(new_ms - old_ms) <= max(1.0, 0.2 * old_ms)
