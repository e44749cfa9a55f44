"""``python -m tests.ledger.kill_devnet [--kills 200]``: kills the embedded ledger again and again, and counts.

Several senders submit transactions; the ledger's process dies at a random moment, before, within or after a commit, or
just after a reply; it is started again and gets everything once more that had no reply.  In the end each transaction
must have been applied exactly once.  The last line is JSON; the exit status is 0 only if nothing was lost or doubled.
"""

from __future__ import annotations

import argparse
import json
import random
import secrets
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import trio

from cactus_mesh.ledger import dev
from cactus_mesh.ledger.connect import http_client
from cactus_mesh.ledger.rest import transaction_hash
from tests.ledger import wire
from tests.ledger.serve import POINTS
from tests.ledger.world import person

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from cactus_mesh.identity import Identity

SENDERS = 6
COINS = 10**12
AMOUNT = 1
MOMENTS = (*POINTS, "after a reply", "any moment")
DAY_SECONDS = 86_400


@dataclass
class Sender:
    """Submits one transaction after the other; *open_* is the one that has no reply yet, *tried* if it was sent."""

    key: Identity
    payee: Identity
    number: int = 0
    open_: bytes | None = None
    tried: bool = False
    sent: set[str] = field(default_factory=set)


@dataclass
class Tally:
    """*cut_before_commit* and *cut_after_commit*: transactions whose reply was lost, and which had, or had not, to run
    again when they were sent again."""

    kills: int = 0
    transactions: int = 0
    applied_once: int = 0
    lost: int = 0
    doubled: int = 0
    replies: int = 0
    cut_before_commit: int = 0
    cut_after_commit: int = 0
    conserved: bool = False
    moments: Counter[str] = field(default_factory=Counter)

    @property
    def flawless(self) -> bool:
        return self.conserved and not self.lost and not self.doubled and self.applied_once == self.transactions


