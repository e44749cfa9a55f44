"""Runs models: this side is torch-free, a worker process of its own holds torch and the weights."""

from __future__ import annotations

from cactus_mesh.engine.service import open_engine
from cactus_mesh.engine.settings import EngineSettings

__all__ = ["EngineSettings", "open_engine"]
