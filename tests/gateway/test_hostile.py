"""What strangers do to an HTTP server: none of it costs others their turn, and none of it spends money."""

from __future__ import annotations

import json
import logging
from contextlib import suppress

import httpx
import pytest
import trio

from cactus_mesh.config import GatewayConfig
from cactus_mesh.errors import AddressMalformed, GatewayKeysMissing, PortInUse
from cactus_mesh.gateway import connections, http, tasks
from cactus_mesh.gateway.server import open_gateway
from cactus_mesh.testing.engine import FakeEngine
from tests.gateway.conftest import ask, open_site, open_wire, until

CHAT = "/v1/chat/completions"


def code_of(reply):
    return reply.status_code, reply.json()["error"]["code"]


# --- who is let in -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil:4180", "169.254.1.1", ""])
async def test_a_name_that_is_not_this_machines_is_refused(site, host):
    reply = await site.http.get("/v1/models", headers={"host": host})
    assert code_of(reply) == (403, "gateway.host_refused")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9", "127.0.0.1:1", "[::1]:4180"])
async def test_the_names_of_loopback_are_let_in(site, host):
    assert (await site.http.get("/v1/models", headers={"host": host})).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [{"origin": "https://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}],
    ids=str,
)
async def test_a_page_of_somebody_elses_spends_nothing(site, headers):
    reply = await site.http.post(CHAT, json=ask(), headers=headers)
    assert code_of(reply) == (403, "gateway.origin_refused")
    assert "access-control-allow-origin" not in reply.headers
    assert site.engine.started == 0


async def test_a_page_cannot_smuggle_json_as_plain_text(site):
    reply = await site.http.post(CHAT, content=json.dumps(ask()), headers={"content-type": "text/plain"})
    assert code_of(reply) == (400, "gateway.request_malformed")


async def test_a_page_that_was_let_in_may_ask_and_read():
    page = "https://mine.example"
    async with open_site(config=GatewayConfig(port=0, origins=(page,))) as site:
        asked = {"origin": page, "access-control-request-method": "POST"}
        preflight = await site.http.options(CHAT, headers=asked)
        assert preflight.status_code == 204
        assert "authorization" in preflight.headers["access-control-allow-headers"]
        reply = await site.http.post(CHAT, json=ask(), headers={"origin": page})
        assert reply.headers["access-control-allow-origin"] == page
        assert (await site.http.options(CHAT, headers={**asked, "origin": "https://not.mine"})).status_code == 403


async def test_beyond_loopback_it_refuses_to_start_without_a_key(site, tmp_path):
    with pytest.raises(GatewayKeysMissing, match="keys add"):
        async with open_gateway(site.client, GatewayConfig(host="0.0.0.0", port=0), tmp_path / "none"):
            pass


async def test_a_port_that_is_taken_and_a_host_that_is_not_here_are_told_apart(site):
    port = int(site.url.rpartition(":")[2])
    with pytest.raises(PortInUse, match=str(port)):
        async with open_gateway(site.client, GatewayConfig(port=port), None):
            pass
    with pytest.raises(AddressMalformed, match=r"203\.0\.113\.9"):
        await connections.open_server(None, "203.0.113.9", 0, connections=1).__aenter__()


# --- how much --------------------------------------------------------------------------------------------------


async def test_so_many_a_minute_and_no_more():
    async with open_site(config=GatewayConfig(port=0, requests_per_minute=6)) as site:
        replies = [await site.http.get("/v1/models") for _ in range(12)]
        refused = [reply for reply in replies if reply.status_code == 429]
        assert refused
        assert code_of(refused[0]) == (429, "gateway.too_many_requests")
        assert int(refused[0].headers["retry-after"]) >= 1
        assert (await site.http.get("/healthz")).status_code == 200


async def test_more_tasks_than_there_are_slots_are_told_to_come_back():
    async with (
        open_site(FakeEngine(delay_seconds=30), config=GatewayConfig(port=0, tasks_at_once=2)) as site,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(site.chat)
        nursery.start_soon(site.chat)
        await site.busy(2)
        reply = await site.chat()
        assert code_of(reply) == (429, "gateway.too_many_requests")
        assert reply.headers["retry-after"] == "1"
        nursery.cancel_scope.cancel()


async def test_a_hundred_at_once_are_all_answered(site):
    statuses = []

    async def one(at: int) -> None:
        statuses.append((await site.chat(stream=bool(at % 2))).status_code)

    async with trio.open_nursery() as nursery:
        for at in range(100):
            nursery.start_soon(one, at)
    assert statuses.count(200) + statuses.count(503) == 100
    assert statuses.count(200) >= 64  # the engine's slots
    await until(lambda: site.engine.running == 0)


async def test_a_body_beyond_the_bound_is_refused_before_it_is_read(site):
    async with open_wire(site) as wire:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        await wire.say(f"{head}Content-Length: {http.BODY_BYTES + 1}\r\n\r\n".encode())
        assert b"gateway.request_too_large" in await wire.to_the_end()


async def test_a_body_without_a_length_is_cut_at_the_bound(site):
    async with open_wire(site) as wire:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        await wire.say(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        piece = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        with trio.move_on_after(20), suppress(trio.BrokenResourceError):
            for _ in range(http.BODY_BYTES // 0x10000 + 200):
                await wire.say(piece)
        with suppress(trio.BrokenResourceError):  # it may be cut while still talking
            assert b"gateway.request_too_large" in await wire.to_the_end()
    assert (await site.chat()).status_code == 200


async def test_a_giant_header_is_refused_and_the_next_client_served(site):
    async with open_wire(site) as wire:
        await wire.say(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 200_000)
        assert (await wire.to_the_end()).startswith(b"HTTP/1.1 431")
    assert (await site.http.get("/healthz")).status_code == 200


@pytest.mark.parametrize(
    "said",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(64),
        b"GET /healthz HTTP/1.1\r\n\r\n",
        b"GET  /healthz\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n"
        b"Transfer-Encoding: chunked\r\n\r\nabc",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: localhost\r\n\r\n",
        b"GET /v1/models/%ff%fe%00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /v1/x HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
        b"Connection: Upgrade, HTTP2-Settings\r\n\r\n",
    ],
    ids=range(10),
)
async def test_what_is_no_request_of_ours_ends_with_a_status_or_a_closed_door(site, said):
    async with open_wire(site) as wire:
        await wire.say(said)
        await wire.stream.send_eof()
        heard = await wire.to_the_end()
    assert heard == b"" or heard.startswith(b"HTTP/1.1 ")
    assert not heard.startswith(b"HTTP/1.1 101")
    assert not heard.startswith(b"HTTP/1.1 5")
    assert (await site.http.get("/healthz")).status_code == 200


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"\xff", b"[" * 100_000, b'{"model": "\xed\xa0\x80"}'])
async def test_what_is_no_json_object_is_told_so(site, body):
    reply = await site.http.post(CHAT, content=body, headers={"content-type": "application/json"})
    assert code_of(reply) == (400, "gateway.request_malformed")


# --- how long ---------------------------------------------------------------------------------------------------


async def test_a_dripping_head_is_cut(site, monkeypatch):
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.5)
    async with open_wire(site) as wire:
        await wire.say(b"GET /healthz HT")
        with trio.fail_after(10), suppress(trio.BrokenResourceError):
            while True:
                await wire.say(b"T")
                await trio.sleep(0.05)


