"""Measures what keeps a node from working: this machine, its ledger, the ways to others and theirs to us.

Every check runs beside the others and has its own time limit; the verdicts are `core.checkup`'s.  Nothing is changed:
neither in the home nor, but for one short visit with a key of that moment, in the network.
"""

from __future__ import annotations

import contextlib
import email.utils
import importlib.metadata
import os
import shutil
import stat
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio

from cactus_mesh.config import Config, Home, load_config
from cactus_mesh.control import ask_node
from cactus_mesh.core.checkup import (
    ClockReading,
    Finding,
    Lookup,
    Torch,
    judge_clock,
    judge_disk,
    judge_dns,
    judge_key,
    judge_ledger,
    judge_port,
    judge_settings,
    judge_torch,
)
from cactus_mesh.errors import KeyFileMissing, LedgerDown, MeshError, NodeNotRunning, PortInUse
from cactus_mesh.identity import Address, load_key_file

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    Report = Callable[[Finding], None]

CHECK_SECONDS: Final = 17.0
"""For all of them, as they run at the same time."""
ANSWER_SECONDS: Final = 6.0
TORCH_SECONDS: Final = 16.0
"""Importing torch takes two to ten seconds, on a machine that is busy."""


@dataclass(frozen=True, slots=True)
class Patient:
    """Whom to look at.  *running* is the status of the home's node; None when none runs."""

    home: Home
    config: Config
    running: dict[str, Any] | None


async def examine(home: Home, flags: Mapping[str, object], report: Report) -> list[Finding]:
    """Check everything, within about `CHECK_SECONDS`; *report* hears each finding, in order, as soon as it can.

    *flags* are as `load_config` takes them.  Never raises for what is wrong: that is what it is there to tell.
    """
    from cactus_mesh.visit import judge_ways

    _import_what_is_slow()
    config, problem = _settings(home, flags)
    running = await _running(home)
    if running is not None:
        config = _as_it_runs(config, running, flags)
    patient = Patient(home, config, running)
    line = _InOrder(report, ORDER)
    line.add(judge_settings(problem, _where_from(home, config)))
    line.add(_node(patient))
    line.add(_port(patient))  # before a visitor of ours takes it
    ledger_time: list[ClockReading] = []
    asked = trio.Event()

    async def alone(name: str, check: Callable[[Patient], Awaitable[Finding]]) -> None:
        finding = Finding(name, "warn", f"not finished within {CHECK_SECONDS:.0f} s", "try again; is the machine busy?")
        with trio.move_on_after(CHECK_SECONDS):
            finding = await check(patient)
        line.add(finding)

    async def ask_the_time() -> None:
        with trio.move_on_after(ANSWER_SECONDS):
            ledger_time.extend(await _ledger_time(config.ledger))
        asked.set()

    async def ways() -> None:
        found, refusals, accepted = await judge_ways(home, config, running, CHECK_SECONDS)
        for finding in found:
            line.add(finding)
        await asked.wait()
        line.add(judge_clock(ledger_time, refusals, accepted=accepted))

    async with trio.open_nursery() as nursery:
        for name, check in {"key": _key, "disk": _disk, "torch": _torch, "dns": _dns}.items():
            nursery.start_soon(alone, name, check)
        nursery.start_soon(alone, "ledger", _ledger)
        nursery.start_soon(ask_the_time)
        nursery.start_soon(ways)
    return line.all()


def _import_what_is_slow() -> None:
    """Before anything is timed: libp2p and the ledger's client take a second, in which nothing else would run."""
    import cactus_mesh.ledger.client
    import cactus_mesh.net.network  # noqa: F401


ORDER: Final = (
    *("settings", "node", "key", "disk", "torch", "clock", "port", "dns", "ledger"),
    *("bootstrap", "reachable", "nat", "mapping", "hole punch", "relay"),
)


class _InOrder:
    """Passes findings on in the order of their names, as far as they are there."""

    def __init__(self, report: Report, order: tuple[str, ...]) -> None:
        self._report = report
        self._order = order
        self._found: dict[str, Finding] = {}
        self._told = 0

    def add(self, finding: Finding) -> None:
        assert finding.check in self._order, "every check has its place"
        self._found[finding.check] = finding
        while self._told < len(self._order) and self._order[self._told] in self._found:
            self._report(self._found[self._order[self._told]])
            self._told += 1

    def all(self) -> list[Finding]:
        return [self._found[name] for name in self._order]


