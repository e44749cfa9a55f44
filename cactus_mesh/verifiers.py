"""Whom a router has an answer replayed by: its own engine first, then orchestrators drawn by lot, weighted by stake.

Nobody judges himself: not who had a part in the task, not another machine of the same owner, and nobody twice.
"""

from __future__ import annotations

import logging
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Literal

import trio

from cactus_mesh.core.draws import by_lot
from cactus_mesh.core.exhibits import Proof
from cactus_mesh.errors import Busy, MeshError
from cactus_mesh.identity import address, peer_id
from cactus_mesh.messages import MAX_VALIDITY_MS, Finding, seal, unseal
from cactus_mesh.routed import need_of
from cactus_mesh.verifying import AUDIT_METHOD, can_replay, find

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from cactus_mesh.clock import Clock
    from cactus_mesh.core.delegation import Chain
    from cactus_mesh.core.exhibits import Opinion
    from cactus_mesh.core.matching import Candidate
    from cactus_mesh.core.requests import Contract
    from cactus_mesh.directory import Directory
    from cactus_mesh.identity import Identity, PublicKey
    from cactus_mesh.messages import Audit, Sealed
    from cactus_mesh.ports import Engine, Ledger, Network

MAX_ASKED: Final = 5
"""Orchestrators asked for one replay."""
CANDIDATES: Final = 100
"""Looked at when lots are drawn."""
FINDING_SECONDS: Final = 120.0
"""One pass over prompt and answer, on a slow machine."""
ROUNDS: Final = 5
ROUND_SECONDS: Final = 10.0
"""Between two rounds when all who could replay it are busy."""
_ANY_PRICE: Final = 2**63 - 1

log = logging.getLogger(__name__)


class Verifiers:
    def __init__(
        self,
        identity: Identity,
        network: Network,
        ledger: Ledger,
        directory: Directory,
        contract: Contract,
        clock: Clock,
        engine: Engine | None,
    ) -> None:
        self.contract = contract
        self.clock = clock
        self._identity = identity
        self._network = network
        self._ledger = ledger
        self._directory = directory
        self._engine = engine
        self._lots = random.SystemRandom()

    async def ask(
        self,
        audit: Audit,
        chain: Chain,
        without: frozenset[PublicKey],
        judge: Callable[[Sealed[Finding]], Awaitable[Opinion]],
    ) -> tuple[Proof, Opinion] | None:
        """A finding and what *judge* makes of it; None when nobody has made one.

        By none of *without*, by nobody who had a part in *chain*, nor by another machine of these parties' owners.
        *judge* raises a `MeshError` on a finding that is none.
        """
        if self._engine is not None and self._identity.public_key not in without and can_replay(self._engine, audit):
            found = await self._attempt(self._here(self._engine, audit), self._identity.public_key, judge)
            if isinstance(found, tuple):
                return found
        for _ in range(ROUNDS):
            found = await self._one_round(audit, chain, without, judge)
            if found != "busy":
                return found
            await trio.sleep(ROUND_SECONDS)
        return None

    async def _one_round(
        self,
        audit: Audit,
        chain: Chain,
        without: frozenset[PublicKey],
        judge: Callable[[Sealed[Finding]], Awaitable[Opinion]],
    ) -> tuple[Proof, Opinion] | Literal["busy"] | None:
        candidates, busy = self._draw_lots(chain, without), False
        owners = await self._owners(chain, without) if candidates else set()
        for candidate in candidates[:MAX_ASKED]:
            view = await self._ledger.orchestrator(address(candidate.orchestrator))
            if view is None or view.owner in owners:
                continue
            found = await self._attempt(self._there(audit, candidate), candidate.orchestrator, judge)
            if isinstance(found, tuple):
                return found
            busy |= found == "busy"
        return "busy" if busy else None

    async def _attempt(
        self,
        replay: Awaitable[tuple[Proof, Sealed[Finding]]],
        verifier: PublicKey,
        judge: Callable[[Sealed[Finding]], Awaitable[Opinion]],
    ) -> tuple[Proof, Opinion] | Literal["busy"] | None:
        try:
            with trio.fail_after(FINDING_SECONDS):
                proof, finding = await replay
            return proof, await judge(finding)
        except Busy:
            return "busy"
        except (MeshError, trio.TooSlowError) as error:
            why = getattr(error, "code", "timeout")
            log.warning("a replay was not made", extra={"peer": peer_id(verifier), "why": why})
            return None

    def _draw_lots(self, chain: Chain, without: frozenset[PublicKey]) -> list[Candidate]:
        """In an order that nobody can foresee: chances are by stake, which unlike names is not free."""
        parties = {chain.liable, chain.router, chain.request.client, self._identity.public_key, *without}
        parties |= {link.recipient for link in chain.delegations if link.recipient is not None}
        need = replace(
            need_of(chain.request, 0.0),
            model_digest=chain.assignment.body.offer.digest,
            max_price=_ANY_PRICE,
            without=frozenset(parties),
        )
        try:
            found = self._directory.rank(need, limit=CANDIDATES)
        except MeshError as error:
            log.info("nobody can replay an answer", extra={"code": error.code})
            return []
        staked = [each for each in found if each.stake > 0]
        return [staked[at] for at in by_lot([each.stake for each in staked], self._lots.random)]

    async def _owners(self, chain: Chain, without: frozenset[PublicKey]) -> set[str]:
        """The accounts behind those who had a part in it."""
        workers = {chain.liable, *without, *(each.recipient for each in chain.delegations if each.recipient)}
        views = [await self._ledger.orchestrator(address(worker)) for worker in workers]
        return {view.owner for view in views if view is not None}

    async def _here(self, engine: Engine, audit: Audit) -> tuple[Proof, Sealed[Finding]]:
        mine = self._seal(audit, self._identity.public_key)
        finding = await find(mine, self._identity, engine, self.clock)
        return Proof(mine.raw, finding.raw), finding

    async def _there(self, audit: Audit, candidate: Candidate) -> tuple[Proof, Sealed[Finding]]:
        sealed = self._seal(audit, candidate.orchestrator)
        peer = await self._directory.reach(candidate.orchestrator)
        raw = await self._network.ask(peer, AUDIT_METHOD, sealed.raw)
        me = self._identity.public_key
        finding = unseal(raw, Finding, now_ms=self.clock(), sender=candidate.orchestrator, recipient=me)
        return Proof(sealed.raw, raw), finding

    def _seal(self, audit: Audit, recipient: PublicKey) -> Sealed[Audit]:
        return seal(audit, self._identity, now_ms=self.clock(), valid_ms=MAX_VALIDITY_MS, recipient=recipient)
