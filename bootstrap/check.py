"""Checks what is in this folder, as far as this machine can, and says what could not be checked.

``python bootstrap/check.py`` looks at the files; ``--image`` also runs the image's steps, with a container engine, or
as root in a chroot of its own: a new Debian with Python, in place of the image that the Containerfile begins from.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs
import yaml

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
UNIT = HERE / "systemd" / "cactus-mesh.service"
MAX_EXPOSURE = 2.0
"""Of systemd's own measure, from 0 (sealed) to 10 (open)."""
COMPOSE_SCHEMA = "check-jsonschema==0.37.4"
"""Carries the compose specification's schema."""
INSTRUCTIONS = frozenset(
    [
        "FROM",
        "ARG",
        "WORKDIR",
        "RUN",
        "COPY",
        "ENV",
        "USER",
        "VOLUME",
        "EXPOSE",
        "STOPSIGNAL",
        "HEALTHCHECK",
        "ENTRYPOINT",
        "CMD",
    ]
)
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


TARGETS = ("inference", "base")
"""The images that can be built."""
NOT_RUN = ("build-inference", "inference")


class Wrong(Exception):
    """A file is not as it must be."""


def demand(holds: object, otherwise: str) -> None:
    if not holds:
        raise Wrong(otherwise)


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
        if shutil.which(command[0]) and _quiet([*command, "version"]) == 0:
            with tempfile.TemporaryDirectory() as folder:
                place = Path(folder, "bootstrap")
                shutil.copytree(HERE, place)
                shutil.copyfile(HERE / "environment.example", place / "environment")
                done = _run([*command, "-f", str(place / "compose.yaml"), "config", "--quiet"])
            demand(done.returncode == 0, done.stderr)
            return f"accepted by {' '.join(command)} config"
    uv = Path(sys.executable).with_name("uv")
    demand(uv.exists(), "SKIP neither compose nor uv is here, which would fetch the compose specification's schema")
    check = [str(uv), "tool", "run", COMPOSE_SCHEMA, "--builtin-schema", "vendor.compose-spec"]
    done = _run([*check, str(HERE / "compose.yaml"), str(HERE / "compose.operator.yaml")])
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
        done = _run(["systemd-analyze", "verify", str(copy)])
        complaints = [line for line in done.stderr.splitlines() if UNIT.name in line]
        demand(done.returncode == 0 and not complaints, done.stderr)
        judged = _run(["systemd-analyze", "security", "--offline=yes", "--no-pager", str(copy)])
    exposure = re.search(r"exposure level for \S+: ([\d.]+)", judged.stdout)
    if exposure is None:
        return "verified by systemd-analyze; this version does not measure exposure"
    demand(float(exposure[1]) <= MAX_EXPOSURE, f"exposure {exposure[1]} is above {MAX_EXPOSURE}")
    return f"verified by systemd-analyze, exposure {exposure[1]} of 10"


# --- the image ---------------------------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    """The Containerfile's, each with its argument."""
    text = re.sub(r"\\\n", " ", (HERE / "Containerfile").read_text(encoding="utf-8"))
    found = []
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            name, _, argument = line.partition(" ")
            demand(name in INSTRUCTIONS, f"unknown instruction {name!r}")
            found.append((name, argument.strip()))
    return found


def stages_of(found: list[tuple[str, str]]) -> dict[str, list[tuple[str, str]]]:
    """The instructions of each stage, by its name."""
    stages: dict[str, list[tuple[str, str]]] = {}
    for name, argument in found:
        if name == "FROM":
            title = argument.partition(" AS ")[2]
            demand(title and title not in stages, f"FROM {argument}: each stage has a name of its own")
            stages[title] = []
        stages[list(stages)[-1]].append((name, argument))
    return stages