# --- settings and node -------------------------------------------------------------------------------------------


def _settings(home: Home, flags: Mapping[str, object]) -> tuple[Config, MeshError | None]:
    try:
        return load_config(home, flags), None
    except MeshError as error:
        problem = error
    with contextlib.suppress(MeshError):  # without the file and the variables, perhaps the flags alone are right
        return load_config(_WITHOUT_FILE, flags, {}), problem
    return load_config(_WITHOUT_FILE, {}, {}), problem


_WITHOUT_FILE: Final = Home(Path(os.devnull), Path(os.devnull))


def _as_it_runs(config: Config, running: Mapping[str, Any], flags: Mapping[str, object]) -> Config:
    """With what the running node was told on its own command line, where this one says nothing."""
    told = {"bootstrap": tuple(running["bootstrap"]), "roles": tuple(running["roles"]), "ledger": running["ledger"]}
    return replace(config, **{name: value for name, value in told.items() if flags.get(name) is None})


def _where_from(home: Home, config: Config) -> str:
    file = str(home.config_file) if home.config_file.exists() else f"no {home.config_file}"
    return f"network {config.network} as {', '.join(config.roles)}; {file}"


async def _running(home: Home) -> dict[str, Any] | None:
    try:
        return await ask_node(home.control_file, "status")
    except NodeNotRunning:
        return None


def _node(patient: Patient) -> Finding:
    if patient.running is None:
        return Finding("node", "pass", "not running: this command joins for a moment to look around")
    return Finding("node", "pass", f"running with this home; peers connected: {patient.running['peers']}")


# --- this machine ------------------------------------------------------------------------------------------------


async def _key(patient: Patient) -> Finding:
    path = patient.home.key_file
    error: MeshError | None = None
    peer = mode = None
    try:
        peer = load_key_file(path).peer_id
        mode = stat.S_IMODE(path.stat().st_mode) if os.name == "posix" else None
    except KeyFileMissing:
        pass
    except MeshError as problem:
        error = problem
    return judge_key(str(path), peer, error, mode=mode)


def _port(patient: Patient) -> Finding:
    from cactus_mesh.adapters import DEFAULT_PORT
    from cactus_mesh.net.addresses import parse_address
    from cactus_mesh.net.sockets import listen_on

    if patient.running is not None:
        held = dict.fromkeys(
            text.partition("/p2p/")[0] for text in patient.running["addresses"] if "circuit" not in text
        )
        return judge_port((), held=tuple(held) or ("its port",), refused={}, chosen=False)
    chosen = patient.config.listen
    listen = chosen or (f"/ip4/0.0.0.0/tcp/{DEFAULT_PORT}",)
    refused: dict[str, str] = {}
    for text in listen:
        try:
            listen_on(parse_address(text)).close()
        except PortInUse as error:
            refused[text] = str(error).partition(" (another node")[0].partition("; ")[0]
        except MeshError as error:
            refused[text] = str(error)
    return judge_port(listen, held=(), refused=refused, chosen=bool(chosen))


async def _disk(patient: Patient) -> Finding:
    return await trio.to_thread.run_sync(_disk_now, patient, abandon_on_cancel=True)  # a network share may hang


