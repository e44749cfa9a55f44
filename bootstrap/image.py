"""The image: whether its Containerfile holds together, and whether what its steps make starts, serves and stops.

The steps are run by a container engine or, as root, in a chroot of a new Debian with Python.
"""

from __future__ import annotations

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

from bootstrap.verdicts import HERE, ROOT, Wrong, demand, quiet, run

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
TARGETS = ("inference", "base")
"""The images that can be built."""
NOT_RUN = ("build-inference", "inference")


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
        if shutil.which(engine) and quiet([engine, "info"]) == 0:
            build = run([engine, "build", "-f", str(HERE / "Containerfile"), "-t", "cactus-mesh:check", str(ROOT)])
            demand(build.returncode == 0, build.stderr[-2_000:])
            ran = run([engine, "run", "--rm", "cactus-mesh:check", "--version"])
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
    done = run(["debootstrap", "--variant=minbase", packages, "bookworm", str(base)])
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
            lambda: quiet(["python3", "-c", "import socket; socket.create_connection(('127.0.0.1', 18790), 1)"]) == 0
        )
        command = [*node, *json.loads(stage.said["CMD"])]
        server = subprocess.Popen(
            stage.command(command, user=stage.user), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        health = json.loads(stage.said["HEALTHCHECK"].partition("CMD")[2])
        _until(lambda: quiet(stage.command(health, user=stage.user)) == 0)
        quiet(["pkill", "-TERM", "-P", str(server.pid)])
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


def _succeed(command: list[str]) -> None:
    done = run(command)
    demand(done.returncode == 0, f"{shlex.join(command)[-200:]}\n{done.stdout[-1_000:]}{done.stderr[-1_000:]}")
