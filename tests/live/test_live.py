"""What is told of a running process: what is counted, what is kept, and what never is."""

from __future__ import annotations

import json

import trio

from cactus_mesh.errors import LedgerDown
from cactus_mesh.live.series import COARSE_POINTS, FINE_POINTS, Series
from cactus_mesh.live.tasks import DONE_KEPT, RUNNING_TOLD, TEXT_CHARACTERS, TEXTS_KEPT, TaskTable, new_task
from cactus_mesh.testing.engine import FAKE_TEXT, FakeEngine
from tests.dashboard.stage import open_stage
from tests.gateway.conftest import until


def asked(number: int) -> tuple[bytes, str, int, int]:
    return number.to_bytes(16), "fake", 1_000, 100


async def test_rings_hold_five_minutes_and_six_hours_and_no_more():
    series = Series(("a", "b"))
    for second in range(30_000):
        series.add(float(second), {"a": float(second % 60), "b": None})
    told = series.told()
    assert len(told["fine"]["values"]["a"]) == FINE_POINTS
    assert len(told["coarse"]["values"]["a"]) == COARSE_POINTS
    assert set(told["coarse"]["values"]["a"]) == {29.5}
    assert set(told["coarse"]["values"]["b"]) == {None}
    assert told["fine"]["ends_at"] == 29_999


async def test_a_table_forgets_the_oldest():
    table = TaskTable()
    for number in range(200):
        task = new_task("client", asked(number), "router")
        table.begin(task)
        table.took(task, 1, "x" * 2 * TEXT_CHARACTERS)
        table.end(task, "ok")
    assert (len(table), len(table.done)) == (0, DONE_KEPT)
    assert table.totals["client"].done == 200
    assert len(table.texts()) == TEXTS_KEPT
    assert {len(text) for text in table.texts().values()} == {TEXT_CHARACTERS}


async def test_only_the_newest_of_many_tasks_are_told():
    table = TaskTable()
    for number in range(RUNNING_TOLD + 10):
        table.begin(new_task("router", asked(number), "client"))
    told = list(table.running())
    assert len(told) == RUNNING_TOLD
    assert told[0].id == (RUNNING_TOLD + 9).to_bytes(16).hex()


async def test_what_others_are_answered_is_never_kept():
    table = TaskTable()
    for part in ("router", "orchestrator"):
        task = new_task(part, asked(1), "client")
        table.begin(task)
        table.took(task, 3, "a secret")
        assert (task.tokens, task.pieces) == (3, [])
    assert table.texts() == {}


async def test_a_task_of_ones_own_is_followed_from_the_question_to_its_price():
    async with open_stage(FakeEngine(delay_seconds=0.01)) as stage:
        live = stage.picture.live
        answer = stage.client.generate("What is a router?", model="fake")
        await until(lambda: any(task["state"] == "streaming" for task in live.snapshot()["running"]))
        result = await answer.wait()
        await until(lambda: bool(live.snapshot()["done"]))
        (done,) = live.snapshot()["done"]
        assert (done["state"], done["verified"], done["tokens"]) == ("ok", True, len(result.token_ids))
        assert (done["price_octas"], done["orchestrator"]) == (result.price, result.orchestrator)
        assert live.texts() == {result.task_id.hex(): FAKE_TEXT}
        json.dumps(await live.fresh())


async def test_a_ledger_that_is_down_is_told_and_does_not_stop_the_rest(monkeypatch):
    async with open_stage() as stage:

        async def down(*_: object) -> None:
            raise LedgerDown("nobody answers")

        monkeypatch.setattr(stage.world.ledger, "client", down)
        told = await stage.picture.live.fresh()
        assert told["money"]["error"]["code"] == "ledger.down"
        assert told["money"]["coins_octas"] is None
        assert told["peers_total"] > 0


async def test_the_ledger_is_asked_only_while_somebody_looks(autojump_clock, monkeypatch):
    from cactus_mesh.book import open_book
    from cactus_mesh.config import Config
    from cactus_mesh.live import Sources, open_live
    from tests.world import identity, open_world, seconds

    async with open_world() as world:
        me, surveys = identity("me"), []
        ask = world.ledger.balance

        async def counted(account: str) -> int:
            surveys.append(account)
            return await ask(account)

        monkeypatch.setattr(world.ledger, "balance", counted)
        with open_book(None) as book:
            sources = Sources(
                me, Config(), world.mesh.join(me), world.ledger, book, TaskTable(), ("client",), seconds()
            )
            async with open_live(sources) as live:
                await trio.sleep(100)
                assert surveys == []
                await live.fresh()
                await trio.sleep(100)
                assert 1 <= len(surveys) <= 4