def _disk_now(patient: Patient) -> Finding:
    home = _existing(patient.home.state)
    cache = None
    if patient.config.engine.allow_download and "orchestrator" in patient.config.roles:
        cache = Path(os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME") or _HF_HOME) / "hub").expanduser()
    return judge_disk(
        str(patient.home.state),
        shutil.disk_usage(home).free,
        writable=os.access(home, os.W_OK),
        cache=None if cache is None else str(cache),
        cache_free=0 if cache is None else shutil.disk_usage(_existing(cache)).free,
    )


_HF_HOME: Final = Path("~/.cache/huggingface")


def _existing(path: Path) -> Path:
    """*path*, or its nearest parent that is there."""
    return next(each for each in (path.absolute(), *path.absolute().parents) if each.exists())


async def _torch(patient: Patient) -> Finding:
    needed = "orchestrator" in patient.config.roles
    missing = [name for name in ("torch", "transformers") if not _installed(name)]
    torch, problem = (None, "") if missing else await _start_torch()
    return judge_torch(missing, torch, problem, device=patient.config.engine.device, needed=needed)


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


async def _start_torch() -> tuple[Torch | None, str]:
    command = [sys.executable, "-m", "cactus_mesh.engine.runner.devices"]
    with trio.move_on_after(TORCH_SECONDS):
        done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
        try:
            return msgspec.json.decode(done.stdout.splitlines()[-1], type=Torch), ""
        except (msgspec.DecodeError, IndexError):
            last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
            return None, f"torch does not start: {last or f'status {done.returncode}'}"
    return None, f"torch does not start within {TORCH_SECONDS:.0f} s"


# --- ledger and names --------------------------------------------------------------------------------------------


async def _ledger(patient: Patient) -> Finding:
    from cactus_mesh.ledger.client import open_ledger

    config = patient.config
    began = trio.current_time()
    problem: MeshError | None = None
    try:
        with trio.fail_after(ANSWER_SECONDS):
            async with open_ledger(config.ledger, Address(config.contract), config.chain_id) as ledger:
                began = trio.current_time()
                await ledger.balance(Address("0x" + "0" * 63 + "1"))
    except MeshError as error:
        problem = error
    except trio.TooSlowError:
        problem = LedgerDown(f"the ledger at {config.ledger} does not answer within {ANSWER_SECONDS:.0f} s")
    return judge_ledger(config.ledger, config.chain_id, config.contract, problem, (trio.current_time() - began) * 1_000)


async def _ledger_time(url: str) -> list[ClockReading]:
    """The ledger's time, which goes on with its blocks, and its server's, which is exact to a second."""
    import httpx

    from cactus_mesh.ledger.connect import base_url, http_client

    try:
        base = base_url(url)
        async with http_client(base) as http:
            await http.get(f"{base}/v1")  # the connection is made, so that the next answer is quick
            before = time.time()
            reply = await http.get(f"{base}/v1")
            after = time.time()
    except (httpx.HTTPError, MeshError):
        return []
    now, doubt = (before + after) / 2, (after - before) / 2
    readings = []
    micros = reply.headers.get("x-aptos-ledger-timestampusec", "")
    if micros.isdigit() and len(micros) < 20:
        readings.append(ClockReading("the ledger", now - int(micros) / 1e6, doubt + 1.0))
    with contextlib.suppress(TypeError, ValueError, IndexError):
        at = email.utils.parsedate_to_datetime(reply.headers.get("date", "")).timestamp() + 0.5
        readings.append(ClockReading("the ledger's server", now - at, doubt + 0.6))
    return readings


async def _dns(patient: Patient) -> Finding:
    names = _names(patient.config)
    found: dict[str, Lookup] = {}

    async def look_up(name: str) -> None:
        began = trio.current_time()
        problem, addresses = f"no answer within {ANSWER_SECONDS:.0f} s", tuple[str, ...]()
        with trio.move_on_after(ANSWER_SECONDS):
            try:
                answer = await trio.socket.getaddrinfo(name, None, type=trio.socket.SOCK_STREAM)
                addresses = tuple(dict.fromkeys(str(each[4][0]) for each in answer))
                problem = ""
            except OSError as error:
                problem = error.strerror or str(error)
            except UnicodeError:
                problem = "not a host name"
        found[name] = Lookup(name, addresses, (trio.current_time() - began) * 1_000, problem)

    async with trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(look_up, name)
    return judge_dns([found[name] for name in names])


def _names(config: Config) -> list[str]:
    """The host names, not addresses, that this configuration depends on."""
    import ipaddress
    from urllib.parse import urlsplit

    from cactus_mesh.net.addresses import parse_address

    hosts = [urlsplit(config.ledger).hostname or ""]
    for text in config.bootstrap[:MAX_NAMES]:
        with contextlib.suppress(MeshError):
            hosts.append(parse_address(text).host)
    names = []
    for host in dict.fromkeys(hosts):
        try:
            ipaddress.ip_address(host)
        except ValueError:
            names.append(host)
    return [name for name in names if name]


MAX_NAMES: Final = 16
"""Bootstrap peers that are looked at; nobody needs more."""
