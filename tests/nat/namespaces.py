"""Network namespaces of one run: made, entered, removed again, also those that a killed run has left behind.

Knows nothing of routers or nodes.  Needs Linux, root, iproute2 and nftables; `why_not` says what is missing.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMAND_SECONDS: Final = 30.0
ENDED_SECONDS: Final = 5.0
REQUIRED: Final = os.environ.get("CACTUS_REQUIRE_NAT") == "1"
_NAME: Final = re.compile(r"cm(\d+)t(\d+)-")

_PROBE: Final = "table ip probe {\n chain out {\n  type nat hook postrouting priority 100\n  masquerade\n }\n}\n"


class LabMissing(Exception):
    """This machine cannot make the lab; says why."""


def run(*command: str, given: str | None = None) -> str:
    """Raises `LabMissing` with what the program said."""
    try:
        done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=COMMAND_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LabMissing(f"{command[0]} cannot be run: {error}") from None
    if done.returncode:
        raise LabMissing(f"{' '.join(command)} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def nft(namespace: str, rules: str) -> str:
    return run("ip", "netns", "exec", namespace, "nft", "-f", "-", given=rules)


@functools.cache
def why_not() -> str:
    """What keeps this machine from making the lab; "" when nothing does."""
    if sys.platform != "linux":
        return "network namespaces need Linux"
    if os.geteuid() != 0:
        return "network namespaces need root"
    for program, package in (("ip", "iproute2"), ("nft", "nftables"), ("sysctl", "procps")):
        if shutil.which(program) is None:
            return f"{program} is not installed (package {package})"
    try:
        with open_namespaces() as namespaces:
            probe = namespaces.add("probe")
            run("ip", "-n", probe, "link", "add", "left", "type", "veth", "peer", "name", "right")
            nft(
                probe, "table ip probe {\n chain out {\n  type nat hook postrouting priority 100\n  masquerade\n }\n}\n"
            )
    except LabMissing as missing:
        return f"this kernel or container does not permit it: {missing}"
    return ""


@functools.cache
def has_netem() -> bool:
    """Whether the kernel can delay packets."""
    with open_namespaces() as namespaces:
        try:
            run("tc", "-n", namespaces.add("probe"), "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms")
        except LabMissing:
            return False
    return True


@contextmanager
def open_namespaces() -> Iterator[Namespaces]:
    """Leaving the block ends every process in the namespaces and removes them."""
    _remove_stale()
    namespaces = Namespaces()
    try:
        yield namespaces
    finally:
        for name in namespaces.names:
            _remove(name)


class Namespaces:
    """Names carry this process's id and start, so that runs side by side, and dead ones, are told apart."""

    _count = 0

    def __init__(self) -> None:
        Namespaces._count += 1
        self._prefix = f"cm{os.getpid()}t{_started(os.getpid())}-{Namespaces._count}"
        self.names: list[str] = []

    def add(self, name: str) -> str:
        """A new namespace with its loopback up; its name on this machine."""
        full = f"{self._prefix}-{name}"
        run("ip", "netns", "add", full)
        self.names.append(full)
        run("ip", "-n", full, "link", "set", "lo", "up")
        return full


def _started(pid: int) -> int | None:
    """When that process started, in the kernel's ticks; None when there is none."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return None


def _remove_stale() -> None:
    for line in run("ip", "netns", "list").splitlines():
        found = _NAME.match(line)
        if found and _started(int(found[1])) != int(found[2]):
            _remove(line.split()[0])


def _remove(name: str) -> None:
    with contextlib.suppress(LabMissing):  # removed by another run that found it stale
        until = time.monotonic() + ENDED_SECONDS
        while (pids := run("ip", "netns", "pids", name).split()) and time.monotonic() < until:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            time.sleep(0.02)
        run("ip", "netns", "del", name)
