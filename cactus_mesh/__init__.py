"""Cactus Mesh: a peer-to-peer network for AI inference that anyone joins with one command.

>>> async with cactus_mesh.open_client(bootstrap=["/ip4/…/tcp/4101/p2p/…"]) as mesh:
...     answer = mesh.generate("The cactus", model="cactus-selftest")
...     async for token in answer:
...         print(token, end="")
...     print(answer.result.orchestrator, answer.result.price)

The same for asyncio is in `cactus_mesh.aio`, and without an event loop in `cactus_mesh.sync`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from cactus_mesh import aio as aio
    from cactus_mesh import sync as sync
    from cactus_mesh.answer import Answer as Answer
    from cactus_mesh.answer import Result as Result
    from cactus_mesh.client import Client as Client
    from cactus_mesh.clients import open_client as open_client
    from cactus_mesh.config import Config as Config
    from cactus_mesh.config import load_config as load_config
    from cactus_mesh.errors import MeshError as MeshError
    from cactus_mesh.node import open_node as open_node

_HOME_OF = {
    "Answer": "answer",
    "Result": "answer",
    "Client": "client",
    "Config": "config",
    "MeshError": "errors",
    "load_config": "config",
    "open_client": "clients",
    "open_node": "node",
}
_MODULES = ("aio", "sync")
__all__ = [
    "Answer",
    "Client",
    "Config",
    "MeshError",
    "Result",
    "__version__",
    "aio",
    "load_config",
    "open_client",
    "open_node",
    "sync",
]


def __getattr__(name: str) -> Any:
    """Import on first use, so that the command line starts quickly."""
    import importlib

    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
