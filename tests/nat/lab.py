"""Nodes in the namespaces of a small internet: a ledger, relays, and whoever is started beside them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

from cactus_mesh.config import ENVIRONMENT_PREFIX
from cactus_mesh.processes import Child
from tests.nat.internet import Internet, Machine, open_internet
from tests.nat.routers import PORT, Kind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROOT: Final = Path(__file__).parents[2]
ORDER_SECONDS: Final = 60.0
FIND_SECONDS: Final = 60.0
STOPS_AT_ONCE: Final = 8
LEDGER_PORT: Final = 8790


class OrderFailed(Exception):
    """The node answered with this error."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class Process:
    """A process on a machine.  One that takes orders is asked by `do`."""

    def __init__(self, child: Child, machine: Machine, home: Path) -> None:
        self._child = child
        self._replies: dict[int, trio.MemorySendChannel[dict[str, Any]]] = {}
        self._count = 0
        self._one_writes = trio.Lock()
        self.pieces = 0
        """Of streamed answers, that its client's tasks have got so far."""
        self.machine = machine
        self.home = home
        self.facts: dict[str, Any] = {}
        self.module = ""
        self.arguments: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self._child.name

    @property
    def pid(self) -> int:
        return self._child.process.pid

    @property
    def peer_id(self) -> str:
        return str(self.facts["peer_id"])

    @property
    def log(self) -> str:
        return self._child.log.read_text(errors="replace")

    async def do(self, order: str, *, within: float = ORDER_SECONDS, **arguments: object) -> Any:
        """Raises `OrderFailed`, or trio.TooSlowError."""
        assert self._child.process.stdin is not None
        self._count += 1
        number = self._count
        into, reply = trio.open_memory_channel[dict[str, Any]](1)
        self._replies[number] = into
        try:
            with trio.fail_after(within):
                line = json.dumps({"id": number, "do": order, **arguments})
                async with self._one_writes:
                    await self._child.process.stdin.send_all(line.encode() + b"\n")
                answer = await reply.receive()
        except (trio.BrokenResourceError, trio.EndOfChannel):
            raise OrderFailed("lab.ended", f"{self.name} has ended: {self.log[-2_000:]}") from None
        finally:
            self._replies.pop(number, None)
        if "error" in answer:
            raise OrderFailed(**answer["error"])
        return answer["answer"]

    async def start(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Wait until it is ready, then hand its answers to those who asked."""
        self.facts = await self._child.ready()
        task_status.started()
        while (line := await self._child.line()) is not None:
            if line.get("event") == "piece":
                self.pieces += 1
            elif (into := self._replies.get(line.get("id", 0))) is not None:
                into.send_nowait(line)
        for into in self._replies.values():
            into.close()

    async def kill(self) -> None:
        await self._child.kill()

    async def stop(self) -> None:
        self.resume()
        await self._child.stop()

    def pause(self) -> None:
        self._child.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._child.process.send_signal(signal.SIGCONT)

    async def peers(self) -> dict[str, dict[str, Any]]:
        """Whom it is connected to, by peer id."""
        return {peer["peer"]: peer for peer in (await self.do("status"))["peers"]}

    # --- what it costs ---------------------------------------------------------------------------------------------

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_bytes(self) -> int:
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def sockets(self) -> int:
        found = 0
        for descriptor in Path(f"/proc/{self.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found += str(descriptor.readlink()).startswith("socket:")
        return found


class Lab:
    """*relays* are bootstrap peers and relays at once, on public machines."""

    def __init__(self, internet: Internet, folder: Path, nursery: trio.Nursery) -> None:
        self.internet = internet
        self.processes: dict[str, Process] = {}
        self.chain: dict[str, Any] = {}
        self.relays: list[Process] = []
        self._folder = folder
        self._nursery = nursery

    def home(self, name: str) -> Path:
        return self._folder / name

    # --- processes -----------------------------------------------------------------------------------------------

    async def spawn(self, name: str, machine: Machine, *arguments: str, module: str = "cactus_mesh") -> Process:
        """``python -m module --home HOME arguments`` on *machine*, ready."""
        home = self.home(name)
        command = [sys.executable, "-m", module, "--home", str(home), *arguments]
        log = self._folder / f"{name}.log"
        with log.open("ab") as errors:
            process = await trio.lowlevel.open_process(
                ["ip", "netns", "exec", machine.namespace, *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={key: value for key, value in os.environ.items() if not key.startswith(ENVIRONMENT_PREFIX)},
                cwd=ROOT,
                start_new_session=True,
            )
        started = Process(Child(name, process, log), machine, home)
        started.module, started.arguments = module, arguments
        self.processes[name] = started
        await self._nursery.start(started.start)
        return started

    async def node(
        self,
        name: str,
        role: str,
        place: Machine | Kind,
        engine: dict[str, Any] | None = None,
        **settings: object,
    ) -> Process:
        """Start a node that takes orders; its key is enrolled at the ledger first."""
        machine = self.machine(name, place)
        await self.enrol(name, role)
        everything = {**self.settings, **settings}
        return await self.spawn(
            name, machine, role, json.dumps(everything), json.dumps(engine or {}), module="tests.nat.node"
        )

    async def crowd(self, name: str, place: Machine | Kind, count: int) -> Process:
        """A process with *count* clients, enrolled, that can be told to join."""
        machine = self.machine(name, place)
        for number in range(count):
            await self.enrol(f"{name}/{number}", "client")
        return await self.spawn(name, machine, "crowd", json.dumps(self.settings), "{}", module="tests.nat.node")

    async def restart(self, process: Process) -> Process:
        """Start the same program again, with the same key, after it was killed."""
        return await self.spawn(process.name, process.machine, *process.arguments, module=process.module)

    async def run(self, name: str, roles: str, place: Machine | Kind, *arguments: str) -> Process:
        """Start ``cactus-mesh run``, as a user would.  *roles* joined by +."""
        machine = self.machine(name, place)
        for role in roles.split("+"):
            await self.enrol(name, role)
        given = [argument for role in roles.split("+") for argument in ("--role", role)]
        for relay in self.relays:
            given += ["--bootstrap", self.address(relay)]
        common = ["--ledger", self.chain["url"], "--json", "--until-stdin-closes"]
        logging = ("-v", "--log-format", "json")
        return await self.spawn(name, machine, *logging, "run", *given, *common, *arguments)

    async def command(self, name: str, machine: Machine, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        """A command of ``cactus-mesh`` that ends by itself, with the home *name*."""
        command = [sys.executable, "-m", "cactus_mesh", "--home", str(self.home(name)), *arguments]
        with trio.fail_after(ORDER_SECONDS):
            return await trio.run_process(
                ["ip", "netns", "exec", machine.namespace, *command],
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                cwd=ROOT,
            )

    async def enrol(self, name: str, role: str) -> None:
        if role in ("client", "router", "orchestrator"):
            await self.processes["purse"].do("enrol", home=str(self.home(name)), role=role)

    def machine(self, name: str, place: Machine | Kind) -> Machine:
        return self.internet.machine(name, place) if isinstance(place, str) else place

    # --- the mesh ------------------------------------------------------------------------------------------------

    @property
    def settings(self) -> dict[str, Any]:
        return {"ledger": self.chain["url"], "bootstrap": [self.address(relay) for relay in self.relays]}

    def address(self, relay: Process) -> str:
        return f"/ip4/{relay.machine.site.wan}/tcp/{PORT}/p2p/{relay.peer_id}"

    async def open(self, relays: int) -> None:
        """The ledger, the purse, and so many relays."""
        bank = self.internet.machine("ledger", "public")
        serve = ("devnet", "--host", bank.address, "--port", str(LEDGER_PORT), "--json", "--until-stdin-closes")
        self.chain = (await self.spawn("ledger", bank, *serve)).facts
        admin = self.home("ledger") / "devnet" / "admin.key"
        settings = {"ledger": self.chain["url"], "admin": str(admin)}
        await self.spawn("purse", bank, "purse", json.dumps(settings), "{}", module="tests.nat.node")
        for number in range(1, relays + 1):
            listen = f"/ip4/0.0.0.0/tcp/{PORT}"
            self.relays.append(await self.run(f"relay{number}", "bootstrap+relay", "public", "--listen", listen))

    async def acquainted(self, router: Process, *models: str) -> float:
        """Wait until *router* knows who serves *models*; how long it took."""
        began = trio.current_time()
        with trio.fail_after(FIND_SECONDS):
            while not set(models) <= set((await router.do("status"))["models_known"]):  # noqa: ASYNC110 - as a user
                await trio.sleep(0.1)
        return trio.current_time() - began

    async def stop(self) -> None:
        """Everybody but the ledger at once, then the ledger."""
        limiter = trio.CapacityLimiter(STOPS_AT_ONCE)

        async def stop(process: Process) -> None:
            async with limiter:
                await process.stop()

        async with trio.open_nursery() as nursery:
            for name, process in self.processes.items():
                if name != "ledger":
                    nursery.start_soon(stop, process)
        if "ledger" in self.processes:
            await self.processes["ledger"].stop()


@asynccontextmanager
async def open_lab(*, relays: int = 2) -> AsyncIterator[Lab]:
    """Raises `LabMissing`.  Leaving the block, also by an error, ends every process and removes every namespace."""
    with open_internet() as internet, tempfile.TemporaryDirectory(prefix="cactus-mesh-nat-") as folder:
        async with trio.open_nursery() as nursery:
            lab = Lab(internet, Path(folder), nursery)
            try:
                await lab.open(relays)
                yield lab
            finally:
                with trio.CancelScope(shield=True):
                    await lab.stop()
            nursery.cancel_scope.cancel()
