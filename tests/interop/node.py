"""Packages of Node for tests: installed once by `npm ci` from the committed lock, in the user's cache."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

import platformdirs

PROJECT: Final = Path(__file__).parent / "ts"
REQUIRED: Final = os.environ.get("CACTUS_REQUIRE_NODE") == "1"
OLDEST_NODE: Final = 20
"""The packages' own demand."""
INSTALL_SECONDS: Final = 300


class NodeMissing(Exception):
    """Node, npm or the packages cannot be had on this machine; says why."""


def node() -> str:
    """Raises `NodeMissing`."""
    found = shutil.which("node")
    if found is None:
        raise NodeMissing("node is not installed")
    version = subprocess.run([found, "--version"], capture_output=True, text=True, timeout=60, check=False).stdout
    major = version.strip().removeprefix("v").partition(".")[0]
    if not major.isdigit() or int(major) < OLDEST_NODE:
        raise NodeMissing(f"node {OLDEST_NODE} or newer is needed, this is {version.strip() or 'broken'}")
    return found


def modules(project: Path = PROJECT) -> Path:
    """A folder with *project*'s node_modules, made on first use.  Raises `NodeMissing`."""
    manifests = [project / name for name in ("package.json", "package-lock.json")]
    name = hashlib.sha256(b"".join(path.read_bytes() for path in manifests)).hexdigest()[:16]
    folder = platformdirs.user_cache_path("cactus-mesh") / f"{project.name}-sdk" / name
    if not folder.exists():
        _install(folder, manifests)
    return folder


def _install(folder: Path, manifests: list[Path]) -> None:
    """Beside its place first, so that a broken installation is never found, and two at once don't meet."""
    npm = shutil.which("npm")
    if npm is None:
        raise NodeMissing("npm is not installed")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        project = Path(scratch) / "project"
        project.mkdir()
        for path in manifests:
            shutil.copy(path, project)
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
        done = subprocess.run(
            command, cwd=project, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
        )
        if done.returncode:
            raise NodeMissing(f"npm ci failed: {done.stderr.strip()[-500:]}")
        try:
            project.rename(folder)
        except OSError:
            if not folder.exists():
                raise