async def test_a_dripping_body_holds_no_slot_and_is_cut(monkeypatch):
    monkeypatch.setattr(http, "BODY_SECONDS", 0.5)
    async with open_site(config=GatewayConfig(port=0, tasks_at_once=1)) as site, open_wire(site) as wire:
        head = (
            f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n"
        )
        await wire.say(head.encode() + b"{")
        assert (await site.chat()).status_code == 200
        heard = await wire.to_the_end()
        assert heard.startswith(b"HTTP/1.1 408")
        assert b"gateway.request_too_slow" in heard


async def test_an_idle_connection_is_closed(site, monkeypatch):
    monkeypatch.setattr(connections, "IDLE_SECONDS", 0.3)
    async with open_wire(site) as wire:
        await wire.say(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200" in await wire.to_the_end()


async def test_a_client_that_stops_reading_is_cut_and_its_slot_is_free_again(monkeypatch):
    monkeypatch.setattr(connections, "WRITE_SECONDS", 0.5)
    monkeypatch.setattr(connections, "SEND_BUFFER_BYTES", 4_096)
    engine = FakeEngine(" ".join(["y" * 1_000] * 3_500))
    async with open_site(engine, config=GatewayConfig(port=0, tasks_at_once=1)) as site, open_wire(site) as wire:
        wire.stream.socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4_096)
        await wire.post(ask(stream=True, max_tokens=3_600, max_price=10**8))
        await wire.hear(b"HTTP/1.1 200")

        async def free() -> bool:
            return "tasks_running 0.0" in (await site.http.get("/metrics")).text

        assert not await free()
        await until(free)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_goes_away_takes_its_task_with_it(stream):
    async with open_site(FakeEngine(delay_seconds=0.2)) as site:
        async with open_wire(site) as wire:
            await wire.post(ask(stream=stream))
            await site.busy()
        await site.idle()
        assert site.engine.started == 1


async def test_a_quiet_stream_shows_that_it_is_alive(monkeypatch):
    monkeypatch.setattr(tasks, "QUIET_SECONDS", 0.1)
    async with open_site(FakeEngine(delay_seconds=30)) as site, open_wire(site) as wire:
        await wire.post(ask(stream=True))
        await wire.hear(b": still working\n\n")


async def test_the_connection_that_idles_longest_makes_room():
    async with open_site(config=GatewayConfig(port=0, connections=4)) as site, trio.open_nursery() as nursery:
        gone = []

        async def idle(task_status) -> None:
            async with open_wire(site) as wire:
                task_status.started()
                gone.append(await wire.to_the_end())

        for _ in range(4):
            await nursery.start(_with_status(idle))
        async with httpx.AsyncClient(base_url=site.url) as fresh:
            assert (await fresh.get("/healthz")).status_code == 200
        await until(lambda: bool(gone))
        nursery.cancel_scope.cancel()


def _with_status(function):
    async def start(task_status=trio.TASK_STATUS_IGNORED):
        await function(task_status)

    return start


async def test_stopping_lets_an_answer_end():
    async with open_site(FakeEngine(delay_seconds=0.02)) as site, trio.open_nursery() as nursery:
        replies = []

        async def one() -> None:
            async with httpx.AsyncClient(base_url=gateway.url) as client:
                replies.append(await client.post(CHAT, json=ask()))

        async with open_gateway(site.client, GatewayConfig(port=0), None) as gateway:
            nursery.start_soon(one)
            await site.busy()
        await until(lambda: bool(replies))
        assert replies[0].status_code == 200


async def test_no_prompt_answer_or_key_is_ever_logged(caplog):
    caplog.set_level(logging.DEBUG, "cactus_mesh")
    secret = "tell nobody of the oasis"
    async with open_site(FakeEngine("hidden words", fail_after=1)) as site:
        for stream in (False, True):
            await site.http.post(
                CHAT,
                json=ask(stream=stream, messages=[{"role": "user", "content": secret}]),
                headers={"authorization": "Bearer sk-secret"},
            )
        await site.chat(n=7)
    assert secret not in caplog.text
    assert "hidden" not in caplog.text
    assert "sk-secret" not in caplog.text
