"""Cactus Mesh: a peer-to-peer network for AI inference that anyone joins with one command."""

from __future__ import annotations

__version__ = "0.1.0"
