"""The Move compiler and the Move VM for machines without the Aptos CLI: fetched, checked, and run in child processes.

They are two shared libraries of the npm package `@initia/builder.js`, whose licence (BUSL-1.1) permits this use in
tests only: they are kept in the user's cache, never in the repository, never in what is installed.  A crash of a
library ends its child process and fails the test that asked.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import platformdirs

PACKAGE: Final = "@initia/builder.js@0.2.12"
REQUIRED: Final = os.environ.get("CACTUS_REQUIRE_MOVE") == "1"
FETCH_SECONDS: Final = 300
RUN_SECONDS: Final = 300
ROOT: Final = Path(__file__).parents[2]
ENVIRONMENT: Final = os.environ | {"RUST_BACKTRACE": "0", "RUST_LIB_BACKTRACE": "0"}
"""A backtrace with every abort would take 50 ms each."""
CONTRACTS: Final = ROOT / "contracts"
ADDRESS: Final = "0x" + "cac7" * 16
"""The dev-address of contracts/Move.toml."""

_SHA256: Final = {
    "libcompiler.aarch64.so": "5c3317b6d805bedcd5e865cb19cd29af6bbf3e404d82d0f39decbd957a16e5e8",
    "libcompiler.dylib": "4e10ec3c2dbc8d05ac103ec837ff232931805ec65a772b5e38074984de4909a2",
    "libcompiler.x86_64.so": "5f16fe2eeebdc2b460d73707791a09f27c45909c03b47f22061475bbbd923102",
    "libmovevm.aarch64.so": "c4ed4053ac8652869480cf76773007a38215595d8d084cd59e05d3d666099267",
    "libmovevm.dylib": "b7fe6f4a8994dbda2138d67be3dfa4e99d00825f6c95cc9341b44dca1219d28a",
    "libmovevm.x86_64.so": "17ae2c91248e642a246eb792f6a568d86f10ca1881f9d8c228da8da80dc7c0cb",
}


class ToolchainMissing(Exception):
    """The libraries cannot be had on this machine; says why."""


@dataclass(frozen=True, slots=True)
class Toolchain:
    """Paths of the two libraries."""

    compiler: Path
    vm: Path


def toolchain() -> Toolchain:
    """The libraries, from the cache or the registry.  Raises `ToolchainMissing`."""
    suffix = _suffix()
    folder = platformdirs.user_cache_path("cactus-mesh") / "move-toolchain"
    compiler, vm = (folder / f"{name}.{suffix}" for name in ("libcompiler", "libmovevm"))
    if not (_genuine(compiler) and _genuine(vm)):
        _fetch(folder, (compiler.name, vm.name))
    return Toolchain(compiler, vm)


def _suffix() -> str:
    system, processor = platform.system(), platform.machine().lower()
    suffixes = {
        ("Linux", "x86_64"): "x86_64.so",
        ("Linux", "aarch64"): "aarch64.so",
        ("Darwin", "arm64"): "dylib",
        ("Darwin", "x86_64"): "dylib",
    }
    if (system, processor) not in suffixes:
        raise ToolchainMissing(f"{PACKAGE} has no library for {system} on {processor}")
    return suffixes[system, processor]


def _genuine(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == _SHA256[path.name]


def _fetch(folder: Path, names: tuple[str, ...]) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise ToolchainMissing("npm is not installed")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        command = [npm, "pack", PACKAGE, "--silent", "--pack-destination", scratch]
        try:
            subprocess.run(command, cwd=scratch, check=True, capture_output=True, timeout=FETCH_SECONDS)
        except subprocess.SubprocessError as error:
            raise ToolchainMissing(f"npm pack {PACKAGE} failed: {error}") from error
        (archive,) = Path(scratch).glob("*.tgz")
        with tarfile.open(archive) as tar:
            for name in names:
                member = tar.extractfile(f"package/library/{name}")
                assert member is not None
                target = Path(scratch) / name
                target.write_bytes(member.read())
                if not _genuine(target):
                    raise ToolchainMissing(f"{name} of {PACKAGE} is not the one that is pinned here")
                target.replace(folder / name)


# --- packages to compile ------------------------------------------------------------------------------------------


def offline_package(folder: Path) -> Path:
    """A copy of the contract in *folder*, as it is, over the offline framework."""
    for part in ("sources", "tests"):
        shutil.copytree(CONTRACTS / part, folder / part)
    shutil.copytree(CONTRACTS / "offline_framework", folder / "offline_framework")
    shutil.copy(CONTRACTS / "offline" / "Move.toml", folder / "Move.toml")
    return folder


def vm_package(folder: Path) -> Path:
    """The contract, the offline framework and the hooks of the differential test as one package at 0x1.

    The VM publishes at 0x1 only; one package, because `public(package)` ends at a package's border.
    """
    shutil.copytree(CONTRACTS / "sources", folder / "sources" / "contract")
    shutil.copytree(CONTRACTS / "offline_framework" / "sources", folder / "sources" / "framework")
    shutil.copy(Path(__file__).parent / "hooks.move", folder / "sources")
    names = ("std", "aptos_std", "aptos_framework", "cactus_mesh")
    addresses = "\n".join(f'{name} = "0x1"' for name in names)
    manifest = f'[package]\nname = "vm"\nversion = "0.0.0"\n\n[addresses]\n{addresses}\n'
    (folder / "Move.toml").write_text(manifest, encoding="utf-8")
    return folder


# --- running ------------------------------------------------------------------------------------------------------


class CompilerFailed(Exception):
    """The compiler said no, or crashed; carries what it printed."""


def compiler(tools: Toolchain, command: str, package: Path, *options: str) -> str:
    """What the compiler printed for build, test, coverage or docs.  Raises `CompilerFailed`."""
    child = [sys.executable, "-m", "tests.contracts.libcompiler", str(tools.compiler), command, str(package), *options]
    done = subprocess.run(
        child, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=RUN_SECONDS, check=False
    )
    if done.returncode:
        raise CompilerFailed(f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout
