"""What a node shows to Prometheus: well formed, named by convention, bounded, and true."""

from __future__ import annotations

import re
import shutil
import subprocess
from types import SimpleNamespace

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from cactus_mesh.engine.frames import Pulse
from cactus_mesh.errors import AddressMalformed, Busy
from cactus_mesh.gateway.scrape import open_scrape, place_of
from cactus_mesh.messages import Chunk, Generate, Sampling
from cactus_mesh.observability.gauges import EngineCollector
from cactus_mesh.observability.measured import MeasuredEngine, measuring
from cactus_mesh.observability.meter import Meter
from cactus_mesh.ports import EngineMemory
from cactus_mesh.testing.engine import FAKE_MODEL, FakeEngine

UNITS = ("_seconds", "_bytes", "_octas", "_tokens", "_tasks", "_slots", "_peers")
LABELS = {"role", "outcome", "model", "kind", "operation", "code", "path", "state", "result", "to", "verdict", "le"}


def value(text, name, **labels):
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return sample.value
    raise AssertionError(f"there is no {name} {labels}")


@pytest.fixture(params=["router", "orchestrator"])
def text(request, seen):
    return getattr(seen, request.param)


def test_the_parser_of_prometheus_reads_it_and_every_metric_is_explained(text):
    families = [each for each in text_string_to_metric_families(text) if each.name.startswith("cactus_mesh")]
    assert len(families) > 20
    assert [each.name for each in families if len(each.documentation) < 15 or each.type == "unknown"] == []
    assert len({each.name for each in families}) == len(families)


def test_names_follow_the_convention(text):
    for family in text_string_to_metric_families(text):
        if not family.name.startswith("cactus_mesh"):
            continue
        assert re.fullmatch(r"cactus_mesh(_[a-z]+)+", family.name)
        assert not family.name.endswith(("_ms", "_milliseconds", "_count", "_sum", "_total"))
        if family.type == "counter":
            assert all(sample.name.endswith(("_total", "_created")) for sample in family.samples)
        if family.type == "histogram":
            assert family.name.endswith(UNITS)


def test_labels_are_few_and_never_an_id_or_a_text_of_a_peer(text, seen):
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            assert set(sample.labels) <= LABELS | {"version"}
            assert all(len(each) < 40 for each in sample.labels.values())
        assert len(family.samples) < 300
    assert "12D3Koo" not in text
    assert "no-such-model" not in text
    assert not any(task in text for task in seen.tasks)


def test_a_task_is_counted_in_each_role_with_its_tokens_and_its_price(seen):
    assert value(seen.router, "cactus_mesh_tasks_total", role="router", outcome="ok") == 1
    assert value(seen.router, "cactus_mesh_tasks_total", role="router", outcome="task.unknown_model") == 1
    assert value(seen.orchestrator, "cactus_mesh_tasks_total", role="orchestrator", outcome="ok") == 1
    assert value(seen.orchestrator, "cactus_mesh_tokens_total", model="fake", kind="output") == 16
    assert value(seen.orchestrator, "cactus_mesh_first_token_seconds_count", role="orchestrator") == 1
    assert value(seen.router, "cactus_mesh_first_token_seconds_count", role="router") == 1
    assert value(seen.router, "cactus_mesh_settled_octas_total", to="orchestrator") > 0
    assert value(seen.router, "cactus_mesh_unsettled_octas") == 0
    assert value(seen.router, "cactus_mesh_ledger_request_seconds_count", operation="settle_batch") >= 1
    assert value(seen.orchestrator, "cactus_mesh_slots") == 64
    assert value(seen.orchestrator, "cactus_mesh_holdings_octas", kind="stake") == 1_000 * 10**8


def test_peers_and_reachability_are_seen(seen):
    assert value(seen.router, "cactus_mesh_peers", role="orchestrator", path="direct") == 1
    assert sum(value(seen.router, "cactus_mesh_reachability", state=each) for each in ("unknown", "public")) <= 1
    assert value(seen.router, "cactus_mesh_loop_lateness_seconds_count") >= 1


