"""``python -m tests.nat.soak --minutes 15``: a mesh that lives while peers join and leave every few seconds.

Prints JSON: tasks and how they ended, and the memory and open sockets of those who stay, from the first and the last
third of the time.  Exits with 1 when a task had no named end or something grew.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import trio

from tests.nat.lab import Lab, OrderFailed, open_lab
from tests.nat.namespaces import why_not
from tests.nat.routers import KINDS

if TYPE_CHECKING:
    from tests.nat.lab import Process

CROWD: Final = 10
"""Clients of one process that take turns; each home is used again and again."""
VISITORS: Final = 3
PAUSE_SECONDS: Final = 3.0
VISIT_SECONDS: Final = 20.0
TASK_SECONDS: Final = 30.0
SAMPLE_SECONDS: Final = 5.0
WARM_UP_SECONDS: Final = 30.0
"""Caches and address books fill; what grows after that is a leak."""
MEMORY_GROWTH: Final = 0.10
SOCKET_GROWTH: Final = 8
"""Between the means of the first and the last third."""


@dataclass
class Diary:
    ends: Counter[str] = field(default_factory=Counter)
    visits: int = 0
    memory: dict[str, list[int]] = field(default_factory=dict)
    sockets: dict[str, list[int]] = field(default_factory=dict)

    def sample(self, process: Process) -> None:
        self.memory.setdefault(process.name, []).append(process.memory_bytes())
        self.sockets.setdefault(process.name, []).append(process.sockets())

    def unnamed(self) -> int:
        """Tasks without an end that says what happened."""
        return sum(
            count for end, count in self.ends.items() if end != "completed" and ("." not in end or "lab." in end)
        )


async def soak(minutes: float, seed: int) -> dict[str, Any]:
    rng = random.Random(seed)
    diary = Diary()
    async with open_lab(relays=2) as lab:
        router = await lab.node("router", "router", "public")
        await lab.node("orchestrator", "orchestrator", "random", {"slots": 64, "delay_seconds": 0.05})
        client = await lab.node("client", "client", "preserving")
        await lab.acquainted(router, "fake")
        staying = [process for name, process in lab.processes.items() if name not in ("purse", "ledger")]
        crowds = [await lab.crowd(f"crowd-{kind}", kind, CROWD) for kind in ("public", "changing", "random")]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_ask, client, diary)
            for crowd in crowds:
                nursery.start_soon(_visit, crowd, diary, rng)
            for number in range(VISITORS):
                nursery.start_soon(_come_and_go, lab, number, diary, rng)
            nursery.start_soon(_sample, staying, diary)
            await trio.sleep(60 * minutes)
            nursery.cancel_scope.cancel()
    return _figures(diary, minutes, seed)


async def _ask(client: Process, diary: Diary) -> None:
    """One task after the other."""
    while True:
        try:
            await client.do("ask", model="fake", deadline=TASK_SECONDS, within=2 * TASK_SECONDS)
            diary.ends["completed"] += 1
        except OrderFailed as error:
            diary.ends[error.code] += 1
        except trio.TooSlowError:
            diary.ends["no end"] += 1


async def _visit(crowd: Process, diary: Diary, rng: random.Random) -> None:
    """Clients that join, have one task done and leave."""
    number = 0
    while True:
        count = rng.randint(1, 2)
        ends = await crowd.do("join", model="fake", first=number % (CROWD - 1), count=count, patience=TASK_SECONDS)
        diary.ends.update(end if isinstance(end, str) else "completed" for end in ends)
        diary.visits += count
        number += count
        await trio.sleep(rng.uniform(0, PAUSE_SECONDS))


async def _come_and_go(lab: Lab, number: int, diary: Diary, rng: random.Random) -> None:
    """Orchestrators of other models that start, stay a while and go: in order, or by being killed."""
    name = f"visitor{number}"
    machine = lab.machine(name, rng.choice(KINDS))
    while True:
        if name in lab.processes:
            visitor = await lab.restart(lab.processes[name])
        else:
            visitor = await lab.node(name, "orchestrator", machine, {"model": name})
        diary.visits += 1
        await trio.sleep(rng.uniform(0.2, 1.0) * VISIT_SECONDS)
        await (visitor.kill() if rng.random() < 0.5 else visitor.stop())


async def _sample(staying: list[Process], diary: Diary) -> None:
    await trio.sleep(WARM_UP_SECONDS)
    while True:
        for process in staying:
            diary.sample(process)
        await trio.sleep(SAMPLE_SECONDS)


def _figures(diary: Diary, minutes: float, seed: int) -> dict[str, Any]:
    memory = {name: _thirds(values) for name, values in diary.memory.items()}
    sockets = {name: _thirds(values) for name, values in diary.sockets.items()}
    flat = all(last <= first * (1 + MEMORY_GROWTH) for first, last in memory.values())
    return {
        "minutes": minutes,
        "seed": seed,
        "tasks": diary.ends.total(),
        "ends": dict(diary.ends),
        "without_named_end": diary.unnamed(),
        "joined_and_left": diary.visits,
        "memory_mib": {name: [round(value / 2**20, 1) for value in pair] for name, pair in memory.items()},
        "sockets": {name: [round(value, 1) for value in pair] for name, pair in sockets.items()},
        "memory_flat": flat,
        "sockets_flat": all(last <= first + SOCKET_GROWTH for first, last in sockets.values()),
    }


def _thirds(values: list[int]) -> tuple[float, float]:
    """The means of the first and of the last third."""
    third = max(1, len(values) // 3)
    return statistics.mean(values[:third]), statistics.mean(values[-third:])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.nat.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    if why_not():
        sys.exit(f"the lab cannot be made here: {why_not()}")
    figures = trio.run(soak, arguments.minutes, arguments.seed)
    print(json.dumps(figures))
    sound = not figures["without_named_end"] and figures["memory_flat"] and figures["sockets_flat"]
    sys.exit(0 if sound else 1)


if __name__ == "__main__":
    main()
