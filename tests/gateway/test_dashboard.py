"""The dashboard over HTTP: who gets the page, who the picture, and what a stream tells."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import trio

from cactus_mesh.config import GatewayConfig
from cactus_mesh.gateway.dashboard.feed import OWNERS_KEPT, WATCHERS, Feed
from cactus_mesh.gateway.keys import add_key, remove_key
from cactus_mesh.testing.engine import FAKE_TEXT, FakeEngine
from tests.dashboard.stage import open_stage
from tests.gateway.conftest import ask, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.dashboard.stage import Stage

FILES = ("app.js", "style.css", "cactus.svg", "feed.js", "mesh.js", "plot.js")


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with open_stage(FakeEngine()) as opened:
        yield opened


def http(stage: Stage, key: str = "") -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return httpx.AsyncClient(base_url=stage.url, timeout=20, headers=headers)


class Watch:
    """One stream's events, in order.  Each comes in a chunk of its own, whose size is a line that is passed over."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._heard = b""

    async def line(self) -> str:
        with trio.fail_after(20):
            while b"\n" not in self._heard:
                piece = await self._stream.receive_some(65_536)
                if not piece:
                    raise EOFError
                self._heard += piece
        line, _, self._heard = self._heard.partition(b"\n")
        if line == b"0\r":  # the last chunk
            raise EOFError
        return line.decode()

    async def next(self, *kinds: str) -> dict[str, Any]:
        kind = ""
        while True:
            line = await self.line()
            if line.startswith("event: "):
                kind = line.removeprefix("event: ")
            elif line.startswith("data: ") and kind in kinds:
                return json.loads(line.removeprefix("data: "))

    async def until(self, part: str, holds: Any) -> Any:
        while True:
            told = await self.next("snapshot", "change")
            if part in told and holds(told[part]):
                return told[part]


@asynccontextmanager
async def watching(stage: Stage, key: str = "") -> AsyncIterator[Watch]:
    port = int(stage.url.rpartition(":")[2])
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        head = f"GET /dashboard/live HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {key}\r\n\r\n"
        await stream.send_all(head.encode())
        yield Watch(stream)


async def test_the_page_and_its_files_are_there_with_a_strict_policy(stage):
    async with http(stage) as client:
        page = await client.get("/")
        assert page.status_code == 200
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "require-trusted-types-for 'script'" in policy
        assert "unsafe" not in policy
        for name in FILES:
            file = await client.get(f"/dashboard/page/{name}")
            assert file.status_code == 200
            assert file.headers["x-content-type-options"] == "nosniff"
            assert file.headers["content-security-policy"] == policy


async def test_a_file_that_is_known_is_not_sent_again(stage):
    async with http(stage) as client:
        first = await client.get("/dashboard/page/app.js")
        again = await client.get("/dashboard/page/app.js", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("path", ["nothing.js", "..%2f__init__.py", "%2e%2e/assets.py", "assets.py", ""])
async def test_nothing_but_the_page_is_served(stage, path):
    async with http(stage) as client:
        found = await client.get(f"/dashboard/page/{path}")
    assert found.status_code == 404
    assert found.json()["error"]["code"] == "gateway.path_unknown"


async def test_a_stream_begins_with_everything_and_goes_on_with_what_is_new(stage):
    async with http(stage) as client, watching(stage) as watch:
        first = await watch.next("snapshot")
        assert {"self", "peers", "running", "done", "totals", "money", "reputation", "series"} <= set(first)
        assert first["money"]["deposit_octas"] > 0
        await client.post("/v1/chat/completions", json=ask())
        (done,) = await watch.until("done", bool)
    assert (done["state"], done["role"], done["verified"]) == ("ok", "client", True)
    assert done["tokens"] == 16
    assert 0 < done["price_octas"] <= done["max_price_octas"]


async def test_the_text_of_an_own_task_comes_as_it_is_made(stage):
    async with http(stage) as client, watching(stage) as watch:
        await watch.next("snapshot")
        await client.post("/v1/chat/completions", json=ask())
        told = await watch.next("text")
    assert (told["from"], told["more"]) == (0, FAKE_TEXT)


async def test_a_task_that_fails_is_told_with_its_code(stage):
    async with http(stage) as client, watching(stage) as watch:
        await client.post("/v1/chat/completions", json=ask(model="nobody-has-this"))
        (failed,) = await watch.until("done", bool)
    assert (failed["state"], failed["price_octas"]) == ("task.unknown_model", None)


async def test_with_a_key_the_page_is_public_and_the_picture_is_not(tmp_path):
    path = tmp_path / "keys.json"
    key = add_key(path, "laptop")
    async with open_stage(keys_file=path) as stage, http(stage) as stranger:
        assert (await stranger.get("/")).status_code == 200
        assert (await stranger.get("/dashboard/page/app.js")).status_code == 200
        refused = await stranger.get("/dashboard/live")
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "gateway.key_rejected")
        async with watching(stage, key) as watch:
            assert (await watch.next("snapshot"))["version"] == 1


