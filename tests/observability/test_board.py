"""Grafana's board and the documentation name the metrics that there are, and those that there are are documented."""

from __future__ import annotations

import json
import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from cactus_mesh.gateway.metrics import Metrics

ROOT = Path(__file__).parents[2]
SOURCES = [*(ROOT / "cactus_mesh" / "observability").glob("*.py"), ROOT / "cactus_mesh" / "gateway" / "metrics.py"]
NAMED = {name for path in SOURCES for name in re.findall(r'"(cactus_mesh_[a-z_]+)"', path.read_text(encoding="utf-8"))}
NO_METRICS = {"cactus_mesh_about", "cactus_mesh_next_span"}
SUFFIX = re.compile(r"_(total|bucket|count|sum)$")


def names_in(text):
    return {SUFFIX.sub("", name) for name in re.findall(r"cactus_mesh_[a-z_]+", text)}


def test_every_metric_that_the_board_asks_for_is_one():
    board = json.loads((ROOT / "bootstrap" / "grafana" / "cactus-mesh.json").read_text(encoding="utf-8"))
    asked = names_in(json.dumps(board["panels"])) | names_in(json.dumps(board["templating"]))
    assert len(asked) > 25
    assert asked - NAMED == set()


def test_the_board_asks_for_counters_and_histograms_by_their_full_names(seen):
    board = (ROOT / "bootstrap" / "grafana" / "cactus-mesh.json").read_text(encoding="utf-8")
    gateway = Metrics(lambda: 0, lambda: 0).text().decode()
    for text in (seen.router, seen.orchestrator, gateway):
        for family in text_string_to_metric_families(text):
            suffix = {"counter": "_total", "histogram": "_bucket"}.get(family.type, "")
            wrong = rf"\b{family.name}(?!{suffix}\b)[{{ ]" if suffix else rf"\b{family.name}_(total|bucket)\b"
            assert not re.search(wrong, board), family.name


def test_the_board_has_a_row_for_each_role():
    board = json.loads((ROOT / "bootstrap" / "grafana" / "cactus-mesh.json").read_text(encoding="utf-8"))
    rows = [panel["title"] for panel in board["panels"] if panel["type"] == "row"]
    assert rows == ["Node", "Orchestrator", "Router", "Relay", "Client and gateway", "Money and ledger"]


def test_every_metric_of_a_node_is_documented_and_no_other():
    documented = names_in((ROOT / "docs" / "observability.md").read_text(encoding="utf-8")) - {"cactus_mesh_gateway_"}
    node = {name for name in NAMED if not name.startswith("cactus_mesh_gateway_")} - NO_METRICS
    assert documented == node
