"""A node that this user's systemd keeps running: its unit, its environment file, and asking systemd about it.

Other systems are refused by name; what is in the files is decided by pure functions.
"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from cactus_mesh.config import ENVIRONMENT_PREFIX
from cactus_mesh.errors import ConfigMalformed, NodeNotRunning, ProcessFailed, ServiceUnavailable
from cactus_mesh.files import write_private

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cactus_mesh.config import Home

NAME: Final = "cactus-mesh.service"
SYSTEMCTL_SECONDS: Final = 90.0
"""Stopping a node lets its tasks end and settles them; the unit allows a minute for that."""

_UNIT: Final = """\
# Written by: cactus-mesh service install; removed by: cactus-mesh service uninstall
[Unit]
Description=Cactus Mesh node
# a ledger or a network that is down comes back some time
StartLimitIntervalSec=0

[Service]
Type=exec
EnvironmentFile={environment}
ExecStart={command}
Restart=on-failure
RestartSec=10
# a mistake in the settings does not go away by itself
RestartPreventExitStatus=2
TimeoutStopSec=60
UMask=0077
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes

[Install]
WantedBy=default.target
"""


@dataclass(frozen=True, slots=True)
class State:
    """What systemd says.  *active* is its word, such as active, activating, inactive, failed; *result* why it ended."""

    installed: bool
    active: str = "inactive"
    enabled: bool = False
    restarts: int = 0
    result: str = ""
    lingers: bool = False
    """Whether it goes on when the user is logged out."""


def unit_file(environment: Mapping[str, str] = os.environ) -> Path:
    config = environment.get("XDG_CONFIG_HOME")
    base = Path(config) if config and Path(config).is_absolute() else Path("~/.config").expanduser()
    return base / "systemd" / "user" / NAME


def environment_file(home: Home) -> Path:
    return home.config / "service.env"


def unit_text(python: str, home: Home, environment: Path) -> str:
    place = ["--home", str(home.state.absolute())] if home.state == home.config else []
    command = " ".join(map(quoted, [python, "-m", "cactus_mesh", *place, "run"]))
    # this line is not split into words: a path stands as it is, with only its percent signs doubled
    return _UNIT.format(environment=str(environment.absolute()).replace("%", "%%"), command=command)


def quoted(word: str) -> str:
    """*word* for a unit's command line (systemd.service(5), "Command lines").  Raises `ConfigMalformed`."""
    if any(not letter.isprintable() for letter in word):
        raise ConfigMalformed(f"systemd takes no control characters: {word!r}")
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if escaped != word or not word or any(letter in word for letter in " '") else word


def environment_text(settings: Mapping[str, object]) -> str:
    """The settings as variables (systemd.exec(5), "EnvironmentFile=").  Raises `ConfigMalformed`."""
    lines = ["# Settings of the service, as in docs/operating.md; after a change: cactus-mesh service install"]
    for name, value in settings.items():
        text = ",".join(value) if isinstance(value, list | tuple) else str(value)
        if any(not letter.isprintable() for letter in text):
            raise ConfigMalformed(f"{name} holds control characters: {text!r}")
        escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$").replace("`", "\\`")
        lines.append(f'{ENVIRONMENT_PREFIX}{name.upper()}="{escaped}"')
    return "\n".join(lines) + "\n"


# --- doing it ----------------------------------------------------------------------------------------------------


async def install(home: Home, settings: Mapping[str, object]) -> State:
    """Write unit and environment file, start the service and have it started with every session.

    An environment file that is there is kept unless there are *settings*.  Raises `ServiceUnavailable`,
    `ProcessFailed` with what systemd says, or `ConfigMalformed`.
    """
    await _require_manager()
    environment = environment_file(home)
    if settings or not environment.exists():
        write_private(environment, environment_text(settings).encode())
    unit = unit_file()
    unit.parent.mkdir(parents=True, exist_ok=True)
    unit.write_text(unit_text(sys.executable, home, environment), encoding="utf-8")
    await _systemctl("daemon-reload")
    await _systemctl("enable", NAME)
    await _systemctl("restart", NAME)
    return await state()


async def uninstall(home: Home) -> None:
    """Stop the service and remove both files; key, configuration and state stay.  Raises as `install` does."""
    if not unit_file().exists():
        raise NodeNotRunning(f"no service is installed here: there is no {unit_file()}")
    await _require_manager()
    await _systemctl("disable", "--now", NAME)
    unit_file().unlink(missing_ok=True)
    environment_file(home).unlink(missing_ok=True)
    await _systemctl("daemon-reload")


async def state() -> State:
    """Raises `ServiceUnavailable`."""
    await _require_manager()
    if not unit_file().exists():
        return State(installed=False)
    shown = await _systemctl("show", NAME, "--property=ActiveState,UnitFileState,NRestarts,Result")
    found = dict(line.partition("=")[::2] for line in shown.splitlines())
    return State(
        installed=True,
        active=found.get("ActiveState", "unknown"),
        enabled=found.get("UnitFileState") == "enabled",
        restarts=int(found.get("NRestarts") or 0),
        result=found.get("Result", ""),
        lingers=_lingers(),
    )


def _lingers() -> bool:
    """logind's mark that a user's services run without a session (loginctl enable-linger)."""
    return Path("/var/lib/systemd/linger", os.environ.get("USER", "")).is_file()


async def _require_manager() -> None:
    """Raises `ServiceUnavailable` where no systemd runs services for this user."""
    if sys.platform != "linux":
        system = {"darwin": "macOS (launchd)", "win32": "Windows"}.get(sys.platform, sys.platform)
        raise ServiceUnavailable(
            f"a service can be installed under systemd only, and this is {system}; have its own means run: "
            f"{shutil.which('cactus-mesh') or sys.executable + ' -m cactus_mesh'} run"
        )
    if shutil.which("systemctl") is None:
        raise ServiceUnavailable(
            "this machine has no systemd; have whatever starts its services run: cactus-mesh run, or use the container "
            "of bootstrap/"
        )
    status, _, complaint = await _run("show", "--property=Version")
    if status != 0:
        raise ServiceUnavailable(
            f"systemd runs no services for this user ({complaint.strip() or 'it does not answer'}); log in as the user "
            "itself, not through su or sudo, or install the system's unit of bootstrap/systemd"
        )


async def _systemctl(*arguments: str) -> str:
    """Its output.  Raises `ProcessFailed` with what it complains of."""
    status, output, complaint = await _run(*arguments)
    if status != 0:
        told = complaint.strip() or output.strip() or f"status {status}"
        raise ProcessFailed(f"systemctl --user {arguments[0]} failed: {told}; see: journalctl --user -u {NAME}")
    return output


async def _run(*arguments: str) -> tuple[int, str, str]:
    command: Sequence[str] = ("systemctl", "--user", *arguments)
    with trio.move_on_after(SYSTEMCTL_SECONDS):
        done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
        return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    raise ProcessFailed(f"systemctl --user {arguments[0]} does not end within {SYSTEMCTL_SECONDS:.0f} s")
