"""Checks what is in this folder, as far as this machine can, and says what could not be checked.

``python -m bootstrap.check`` looks at the files; ``--image`` also runs the image's steps, with a container engine, or
as root in a chroot of its own: a new Debian with Python, in place of the image that the Containerfile begins from.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import platformdirs
import yaml

from bootstrap.image import TARGETS, check_containerfile, check_image
from bootstrap.verdicts import HERE, Wrong, demand, quiet, run

UNIT = HERE / "systemd" / "cactus-mesh.service"
MAX_EXPOSURE = 2.0
"""Of systemd's own measure, from 0 (sealed) to 10 (open)."""
COMPOSE_SCHEMA = "check-jsonschema==0.37.4"
"""Carries the compose specification's schema."""
SERVICE_KEYS = frozenset(
    [
        "build",
        "image",
        "network_mode",
        "env_file",
        "volumes",
        "restart",
        "stop_grace_period",
        "init",
        "read_only",
        "tmpfs",
        "cap_drop",
        "security_opt",
        "mem_limit",
        "pids_limit",
        "ulimits",
        "logging",
        "command",
    ]
)


# --- files -------------------------------------------------------------------------------------------------------


class _Strict(yaml.SafeLoader):
    """Refuses a key that is there twice, of which YAML would silently take one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        demand(len(set(keys)) == len(keys), f"a key is there twice, in line {node.start_mark.line + 1}")
        return super().construct_mapping(node, deep=deep)


def _compose(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.load((HERE / name).read_text(encoding="utf-8"), _Strict)
    extensions = {key for key in found if key.startswith("x-")}
    demand(set(found) - extensions == {"name", "services", "volumes"}, "top-level keys are name, services and volumes")
    return found


def _check_node(node: dict[str, Any], volumes: dict[str, Any]) -> None:
    demand(set(node) <= SERVICE_KEYS, f"unknown keys of the service: {sorted(set(node) - SERVICE_KEYS)}")
    build = node["build"]
    demand((HERE / build["context"] / build["dockerfile"]).is_file(), "the Containerfile is not there")
    demand(build["target"] in TARGETS, f"there is no image {build['target']}")
    name, _, place = node["volumes"][0].partition(":")
    demand(place == "/data" and name in volumes, "the key must be kept in a named volume")
    demand(node["read_only"] and node["cap_drop"] == ["ALL"], "the container must be read-only and without privileges")
    demand(node["network_mode"] == "host", "behind a container's NAT a node does not see its own address")


def check_compose() -> str:
    found = _compose("compose.yaml")
    _check_node(found["services"]["node"], found["volumes"])
    return "parsed strictly"


def check_operator() -> str:
    """Nodes as in `check_compose`, each with a volume of its own; what is beside them listens on loopback alone."""
    found = _compose("compose.operator.yaml")
    nodes = {name: service for name, service in found["services"].items() if "build" in service}
    for node in nodes.values():
        _check_node(node, found["volumes"])
    keys = [node["volumes"][0] for node in nodes.values()]
    demand(len(set(keys)) == len(keys), "two nodes must not share a key")
    scraped = yaml.load((HERE / "prometheus.yaml").read_text(encoding="utf-8"), _Strict)
    wanted = {config["targets"][0] for each in scraped["scrape_configs"] for config in each["static_configs"]}
    ports = {f"127.0.0.1:{node['command'][node['command'].index('--metrics') + 1]}" for node in nodes.values()}
    demand(wanted == ports, f"Prometheus asks {sorted(wanted)}, and the nodes answer at {sorted(ports)}")
    for name in ("prometheus", "grafana"):
        demand("127.0.0.1" in str(found["services"][name]), f"{name} must listen on loopback")
        for volume in found["services"][name]["volumes"]:
            source = volume.partition(":")[0]
            demand(source in found["volumes"] or (HERE / source).exists(), f"{volume}: it is not there")
    return f"{len(found['services'])} services, parsed strictly; {len(nodes)} nodes, each with its own key"


def check_board() -> str:
    """Grafana's board: panels lie beside each other, have units and legends, and ask the chosen data source."""
    board = json.loads((HERE / "grafana" / "cactus-mesh.json").read_text(encoding="utf-8"))
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    demand(len({panel["id"] for panel in board["panels"]}) == len(board["panels"]), "two panels have one id")
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        demand(at["x"] + at["w"] <= 24 and not cells & taken, f"{panel['title']} lies on another panel")
        taken |= cells
    for panel in panels:
        demand(panel["fieldConfig"]["defaults"].get("unit"), f"{panel['title']} has no unit")
        demand(all(each["legendFormat"] and each["expr"] for each in panel["targets"]), f"{panel['title']}: no legend")
    return f"{len(panels)} panels"


