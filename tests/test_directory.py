"""What a peer knows of orchestrators is worked out when somebody looks, not whenever something changes."""

from __future__ import annotations

from cactus_mesh import directory as directories
from tests.world import identity, open_world

WORKER = identity("worker").public_key


async def test_a_task_begun_counts_at_once_for_who_looks(autojump_clock):
    async with open_world() as world:
        router = await world.router()
        await world.orchestrator("worker")
        await world.settle_down()
        known = router.directory
        before = [candidate.busy for candidate in known.index.of_peer(WORKER)]
        for _ in range(3):
            known.begin_task(WORKER)
        assert [candidate.busy for candidate in known.index.of_peer(WORKER)] == [busy + 3 for busy in before]
        known.end_task(WORKER)
        assert [candidate.busy for candidate in known.index.of_peer(WORKER)] == [busy + 2 for busy in before]


async def test_however_often_it_changes_a_standing_is_worked_out_once(autojump_clock, monkeypatch):
    async with open_world() as world:
        router = await world.router()
        await world.orchestrator("worker")
        await world.settle_down()
        known, rated = router.directory, []
        monkeypatch.setattr(known, "_rate", rated.append)
        for _ in range(20):
            known.begin_task(WORKER)
            known.end_task(WORKER)
        assert rated == []
        assert known.index is known.index
        assert rated == [WORKER]


async def test_no_more_than_so_many_wait_for_a_look(autojump_clock, monkeypatch):
    async with open_world() as world:
        router = await world.router()
        known, rated = router.directory, []
        monkeypatch.setattr(known, "_rate", rated.append)
        strangers = [identity(f"worker {number}").public_key for number in range(directories.MAX_UNRATED + 5)]
        for stranger in strangers:
            known.begin_task(stranger)
        assert rated == strangers[:5]