def test_promtool_finds_nothing_to_improve(seen):
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (Debian: apt install prometheus)")
    for text in (seen.router, seen.orchestrator):
        done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


async def test_a_task_is_counted_by_its_end_and_timed_once_to_its_first_token():
    meter = Meter()
    listen = measuring(meter)
    for part, outcome in (("router", "ok"), ("client", Busy.code), ("verifier", "gone")):
        task = listen(part, b"", "peer")
        for _ in range(2):
            task.item(Chunk(bytes(16), 0, [1], "a"))
        task.ended(outcome)
    text = meter.text().decode()
    ends = set(re.findall(r'tasks_total\{outcome="([^"]+)",role="([^"]+)"\} 1.0', text))
    assert ends == {("ok", "router"), (Busy.code, "client"), ("gone", "verifier")}
    assert value(text, "cactus_mesh_first_token_seconds_count", role="router") == 1
    assert 'first_token_seconds_count{role="client"}' not in text


async def test_a_measured_engine_answers_as_before_and_counts_tokens():
    meter = Meter()
    engine = MeasuredEngine(FakeEngine(), meter)

    async with engine.generate(
        FAKE_MODEL.digest, Generate("one two three"), Sampling(max_tokens=64), bytes(32)
    ) as events:
        plain = [event async for event in events]
    assert len(plain) > 1
    text = meter.text().decode()
    made = sum(len(event.token_ids) for event in plain[:-1])
    assert value(text, "cactus_mesh_tokens_total", kind="output", model="fake") == made
    assert value(text, "cactus_mesh_tokens_total", kind="prompt", model="fake") == 3


def test_an_engine_with_a_worker_tells_how_hard_it_works_and_others_tell_nothing():
    busy, idle = Meter(), Meter()
    worker = SimpleNamespace(memory=EngineMemory(5, 9, ("a", "b"), None), pulse=Pulse(10, 35, 512, 4_096))
    busy.registry.register(EngineCollector(worker))
    idle.registry.register(EngineCollector(FakeEngine()))
    text = busy.text().decode()
    assert value(text, "cactus_mesh_engine_step_tasks_total") / value(text, "cactus_mesh_engine_steps_total") == 3.5
    assert value(text, "cactus_mesh_engine_cache_tokens") == 512
    assert value(text, "cactus_mesh_engine_memory_room_bytes") == 9
    assert value(text, "cactus_mesh_engine_loaded_models") == 2
    assert "cactus_mesh_engine_steps" not in idle.text().decode()


def test_beyond_so_many_models_there_is_one_label_for_all():
    names = [f"model-{number}" for number in range(100)]
    labels = {Meter().model(name, names) for name in names[::10]}
    assert labels == {"model-0", "model-10", "model-20", "model-30", "other"}


# --- the page -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listen", "place"),
    [("4190", ("127.0.0.1", 4190)), (":0", ("127.0.0.1", 0)), ("0.0.0.0:1", ("0.0.0.0", 1)), ("[::1]:2", ("::1", 2))],
)
def test_a_port_alone_is_on_loopback(listen, place):
    assert place_of(listen) == place


@pytest.mark.parametrize("listen", ["", "localhost", "1.2.3.4:", "1.2.3.4:65536", "x:y"])
def test_what_is_no_place_is_refused(listen):
    with pytest.raises(AddressMalformed):
        place_of(listen)


async def test_only_get_metrics_is_answered_and_only_by_this_machines_name():
    made = []

    def text():
        made.append(1)
        return b"# nothing\n"

    async with open_scrape("0", text) as url, httpx.AsyncClient(trust_env=False) as http:
        good = await http.get(url)
        assert (good.status_code, good.headers["content-type"][:10]) == (200, "text/plain")
        assert (await http.get(url)).content == b"# nothing\n"
        assert len(made) == 1
        assert (await http.post(url, content=b"x")).status_code == 405
        assert (await http.get(url.replace("/metrics", "/"))).status_code == 404
        assert (await http.get(url, headers={"host": "evil.example"})).status_code == 403