async def test_a_removed_key_ends_its_stream(tmp_path):
    path = tmp_path / "keys.json"
    key = add_key(path, "laptop")
    add_key(path, "another")
    async with open_stage(keys_file=path) as stage, watching(stage, key) as watch:
        await watch.next("snapshot")
        remove_key(path, "laptop")
        with pytest.raises(EOFError):
            await watch.until("never", bool)


async def test_one_key_does_not_see_what_another_has_been_answered(tmp_path):
    path = tmp_path / "keys.json"
    mine, theirs = add_key(path, "mine"), add_key(path, "theirs")
    async with open_stage(FakeEngine(), keys_file=path) as stage, http(stage, mine) as me, http(stage, theirs) as them:
        await them.post("/v1/chat/completions", json=ask())
        await me.post("/v1/chat/completions", json=ask())
        async with watching(stage, mine) as watch:
            told = await watch.next("snapshot")
            text = await watch.next("text")
    assert [task["state"] for task in told["done"]] == ["ok", "ok"]
    assert text["id"] == told["done"][0]["id"]


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"host": "rebound.example"}, "gateway.host_refused"),
        ({"origin": "https://evil.example"}, "gateway.origin_refused"),
        ({"sec-fetch-site": "cross-site"}, "gateway.origin_refused"),
    ],
)
@pytest.mark.parametrize("path", ["/dashboard/live", "/dashboard/page/app.js"])
async def test_pages_of_others_get_nothing(stage, headers, code, path):
    async with http(stage) as client:
        refused = await client.get(path, headers=headers)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, code)


async def test_a_link_from_elsewhere_leads_to_the_page_and_to_nothing_else(stage):
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    async with http(stage) as client:
        assert (await client.get("/", headers=link)).status_code == 200
        assert (await client.get("/dashboard/live", headers=link)).status_code == 403
        assert (await client.get("/v1/models", headers=link)).status_code == 403


async def test_there_are_only_so_many_watchers(stage):
    async with http(stage) as client, trio.open_nursery() as nursery:
        arrived: list[Watch] = []

        async def look() -> None:
            async with watching(stage) as watch:
                await watch.next("snapshot")
                arrived.append(watch)
                await trio.sleep_forever()

        for _ in range(WATCHERS):
            nursery.start_soon(look)
        await until(lambda: len(arrived) == WATCHERS)
        refused = await client.get("/dashboard/live")
        nursery.cancel_scope.cancel()
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")


async def test_a_gateway_stops_at_once_although_somebody_watches(stage):
    async with watching(stage) as watch:
        await watch.next("snapshot")
        with trio.fail_after(3):
            await stage.stop()


async def test_the_dashboard_can_be_switched_off(tmp_path):
    async with open_stage(config=GatewayConfig(port=0, dashboard=False)) as stage, http(stage) as client:
        for path in ("/", "/dashboard/live", "/dashboard/page/app.js"):
            assert (await client.get(path)).status_code == 404


def test_whose_task_it_is_is_known_of_the_newest_only(stage_free_feed):
    for number in range(OWNERS_KEPT + 5):
        stage_free_feed.asked(number.to_bytes(16), "somebody")
    assert len(stage_free_feed._owners) == OWNERS_KEPT


@pytest.fixture
def stage_free_feed() -> Feed:
    class Nothing:
        async def fresh(self) -> dict[str, Any]:
            return {}

        def snapshot(self) -> dict[str, Any]:
            return {}

        def texts(self) -> dict[str, str]:
            return {}

    return Feed(Nothing())
