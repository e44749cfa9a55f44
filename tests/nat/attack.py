"""``python -m tests.nat.attack --home HOME KIND TARGET``: attacks the peer at the address TARGET until its input ends.

KIND is sockets (connections that say nothing, as many and as fast as they go), hellos (handshakes with a false hello),
slots (reservations and circuits of many peers) or addresses (a peer with a thousand addresses, and another's).
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final

import trio

from cactus_mesh.identity import Identity
from cactus_mesh.messages import Hello
from cactus_mesh.net import NetworkSettings, open_network
from cactus_mesh.net.addresses import parse_address
from tests.net.peers import hello
from tests.net.strangers import open_raw_session

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

SOCKETS: Final = 400
SOCKETS_AT_ONCE: Final = 50
HELLOS_AT_ONCE: Final = 4
PEERS: Final = 40
PAUSE_SECONDS: Final = 0.02
LIFE_SECONDS: Final = 10.0


async def sockets(target: str, said: Hello) -> None:
    """Keep opening sockets; each is held until it is closed there."""
    where = parse_address(target)
    limiter = trio.CapacityLimiter(SOCKETS)

    async def hold() -> None:
        async with limiter:
            try:
                with trio.move_on_after(LIFE_SECONDS):
                    async with await trio.open_tcp_stream(where.host, where.port) as stream:
                        await stream.receive_some(1)
                        await stream.receive_some(1)
            except (OSError, trio.BrokenResourceError):
                return

    async with trio.open_nursery() as nursery:
        while True:
            if limiter.available_tokens:
                for _ in range(SOCKETS_AT_ONCE):
                    nursery.start_soon(hold)
            await trio.sleep(SOCKETS_AT_ONCE * PAUSE_SECONDS / 4)


async def hellos(target: str, said: Hello) -> None:
    """Handshakes, one after the other, with the hello of another network."""
    false = hello("client", network="elsewhere")

    async def again(first: int) -> None:
        number = first
        while True:
            number += HELLOS_AT_ONCE
            try:
                with trio.move_on_after(LIFE_SECONDS):
                    async with open_raw_session(number, target, false) as session:
                        await session.hello()
            except Exception:  # whatever it is told
                await trio.sleep(PAUSE_SECONDS)

    async with trio.open_nursery() as nursery:
        for first in range(1_000, 1_000 + HELLOS_AT_ONCE):
            nursery.start_soon(again, first)


async def slots(target: str, said: Hello) -> None:
    """Peers of one address that reserve, and then have circuits to one another."""
    async with AsyncExitStack() as stack:
        settings = NetworkSettings(listen=(), bootstrap=(target,), relays="always")
        crowd = [
            await stack.enter_async_context(open_network(Identity.generate(), settings, said)) for _ in range(PEERS)
        ]
        while True:
            for one in crowd:
                for other in crowd:
                    if other is not one and other.addresses():
                        try:
                            with trio.move_on_after(1.0):
                                await one.connect(other.peer_id, other.addresses())
                        except Exception:  # refused, as it should be
                            await trio.sleep(PAUSE_SECONDS)


async def addresses(target: str, said: Hello) -> None:
    """A peer with a thousand addresses, among them that of the target itself."""
    other = parse_address(target).endpoint
    many = tuple(f"/ip4/11.0.{number // 200 + 100}.{number % 200 + 1}/tcp/4101" for number in range(1_000))
    settings = NetworkSettings(listen=("/ip4/0.0.0.0/tcp/4101",), announce=(other, *many), bootstrap=(target,))
    async with open_network(Identity.generate(), settings, said) as network:
        while True:
            await network.provide("role/router")
            await trio.sleep(1)


ATTACKS: Final[dict[str, Callable[[str, Hello], Awaitable[None]]]] = {
    "sockets": sockets,
    "hellos": hellos,
    "slots": slots,
    "addresses": addresses,
}


async def attack(kind: str, target: str, settings: dict[str, Any]) -> None:
    said = Hello(
        network="local",
        chain_id=settings["chain_id"],
        contract=bytes.fromhex(settings["contract"].removeprefix("0x")),
        version=1,
        roles=["client"],
        agent="attack",
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ATTACKS[kind], target, said)
        print(json.dumps({"event": "ready"}), flush=True)
        async with trio.lowlevel.FdStream(os.dup(0)) as stdin:
            while await stdin.receive_some(4_096):
                pass
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    _, _, _, its_kind, its_target, its_settings = sys.argv
    trio.run(attack, its_kind, its_target, json.loads(its_settings))
