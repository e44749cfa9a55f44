"""The page in a real browser: what it shows, what it survives, whom it serves, and what it never does."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

import pytest

from cactus_mesh.gateway.keys import add_key
from cactus_mesh.testing.engine import FAKE_TEXT, FakeEngine
from tests.dashboard.browser import chromium_or_skip, open_chromium
from tests.dashboard.stage import open_theatre
from tests.interop.node import REQUIRED, NodeMissing, modules

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

    from tests.dashboard.stage import Theatre

PATIENCE_MS = 10_000
HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "\u202egnp.exe\u202c",
    "a\x00b\x1b[31mc\u200bd\ufeff",
    "z" * 10_000,
    "Z\u0337\u0322" * 200,
    '"><script>alert(1)</script>',
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_chromium(chromium_or_skip()) as opened:
        yield opened


@pytest.fixture(scope="module")
def theatre() -> Iterator[Theatre]:
    with open_theatre() as opened:
        yield opened


@pytest.fixture(autouse=True)
def unpainted(request: pytest.FixtureRequest) -> None:
    if "theatre" in request.fixturenames:
        picture = request.getfixturevalue("theatre").stage.picture
        picture.over, picture.written = {}, {}


class Tab:
    """A page that notes what must not happen."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.wrong: list[str] = []
        self.asked: list[str] = []
        page.set_default_timeout(PATIENCE_MS)
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on("console", self._note)
        page.on("dialog", lambda dialog: (self.wrong.append(f"dialog {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: self.asked.append(request.url))

    def _note(self, message: Any) -> None:
        # what the network refuses is the page's to handle, and Chromium's to note
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            self.wrong.append(message.text)

    def open(self) -> Page:
        self.page.goto(self.url)
        self.page.wait_for_selector("#board:visible, #locked:visible")
        return self.page

    def check(self) -> None:
        assert self.wrong == []
        assert [url for url in self.asked if not url.startswith((self.url, "data:"))] == []


@pytest.fixture
def tab(browser: Browser, theatre: Theatre) -> Iterator[Tab]:
    context = browser.new_context(viewport={"width": 1280, "height": 700}, reduced_motion="reduce")
    opened = Tab(context.new_page(), theatre.url)
    yield opened
    opened.check()
    context.close()


def holds(page: Page, expression: str) -> None:
    """Look until it does; the page's own policy keeps the driver from looking by itself."""
    give_up = time.monotonic() + PATIENCE_MS / 1_000
    while not page.evaluate(expression):
        assert time.monotonic() < give_up, expression
        page.wait_for_timeout(20)


def peer(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "peer_id": f"12D3KooW{number:044d}",
        "roles": ["orchestrator"],
        "relayed": False,
        "relay": None,
        "why_relayed": None,
        "address": "/ip4/203.0.113.5/tcp/4101",
        "rtt_ms": 12.0 + number,
        "since": 0,
        "agent": "cactus-mesh/0.1.0",
        **changes,
    }


def paint_peers(theatre: Theatre, *peers: dict[str, Any]) -> None:
    theatre.stage.picture.over |= {"peers": list(peers), "peers_total": len(peers)}


def ask(page: Page, prompt: str = "What is a router?") -> None:
    page.wait_for_selector("#ask-send:enabled")
    page.fill("#ask-prompt", prompt)
    page.click("#ask-send")


def test_the_page_loads_and_is_live(tab):
    page = tab.open()
    page.wait_for_selector('#link[data-state="live"]')
    assert page.inner_text("#link-word") == "live"
    assert "client" in page.inner_text("#whoami")
    assert len(tab.asked) > 5


def test_a_peer_that_comes_and_one_that_leaves_are_seen(tab, theatre):
    page = tab.open()
    paint_peers(theatre, peer(1), peer(2, roles=["router"]))
    holds(page, "document.querySelectorAll('#mesh-drawing .peer').length === 3")
    assert page.inner_text("#mesh-words") == "2 peers, 2 direct"
    paint_peers(theatre, peer(1))
    holds(page, "document.querySelectorAll('#mesh-drawing .peer').length === 2")
    assert page.inner_text("#mesh-words") == "1 peer, 1 direct"


def test_a_relayed_path_is_dashed_and_goes_through_its_relay(tab, theatre):
    relay = peer(1, roles=["relay"])
    paint_peers(theatre, relay, peer(2, relayed=True, relay=relay["peer_id"], why_relayed="behind a symmetric NAT"))
    page = tab.open()
    page.wait_for_selector("#mesh-drawing .way.relayed", state="attached")
    assert page.inner_text("#mesh-words") == "2 peers, 1 direct, 1 relayed"
    page.click("#mesh-details summary")
    page.wait_for_selector("#mesh-rows tr")
    assert f"through …{relay['peer_id'][-8:]}" in page.inner_text("#mesh-rows")


def test_a_hundred_peers_are_drawn_and_listed(tab, theatre):
    paint_peers(theatre, *(peer(number, roles=["client"]) for number in range(100)))
    page = tab.open()
    holds(page, "document.querySelectorAll('#mesh-drawing .peer').length > 60")
    page.click("#mesh-details summary")
    holds(page, "document.querySelectorAll('#mesh-rows tr').length === 100")


def test_an_answer_streams_and_shows_its_receipt(tab):
    page = tab.open()
    ask(page)
    page.wait_for_selector("#running li .tail:visible, #done .chip.good")
    page.wait_for_selector("#answer-receipt:visible")
    assert page.inner_text("#answer-text") == FAKE_TEXT
    receipt = page.inner_text("#answer-receipt")
    for part in ("Receipt verified", "octas", "16 out", "Orchestrator", "Router", "Audit", "Task"):
        assert part in receipt
    page.wait_for_selector("#done .chip.good")
    assert "verified" in page.inner_text("#done")
    assert "receipt verified" in page.text_content("#said")


def test_a_task_under_way_shows_its_tokens_as_they_come(tab, theatre):
    page = tab.open()
    page.wait_for_selector("#ask-send:enabled")

    async def slow() -> None:
        theatre.stage.engine._delay_seconds = 0.15

    theatre.do(slow)
    ask(page)
    holds(page, "document.querySelector('#running .tail')?.textContent.startsWith('A cactus')")
    assert re.search(r"\d+ of 200 tokens", page.inner_text("#running .push"))
    theatre.stage.engine._delay_seconds = 0.02
    page.click("#ask-stop")
    holds(page, "document.querySelector('#ask-state').textContent.startsWith('Stopped')")


def test_an_error_shows_its_code_and_what_to_do(tab):
    page = tab.open()
    page.wait_for_selector("#ask-send:enabled")
    page.fill("#ask-price", "1")
    ask(page)
    page.wait_for_selector("#answer-error:visible")
    said = page.inner_text("#answer-error")
    assert "task.price_too_low" in said
    assert "allow more octas" in said


def test_a_lost_connection_is_said_and_comes_back_by_itself(tab, theatre):
    page = tab.open()
    page.wait_for_selector('#link[data-state="live"]')
    theatre.do(theatre.stage.stop)
    page.wait_for_selector("#banner:visible")
    assert "is lost" in page.inner_text("#banner")
    ask(page)
    page.wait_for_selector("#answer-error:visible")
    assert "connection_lost" in page.inner_text("#answer-error")
    theatre.do(theatre.stage.start)
    page.click("#banner-retry")
    page.wait_for_selector('#link[data-state="live"]')
    page.wait_for_selector("#banner", state="hidden")


def test_hostile_names_and_answers_are_text_and_nothing_else(tab, theatre):
    task = {
        "id": "ab" * 16,
        "role": "client",
        "state": "streaming",
        "orchestrator": HOSTILE[0],
        "asked_at": 0,
        "seconds": 1,
        "first_token_ms": 5,
        "tokens": 3,
        "max_tokens": 9,
        "tokens_per_second": 3.0,
        "max_price_octas": 9,
        "price_octas": None,
        "prompt_tokens": None,
        "finish": None,
        "delegated": False,
        "verified": False,
        "peer": HOSTILE[0],
    }
    over = {
        "running": [{**task, "model": name, "id": f"{at:032x}"} for at, name in enumerate(HOSTILE)],
        "done": [{**task, "model": name, "state": name} for name in HOSTILE],
        "reputation": [
            {"peer_id": name, "models": [name], "stake_octas": 1, "completed": 1, "failed": 0, "success": 0.9}
            | {"history": [[1, 0.9]]}
            for name in HOSTILE
        ],
    }
    theatre.stage.picture.over = over
    paint_peers(theatre, *(peer(at, peer_id=name, agent=name, roles=["relay"]) for at, name in enumerate(HOSTILE)))
    theatre.stage.picture.written = {f"{at:032x}": name for at, name in enumerate(HOSTILE)}
    page = tab.open()
    page.click("#mesh-details summary")
    holds(page, "document.querySelectorAll('#running .tail:not([hidden])').length === 6")
    assert page.query_selector("main img, main script, main iframe") is None
    shown = page.evaluate("document.body.textContent + [...document.querySelectorAll('[title]')].map((e) => e.title)")
    assert "<img src=x" in shown
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u200b\x00\x1b]", shown)
    assert "z" * 2_000 not in shown
    assert_no_sideways(page)


def test_a_hostile_answer_is_inert_in_the_playground(browser):
    evil = f"{HOSTILE[0]} {HOSTILE[5]} \u202eevil end"
    with open_theatre(engine=FakeEngine(evil)) as other:
        page = browser.new_page()
        tab = Tab(page, other.url)
        tab.open()
        ask(page)
        page.wait_for_selector("#answer-receipt:visible")
        assert page.inner_text("#answer-text") == evil.replace("\u202e", "")
        assert page.query_selector("main img, main script") is None
        tab.check()
        page.close()


def test_a_key_is_asked_for_and_kept_in_the_session_only(browser, tmp_path: Path):
    path = tmp_path / "keys.json"
    key = add_key(path, "laptop")
    with open_theatre(keys_file=path) as other:
        page = browser.new_page()
        tab = Tab(page, other.url)
        tab.open()
        page.fill("#door-key", "cm_wrong_wrong")
        page.keyboard.press("Enter")
        holds(page, "document.querySelector('#door-error').textContent.includes('wrong')")
        page.fill("#door-key", key)
        page.keyboard.press("Enter")
        page.wait_for_selector("#board:visible")
        ask(page)
        page.wait_for_selector("#answer-receipt:visible")
        assert key not in "".join(tab.asked)
        assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
        page.reload()
        page.wait_for_selector("#board:visible")
        tab.check()
        page.close()


def test_everything_can_be_reached_and_used_by_keyboard(tab):
    page = tab.open()
    page.wait_for_selector("#ask-send:enabled")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    reached = set()
    for _ in range(24):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
        ring = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert ring != "none" or page.evaluate("document.activeElement === document.body")
    assert {"theme", "SUMMARY", "ask-prompt", "ask-model", "ask-tokens", "ask-price", "ask-send"} <= reached
    assert {"span-fine", "span-coarse"} <= reached
    page.focus("#ask-prompt")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#answer-receipt:visible")
    page.focus("#plot-rtt [tabindex]")
    page.keyboard.press("ArrowLeft")
    assert re.match(r"\d\d:\d\d:\d\d: ", page.inner_text("#plot-rtt .readout"))


def assert_no_sideways(page: Page) -> None:
    wide = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide[0] <= wide[1]


@pytest.mark.parametrize("width", [360, 768])
def test_nothing_sticks_out_sideways(tab, theatre, width):
    paint_peers(theatre, *(peer(number, roles=["client"]) for number in range(9)))
    tab.page.set_viewport_size({"width": width, "height": 800})
    page = tab.open()
    ask(page)
    page.wait_for_selector("#answer-receipt:visible")
    assert_no_sideways(page)


def test_the_theme_is_the_systems_until_it_is_chosen(tab):
    tab.page.emulate_media(color_scheme="dark")
    page = tab.open()
    ground = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(ground) == "rgb(17, 21, 18)"
    page.click("#theme")
    assert page.evaluate(ground) == "rgb(245, 246, 243)"
    page.reload()
    page.wait_for_selector("#board:visible")
    assert page.evaluate(ground) == "rgb(245, 246, 243)"


@pytest.fixture(scope="module")
def axe() -> str:
    from tests.dashboard import browser as here

    try:
        folder = modules(here.AXE)
    except NodeMissing as missing:
        if REQUIRED:
            pytest.fail(f"axe-core cannot be had: {missing} (CACTUS_REQUIRE_NODE=1)", pytrace=False)
        pytest.skip(f"ACCESSIBILITY WAS NOT CHECKED WITH AXE: {missing}")
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text(encoding="utf-8")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_to_say(tab, theatre, axe, scheme):
    paint_peers(theatre, peer(1), peer(2, roles=["router"]), peer(3, relayed=True))
    tab.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page = tab.open()
    ask(page)
    page.wait_for_selector("#answer-receipt:visible")
    page.wait_for_selector("#done td")
    page.evaluate(axe)
    found = page.evaluate("axe.run(document)")["violations"]
    assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in found] == []
