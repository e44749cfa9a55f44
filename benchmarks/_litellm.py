"""LiteLLM's proxy, for comparison: in a virtual environment of its own in the user's cache, made on first use."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import venv
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import httpx
import platformdirs
import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

VERSION: Final = "1.80.5"
KEY: Final = "sk-benchmark"
START_SECONDS: Final = 120.0
INSTALL_SECONDS: Final = 900.0


class LiteLLMMissing(Exception):
    """It cannot be had on this machine; says why."""


def environment() -> Path:
    """Where it is installed."""
    return platformdirs.user_cache_path("cactus-mesh") / f"litellm-{VERSION}"


def install() -> Path:
    """Its command.  Raises `LiteLLMMissing`."""
    folder = environment()
    programs = folder / ("Scripts" if sys.platform == "win32" else "bin")
    if not (folder / "complete").exists():
        venv.create(folder, with_pip=True)
        command = [str(programs / "python"), "-m", "pip", "install", "--quiet", f"litellm[proxy]=={VERSION}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
        if done.returncode:
            raise LiteLLMMissing(f"litellm[proxy]=={VERSION} cannot be installed: {done.stderr.strip()[-300:]}")
        (folder / "complete").touch()
    return programs / "litellm"


@asynccontextmanager
async def open_litellm(backend: str, folder: Path) -> AsyncIterator[int]:
    """The port of a proxy in front of *backend*, one process, without a database, a key or logs."""
    command = install()
    settings = {
        "model_list": [
            {"model_name": "fake", "litellm_params": {"model": "openai/fake", "api_base": backend, "api_key": KEY}}
        ]
    }
    config = folder / "litellm.yaml"
    config.write_text(json.dumps(settings))  # JSON is YAML
    port = _free_port()
    process = await trio.lowlevel.open_process(
        [str(command), "--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"],
        env=os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "LITELLM_TELEMETRY": "False"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        await _until_ready(process, port)
        yield port
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()


async def _until_ready(process: trio.Process, port: int) -> None:
    async with httpx.AsyncClient() as http:
        with trio.move_on_after(START_SECONDS):
            while process.returncode is None:
                try:
                    if (await http.get(f"http://127.0.0.1:{port}/health/liveliness")).status_code == 200:
                        return
                except httpx.HTTPError:
                    await trio.sleep(0.2)
    raise LiteLLMMissing(f"LiteLLM {VERSION} did not start within {START_SECONDS:.0f} s")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