class Ledgers:
    """Processes of one ledger, one alive at a time; the next has already loaded its modules."""

    def __init__(self, home: Path, stack: ExitStack) -> None:
        self._home = home
        self._stack = stack
        self._next = self._load()

    def _load(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.ledger.serve"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._stack.enter_context(process)
        self._stack.callback(process.kill)
        return process

    @asynccontextmanager
    async def life(self, point: str = "", after: int = 0, statement: int = 0) -> AsyncIterator[Life]:
        process, self._next = self._next, self._load()
        order = {"home": str(self._home), "point": point, "after": after, "statement": statement}
        assert process.stdin is not None
        await _line(process)
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()
        url = await _line(process)
        async with http_client(url) as http:
            yield Life(process, url, http)
        process.kill()
        await trio.to_thread.run_sync(process.wait)


@dataclass
class Life:
    process: subprocess.Popen[str]
    url: str
    http: httpx.AsyncClient


async def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    with trio.fail_after(60):
        line = await trio.to_thread.run_sync(process.stdout.readline, abandon_on_cancel=True)
    if not line:
        raise RuntimeError("the ledger did not start")
    return line.strip()


async def torture(home: Path, *, kills: int, seed: int, report: bool = False) -> Tally:
    """Kill the ledger in *home* so many times.  *seed* decides when; what the processes do by then is chance."""
    rng, tally = random.Random(seed), Tally()
    senders = [Sender(person(f"sender {number}"), person(f"payee {number}")) for number in range(SENDERS)]
    with ExitStack() as stack:
        ledgers = Ledgers(home, stack)
        async with ledgers.life() as life:
            for sender in senders:
                await dev.fund(life.url, sender.key.address, COINS)
        for kill in range(kills):
            await _one_kill(ledgers, senders, tally, rng, MOMENTS[kill % len(MOMENTS)])
            if report and kill % 10 == 9:
                print(f"{tally.kills} kills, {tally.replies} replies", flush=True)
        async with ledgers.life() as life:
            for sender in senders:
                await _close(life, sender, tally)
            await _judge(life, senders, tally)
    return tally


async def _one_kill(ledgers: Ledgers, senders: list[Sender], tally: Tally, rng: random.Random, moment: str) -> None:
    async with ledgers.life(moment, rng.randrange(6), rng.randrange(8)) as life:
        replies_left = iter(range(rng.randrange(20)))
        async with trio.open_nursery() as nursery:
            for sender in senders:
                nursery.start_soon(_send_until_it_dies, life, sender, tally, moment, replies_left)
            if moment == "any moment":
                await trio.sleep(rng.uniform(0.0, 0.1))  # the moment of the kill is what is drawn, not awaited
                life.process.kill()
    tally.kills += 1
    tally.moments[moment] += 1


async def _send_until_it_dies(life: Life, sender: Sender, tally: Tally, moment: str, replies_left: object) -> None:
    try:
        while True:
            await _close(life, sender, tally)
            if moment == "after a reply" and next(replies_left, None) is None:
                life.process.kill()
            _next(sender, tally)
    except httpx.TransportError:
        return


def _next(sender: Sender, tally: Tally) -> None:
    expires_at = int(time.time()) + DAY_SECONDS
    function = wire.transfer(sender.payee.address, AMOUNT)
    sender.open_ = wire.signed(sender.key, sender.number, function, expires_at=expires_at)
    sender.number += 1
    sender.tried = False
    sender.sent.add(transaction_hash(sender.open_))
    tally.transactions += 1


async def _close(life: Life, sender: Sender, tally: Tally) -> None:
    """Submit what has no reply, until it has one.  The ledger takes it, or knows it already."""
    if sender.open_ is None:
        return
    again, sender.tried = sender.tried, True
    reply = await life.http.post("/v1/transactions", content=sender.open_, headers=wire.BCS)
    known = reply.status_code == 400 and reply.json()["vm_error_code"] == 3
    if reply.status_code != 202 and not (again and known):
        raise RuntimeError(f"refused: {reply.text}")
    tally.replies += 1
    tally.cut_after_commit += known
    tally.cut_before_commit += again and not known
    sender.open_ = None


async def _judge(life: Life, senders: list[Sender], tally: Tally) -> None:
    """Count what the ledger holds, by its transactions, its sequence numbers and its balances."""
    for sender in senders:
        held = Counter(await _hashes(life, sender))
        account = (await life.http.get(f"/v1/accounts/{sender.key.address}")).json()
        paid = int((await life.http.get(f"/v1/accounts/{sender.payee.address}/balance/0xa")).text)
        once = sum(held[each] == 1 for each in sender.sent)
        tally.applied_once += once
        tally.lost += sum(held[each] == 0 for each in sender.sent) + max(0, once - paid)
        tally.doubled += sum(count > 1 for count in held.values()) + max(0, paid - once)
        if int(account["sequence_number"]) != sender.number or set(held) != sender.sent:
            tally.lost += 1
    tally.conserved = (await dev.audit(life.url)).conserved


async def _hashes(life: Life, sender: Sender) -> list[str]:
    found: list[str] = []
    while True:
        query = {"start": len(found), "limit": 100}
        page = (await life.http.get(f"/v1/accounts/{sender.key.address}/transactions", params=query)).json()
        if not page:
            return found
        found += [each["hash"] for each in page if each["success"]]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.ledger.kill_devnet", description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=None)
    arguments = parser.parse_args()
    seed = secrets.randbits(32) if arguments.seed is None else arguments.seed
    print(f"seed {seed}", flush=True)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="cactus-mesh-kill-") as home:
        tally = trio.run(lambda: torture(Path(home), kills=arguments.kills, seed=seed, report=True))
    print(json.dumps({**vars(tally), "seed": seed, "seconds": round(time.perf_counter() - began, 1)}))
    sys.exit(0 if tally.flawless and tally.kills == arguments.kills else 1)


if __name__ == "__main__":
    main()
