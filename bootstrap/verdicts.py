"""What every check of this folder says, and with what: wrong, or which part of it this machine cannot check."""

from __future__ import annotations

import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent


class Wrong(Exception):
    """A file is not as it must be; or, where it begins with SKIP, why that cannot be seen here."""


def demand(holds: object, otherwise: str) -> None:
    if not holds:
        raise Wrong(otherwise)


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


def quiet(command: list[str]) -> int:
    return run(command).returncode
