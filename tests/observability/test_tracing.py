"""One trace for a task across all peers, from the task's id alone; nothing where nobody asked for it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from cactus_mesh.errors import Busy
from cactus_mesh.observability.tracing import tracing_to, wanted
from cactus_mesh.spans import client_part, orchestrator_part, router_part, step, working_on
from tests.world import open_world

TASK = bytes(range(16))


@pytest.fixture
def exported():
    exporter = InMemorySpanExporter()
    with tracing_to(exporter, at_once=True):
        yield exporter.get_finished_spans


async def test_the_parts_of_all_peers_join_in_one_trace(autojump_clock, exported):
    async with open_world() as world:
        await world.router()
        await world.orchestrator()
        client = await world.client()
        await world.settle_down()
        result = await client.generate("hello", model="fake").wait()
    spans = {span.name: span for span in exported()}
    assert set(spans) == {"client.task", "router.task", "orchestrator.task", "engine"}
    assert len({span.context.trace_id for span in spans.values()}) == 1
    for child, parent in (("router.task", "client.task"), ("orchestrator.task", "router.task")):
        assert spans[child].parent.span_id == spans[parent].context.span_id
    assert spans["engine"].parent.span_id == spans["orchestrator.task"].context.span_id
    assert spans["client.task"].parent is None
    assert spans["router.task"].attributes["cactus_mesh.task"] == result.task_id.hex()
    assert "hello" not in " ".join(span.to_json() for span in exported())


def test_ids_follow_from_the_task_and_the_parties_and_from_nothing_else():
    one = orchestrator_part(TASK, b"worker", [b"router", b"liable"], b"client")
    assert one == orchestrator_part(TASK, b"worker", [b"router", b"liable"], b"client")
    assert one.giver.party == b"liable"
    assert one.giver.giver == router_part(TASK, b"router", b"client")
    ids = {one.span_id, one.giver.span_id, one.giver.giver.span_id, client_part(TASK, b"client").span_id}
    assert len(ids) == 4
    assert one.trace_id != client_part(bytes(16), b"client").trace_id


def test_a_failed_part_carries_the_code_and_no_message(exported):
    with pytest.raises(Busy), working_on(client_part(TASK, b"client")), step("within"):
        raise Busy("a text that nobody needs")
    within, part = exported()
    assert part.attributes["error.type"] == within.attributes["error.type"] == Busy.code
    assert "a text" not in part.to_json() + within.to_json()
    assert part.context.span_id == client_part(TASK, b"client").span_id


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "x"}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "true"}, False),
    ],
)
def test_only_its_own_variables_switch_it_on(environment, expected):
    assert wanted(environment) is expected


@pytest.mark.parametrize(("extra", "loaded"), [({}, False), ({"OTEL_TRACES_EXPORTER": "otlp"}, True)])
def test_nothing_of_it_is_loaded_unless_it_is_on(tmp_path, extra, loaded):
    code = (
        "import sys\nfrom cactus_mesh.cli import main\n"
        "try: main(['keygen'])\nexcept SystemExit: pass\n"
        "print('opentelemetry.sdk' in sys.modules)"
    )
    environment = {name: text for name, text in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment | extra | {"CACTUS_MESH_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.split()[-1] == str(loaded)
