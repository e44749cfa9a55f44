"""Judges gossiped outcomes: only a router that the ledger authorises may speak.  Knows nothing of what they say."""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

import trio

from cactus_mesh.errors import LedgerError, MessageError, MessageExpired, MessageFromFuture
from cactus_mesh.identity import PublicKey, address
from cactus_mesh.messages import Outcome, unseal

if TYPE_CHECKING:
    from cactus_mesh.clock import Clock
    from cactus_mesh.ports import GossipVerdict, Ledger, ServerView

STANDING_MS: Final = 30_000
"""How old a router's standing on the ledger may be before its word has it read again."""
ROUTERS_TO_ASK: Final = 1_024
"""Waiting for a look at the ledger; beyond that a router's next word brings it back."""
MAX_ROUTERS: Final = 4_096

log = logging.getLogger(__name__)


class AuthorisedRouters:
    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock
        self._known: OrderedDict[PublicKey, tuple[ServerView | None, int]] = OrderedDict()
        self._ask, self._to_ask = trio.open_memory_channel[PublicKey](ROUTERS_TO_ASK)
        self._asked: set[PublicKey] = set()

    def judge(self, raw: bytes) -> GossipVerdict:
        now_ms = self._clock()
        try:
            outcome = unseal(raw, Outcome, now_ms=now_ms)
        except (MessageExpired, MessageFromFuture):
            return "ignore"
        except MessageError:
            return "reject"
        view, read_ms = self._known.get(outcome.sender, (None, -STANDING_MS))
        if now_ms - read_ms >= STANDING_MS:
            self._look_up(outcome.sender)
        return "accept" if view is not None and view.authorised(now_ms / 1_000) else "ignore"

    def _look_up(self, router: PublicKey) -> None:
        if router in self._asked:
            return
        try:
            self._ask.send_nowait(router)
        except trio.WouldBlock:
            return
        self._asked.add(router)

    async def run(self) -> None:
        async for router in self._to_ask:
            try:
                view = await self._ledger.server(address(router))
            except LedgerError as error:
                log.warning("cannot read a router's standing", extra={"code": error.code})
            else:
                self._known[router] = (view, self._clock())
                self._known.move_to_end(router)
            if len(self._known) > MAX_ROUTERS:
                self._known.popitem(last=False)
            self._asked.discard(router)
