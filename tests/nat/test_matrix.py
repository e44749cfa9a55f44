"""A covering subset of the matrix: `python -m tests.nat.matrix` runs all of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import trio

from tests.nat.lab import FIND_SECONDS, open_lab
from tests.nat.matrix import COVERING, PATIENCE_SECONDS, every_pair, figures, run_pairs, table, third
from tests.nat.routers import KINDS

if TYPE_CHECKING:
    from tests.nat.lab import Lab, Process


async def test_a_task_is_done_between_every_kind_of_network_and_those_that_can_meet_directly_do() -> None:
    outcome = await run_pairs(COVERING, routers=("changing", "random"))
    rows = outcome.rows
    print(table(rows))
    assert outcome.strays == {}
    assert [row for row in rows if not row.completed] == []
    assert [row for row in rows if row.direct_expected and not row.in_time] == []
    assert [row for row in rows if row.direct and not row.direct_expected] == []
    assert figures(rows) == {"pairs": 8, "completed": 8, "direct_expected": 6, "direct_reached": 6}


def test_the_subset_covers_each_kind_on_each_side() -> None:
    assert {client for client, _ in COVERING} == {orchestrator for _, orchestrator in COVERING} == set(KINDS)


def test_the_router_of_a_pair_is_on_a_third_kind_and_each_kind_has_its_turn() -> None:
    routers = [third(*pair) for pair in every_pair()]
    assert all(router not in pair for router, pair in zip(routers, every_pair(), strict=True))
    assert min(routers.count(kind) for kind in KINDS) >= 4


async def said_by(lab: Lab, process: Process) -> dict[str, Any]:
    """What ``cactus-mesh status`` says on its machine."""
    done = await lab.command(process.name, process.machine, "status", "--json")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


async def test_two_machines_with_the_real_model_behind_symmetric_nats_and_a_private_router() -> None:
    """What users run, as they run it: ``cactus-mesh run`` and ``cactus-mesh ask``."""
    async with open_lab(relays=1) as lab:
        orchestrator = await lab.run("orchestrator", "orchestrator", "random", "--model", "selftest")
        router = await lab.run("router", "router", "preserving")
        asker = lab.machine("asker", "random")
        await lab.enrol("asker", "client")
        given = ("--bootstrap", lab.address(lab.relays[0]), "--ledger", lab.chain["url"], "--json")
        with trio.fail_after(FIND_SECONDS):
            while not (await said_by(lab, router)).get("models_known"):  # noqa: ASYNC110 - as a user would
                await trio.sleep(0.5)
        with trio.fail_after(4 * PATIENCE_SECONDS):
            done = await lab.command("asker", asker, "ask", "What is a router?", *given)
        assert done.returncode == 0, done.stderr.decode()
        result = json.loads(done.stdout)
    assert result["router"] == router.peer_id
    assert result["orchestrator"] == orchestrator.peer_id
    assert result["receipt_verified"]