def check_compose_schema() -> str:
    for command in (["docker", "compose"], ["podman", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and quiet([*command, "version"]) == 0:
            with tempfile.TemporaryDirectory() as folder:
                place = Path(folder, "bootstrap")
                shutil.copytree(HERE, place)
                shutil.copyfile(HERE / "environment.example", place / "environment")
                done = run([*command, "-f", str(place / "compose.yaml"), "config", "--quiet"])
            demand(done.returncode == 0, done.stderr)
            return f"accepted by {' '.join(command)} config"
    uv = Path(sys.executable).with_name("uv")
    demand(uv.exists(), "SKIP neither compose nor uv is here, which would fetch the compose specification's schema")
    check = [str(uv), "tool", "run", COMPOSE_SCHEMA, "--builtin-schema", "vendor.compose-spec"]
    done = run([*check, str(HERE / "compose.yaml"), str(HERE / "compose.operator.yaml")])
    if done.returncode != 0 and "ok --" not in done.stdout and "chema" not in done.stdout:
        raise Wrong(f"SKIP {COMPOSE_SCHEMA} cannot be had here: {done.stderr.strip()[-200:]}")
    demand(done.returncode == 0, done.stdout)
    return "valid by the compose specification's schema"


def check_environment() -> str:
    """Every setting of the example, those in remarks as well, is one that the program has."""
    from cactus_mesh.config import Home, load_config

    lines = (HERE / "environment.example").read_text(encoding="utf-8").splitlines()
    settings = [line.lstrip("#") for line in lines if re.match(r"#?CACTUS_MESH_", line)]
    variables = dict(line.partition("=")[::2] for line in settings)
    nowhere = Home(Path(os.devnull), Path(os.devnull))
    load_config(nowhere, {}, variables)
    config = load_config(nowhere, {}, dict(line.partition("=")[::2] for line in lines if line.startswith("CACTUS")))
    demand({"bootstrap", "relay"} <= set(config.roles), "the example is that of a bootstrap peer and relay")
    return f"{len(variables)} settings, all known"


def check_unit() -> str:
    """The directives that make it safe, and its paths; systemd itself is asked in `check_unit_by_systemd`."""
    lines = UNIT.read_text(encoding="utf-8").splitlines()
    sections = [line for line in lines if line.startswith("[")]
    demand(sections == ["[Unit]", "[Service]", "[Install]"], f"sections are {sections}")
    for line in lines:
        demand(not line or line[0] in "#[" or re.fullmatch(r"[A-Z]\w+=.*", line), f"not a directive: {line!r}")
    wanted = "DynamicUser=yes ProtectSystem=strict ProtectHome=yes NoNewPrivileges=yes CapabilityBoundingSet="
    for directive in wanted.split():
        demand(directive in lines, f"{directive} is missing")
    return f"{len([line for line in lines if '=' in line])} directives"


def check_unit_by_systemd() -> str:
    demand(shutil.which("systemd-analyze"), "SKIP systemd-analyze is not installed")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, UNIT.name)
        program = re.search(r"^ExecStart=(\S+)", UNIT.read_text(), re.MULTILINE)
        demand(program, "there is no ExecStart")
        assert program is not None
        copy.write_text(UNIT.read_text().replace(program[1], sys.executable))  # verify wants the program to exist
        done = run(["systemd-analyze", "verify", str(copy)])
        complaints = [line for line in done.stderr.splitlines() if UNIT.name in line]
        demand(done.returncode == 0 and not complaints, done.stderr)
        judged = run(["systemd-analyze", "security", "--offline=yes", "--no-pager", str(copy)])
    exposure = re.search(r"exposure level for \S+: ([\d.]+)", judged.stdout)
    if exposure is None:
        return "verified by systemd-analyze; this version does not measure exposure"
    demand(float(exposure[1]) <= MAX_EXPOSURE, f"exposure {exposure[1]} is above {MAX_EXPOSURE}")
    return f"verified by systemd-analyze, exposure {exposure[1]} of 10"


# --- all of it ---------------------------------------------------------------------------------------------------

QUICK = {
    "compose": check_compose,
    "compose, operator": check_operator,
    "board": check_board,
    "environment": check_environment,
    "unit": check_unit,
    "unit, systemd": check_unit_by_systemd,
    "Containerfile": check_containerfile,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", action="store_true", help="run the image's steps, and ask for compose's own verdict")
    options = parser.parse_args()
    checks = dict(QUICK)
    if options.image:
        checks["compose, schema"] = check_compose_schema
        checks["image"] = lambda: check_image(platformdirs.user_cache_path("cactus-mesh") / "bootstrap-base")
    failed = 0
    for name, check in checks.items():
        try:
            print(f"pass  {name:16} {check()}", flush=True)
        except Wrong as wrong:
            skipped = str(wrong).startswith("SKIP ")
            failed += not skipped
            print(f"{'skip' if skipped else 'FAIL'}  {name:16} {str(wrong).removeprefix('SKIP ').strip()}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
