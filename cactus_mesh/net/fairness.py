"""Who may use how much of what strangers share: turns on a line of limited rate, and places by range of addresses.

Decides by keys and numbers alone; knows nothing of relays or connections.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Final

import trio
from sortedcontainers import SortedKeyList

if TYPE_CHECKING:
    from collections.abc import Hashable

BURST_SECONDS: Final = 0.01
"""Of the rate, that may pass at once: what little traffic there is never waits, and no greedy one is far ahead."""
PRECISION_SECONDS: Final = 1e-6
"""Below which waiting is not worth a sleep, nor a sleep told from none."""
IP4_RANGE_BITS: Final = 24
IP6_RANGE_BITS: Final = 48
"""What one customer can easily have many addresses of."""


def address_range(host: str) -> str | None:
    """The range that *host*, an IP address, belongs to; None for those of this machine and its LAN, which nobody far
    away can use, and for what is no IP address."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if not address.is_global:
        return None
    bits = IP4_RANGE_BITS if address.version == 4 else IP6_RANGE_BITS
    return str(ipaddress.ip_network((address, bits), strict=False))


@dataclass(slots=True, eq=False)
class _Place:
    """In the line; *first* is set when it has become the first."""

    start: float
    first: trio.Event


class FairLine:
    """Lets *bytes_per_second* pass, in turns that are fair among keys, whatever each of them asks for.

    Start-time fair queueing (Goyal, Vin and Cheng, 1996): who has had less goes first.
    """

    def __init__(self, bytes_per_second: float) -> None:
        self._rate = bytes_per_second
        self._burst = bytes_per_second * BURST_SECONDS
        self._allowance = self._burst
        self._filled_at = trio.current_time()
        self._virtual = 0.0
        self._had: dict[Hashable, float] = {}
        """By key, until what virtual time it has been served; emptied whenever nobody waits."""
        self._waiting: SortedKeyList[_Place, float] = SortedKeyList(key=attrgetter("start"))

    async def turn(self, key: Hashable, size: int) -> None:
        """Wait until *size* bytes of *key* may pass.  Cancelled, it has used nothing."""
        if self._waiting or self._seconds_short() > 0:
            start = max(self._virtual, self._had.get(key, 0.0))
            self._had[key] = start + size
            await self._wait(_Place(start, trio.Event()))
            self._virtual = start if self._waiting else 0.0
        self._allowance -= size

    async def _wait(self, place: _Place) -> None:
        """Until *place* is the first and the line is free."""
        self._waiting.add(place)
        try:
            while True:
                if self._waiting[0] is not place:
                    place.first = trio.Event()
                    await place.first.wait()
                elif (short := self._seconds_short()) > 0:
                    await trio.sleep(short)
                else:
                    return
        finally:
            self._waiting.remove(place)
            if self._waiting:
                self._waiting[0].first.set()
            else:
                self._had.clear()

    def _seconds_short(self) -> float:
        """Until the next bytes may pass; the allowance may go below nothing, by one turn."""
        now = trio.current_time()
        self._allowance = min(self._burst, self._allowance + (now - self._filled_at) * self._rate)
        self._filled_at = now
        short = -self._allowance / self._rate
        return short if short > PRECISION_SECONDS else 0.0