def check_containerfile() -> str:
    found = instructions()
    stages = stages_of(found)
    for target in TARGETS:
        demand(target in stages, f"there is no stage {target}")
        demand(stages[target][-1] == ("USER", "cactus-mesh"), f"{target} must not run as root")
    demand(list(stages)[-1] == "base", "what is built without --target must be the small image")
    for name, argument in found:
        if name == "COPY" and not argument.startswith("--from="):
            for source in argument.split()[:-1]:
                demand((ROOT / source).exists(), f"COPY {source}: it is not there")
        if name in ("ENTRYPOINT", "CMD"):
            demand(isinstance(json.loads(argument), list), f"{name} must be a list")
    return f"{len(found)} instructions in {len(stages)} stages, every source is there"


@dataclass
class Stage:
    """A root folder and what the instructions so far have said about it."""

    root: Path
    env: dict[str, str] = field(default_factory=lambda: {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"})
    workdir: str = "/"
    user: str = "root"
    said: dict[str, str] = field(default_factory=dict)

    def inside(self, path: str) -> Path:
        return self.root / os.path.join(self.workdir, path).lstrip("/")  # noqa: PTH118 - of the image, not of here

    def command(self, words: list[str], *, user: str = "root") -> list[str]:
        change = [] if user == "root" else ["setpriv", "--reuid", user, "--regid", user, "--clear-groups"]
        change += [] if user == "root" else ["--bounding-set=-all", "--no-new-privs"]
        chroot = ["chroot", str(self.root), "/usr/bin/env", "-i", *(f"{k}={v}" for k, v in self.env.items())]
        inner = [*chroot, *change, "sh", "-c", f"cd {shlex.quote(self.workdir)} && exec {shlex.join(words)}"]
        proc = f"mount -t proc proc {shlex.quote(str(self.root / 'proc'))} && exec {shlex.join(inner)}"
        return ["unshare", "--mount", "--pid", "--fork", "--kill-child=TERM", "sh", "-c", proc]


def check_image(base: Path) -> str:
    for engine in ("docker", "podman"):
        if shutil.which(engine) and _quiet([engine, "info"]) == 0:
            build = _run([engine, "build", "-f", str(HERE / "Containerfile"), "-t", "cactus-mesh:check", str(ROOT)])
            demand(build.returncode == 0, build.stderr[-2_000:])
            ran = _run([engine, "run", "--rm", "cactus-mesh:check", "--version"])
            demand(ran.returncode == 0, ran.stderr)
            return f"built by {engine}; {ran.stdout.strip()} starts in it"
    demand(sys.platform == "linux" and os.geteuid() == 0, "SKIP no container engine answers, and a chroot needs root")
    _make_base(base)
    with tempfile.TemporaryDirectory(prefix="cactus-mesh-image-") as folder:
        final = _build(base, Path(folder))
        return (
            f"no engine here: every step ran in a chroot of Debian's Python instead of the named image; {_serve(final)}"
        )


def _make_base(base: Path) -> None:
    if (base / "usr/bin/python3").exists():
        return
    demand(shutil.which("debootstrap"), "SKIP no container engine answers, and debootstrap is not installed")
    print("      making a Debian with Python for the chroot (some minutes, kept in the user's cache)", flush=True)
    base.parent.mkdir(parents=True, exist_ok=True)
    packages = "--include=python3,python3-venv,ca-certificates"
    done = _run(["debootstrap", "--variant=minbase", packages, "bookworm", str(base)])
    if done.returncode != 0:
        shutil.rmtree(base, ignore_errors=True)
        raise Wrong(f"SKIP debootstrap failed: {done.stdout[-300:]}")


def _build(base: Path, folder: Path) -> Stage:
    """The stages that the small image needs; those with torch are some gigabytes more, and only looked at."""
    stages: dict[str, Stage] = {}
    for title, steps in stages_of(instructions()).items():
        if title in NOT_RUN:
            continue
        origin = stages.get(steps[0][1].partition(" AS ")[0])
        stage = stages[title] = Stage(folder / title)
        if origin is not None:
            stage.env, stage.workdir = dict(origin.env), origin.workdir
            stage.user, stage.said = origin.user, dict(origin.said)
        _succeed(["cp", "-a", "--reflink=auto", str(origin.root if origin else base), str(stage.root)])
        _lend_registry(stage)
        for name, argument in steps[1:]:
            _step(stage, stages, name, argument)
    return stages["base"]


def _lend_registry(stage: Stage) -> None:
    """How this machine reaches names and the package index; an engine would do the same by its own means."""
    for path in ("/etc/resolv.conf", "/etc/hosts", "/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt"):
        if Path(path).exists():
            shutil.copyfile(path, stage.root / path.lstrip("/"))
    lent = ("PIP_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT")
    stage.env |= {name: value for name, value in os.environ.items() if name.startswith(lent)}


def _step(stage: Stage, stages: dict[str, Stage], name: str, argument: str) -> None:
    match name:
        case "RUN":
            _succeed(stage.command(["sh", "-c", argument]))
        case "COPY":
            _copy(stage, stages, argument)
        case "ENV":
            key, _, value = argument.partition("=")
            stage.env[key] = value
        case "WORKDIR":
            stage.workdir = argument
            stage.inside(".").mkdir(parents=True, exist_ok=True)
        case "USER":
            stage.user = argument
        case _:
            stage.said[name] = argument


def _copy(stage: Stage, stages: dict[str, Stage], argument: str) -> None:
    words = argument.split()
    source = ROOT
    if words[0].startswith("--from="):
        source = stages[words.pop(0).partition("=")[2]].root
    *froms, to = words
    target = stage.inside(to)
    for each in froms:
        origin = source / each.lstrip("/")
        if origin.is_dir():
            skipped = shutil.ignore_patterns("__pycache__")
            shutil.copytree(origin, target, symlinks=True, dirs_exist_ok=True, ignore=skipped)
        else:
            place = target / origin.name if to.endswith("/") else target
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(origin, place)


def _serve(stage: Stage) -> str:
    """Start what the image starts, with an embedded ledger beside it; ask for its health; stop it."""
    node = json.loads(stage.said["ENTRYPOINT"])
    settings = {"ROLES": "bootstrap,relay", "LISTEN": "/ip4/127.0.0.1/tcp/0", "LEDGER": "http://127.0.0.1:18790"}
    stage.env |= {f"CACTUS_MESH_{name}": value for name, value in settings.items()}
    _succeed(
        stage.command(["sh", "-c", "! touch /usr/written 2>/dev/null && ! touch /written 2>/dev/null"], user=stage.user)
    )
    devnet = [*node, "--home", "/tmp/ledger", "devnet", "--port", "18790"]
    ledger = subprocess.Popen(stage.command(devnet), stdout=subprocess.DEVNULL)
    server = None
    try:
        _until(
            lambda: _quiet(["python3", "-c", "import socket; socket.create_connection(('127.0.0.1', 18790), 1)"]) == 0
        )
        command = [*node, *json.loads(stage.said["CMD"])]
        server = subprocess.Popen(
            stage.command(command, user=stage.user), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        health = json.loads(stage.said["HEALTHCHECK"].partition("CMD")[2])
        _until(lambda: _quiet(stage.command(health, user=stage.user)) == 0)
        _quiet(["pkill", "-TERM", "-P", str(server.pid)])
        status = server.wait(30)
        demand(status in (0, 143), f"the node ended with status {status} when it was told to stop")
    finally:
        for process in filter(None, (server, ledger)):
            process.kill()
            process.wait()
    return f"as {stage.user}, {shlex.join(command)} became healthy and stopped in order"


def _until(holds: Any) -> None:
    for _ in range(60):
        if holds():
            return
        time.sleep(0.5)
    raise Wrong("it did not get ready within half a minute")


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


def _quiet(command: list[str]) -> int:
    return _run(command).returncode


def _succeed(command: list[str]) -> None:
    done = _run(command)
    demand(done.returncode == 0, f"{shlex.join(command)[-200:]}\n{done.stdout[-1_000:]}{done.stderr[-1_000:]}")


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
