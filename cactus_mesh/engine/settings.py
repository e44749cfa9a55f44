"""What an operator chooses about the engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from cactus_mesh.errors import ConfigMalformed

DType = Literal["bfloat16", "float16", "float32"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """How models run.

    *threads* 0 takes half of the processor's threads.  *dtype* belongs to a model's identity: with float32, the same on
    every machine, results can be verified by anybody.  *device* is torch's name for it ("cpu", "cuda", "mps"),
    or "auto": a GPU where there is one.
    """

    slots: int = 16
    """Generations at once."""
    threads: int = 0
    device: str = "auto"
    dtype: DType = "float32"
    expected: dict[str, str] = field(default_factory=dict)
    """What the digest of a model must be, in hex, by the word that names it: the operator's list of allowed ones."""
    allow_download: bool = False
    """Whether models that are not on this machine may be fetched from the hub."""
    max_context_tokens: int = 32_768
    """Bounds a model's context, and with it the memory of one generation."""
    memory_mib: int = 0
    """For weights, keys and values of all models in memory; 0 for three quarters of the machine's or nine tenths of
    what is free on the card.  Models that do not fit beside each other take turns."""
    cache_mib: int = 1_024
    """Most of it that the keys and values of one model may have, taken as it is needed.  What never fits is refused."""
    chunk_tokens: int = 128
    """Prompt tokens that are read in one step, while the others make a token each."""
    stall_seconds: float = 60.0
    """A worker that is silent for so long is stuck and is replaced; a slow machine needs more, or smaller chunks."""
    load_seconds: float = 1_800.0
    """How long loading (and downloading) the models may take."""

    def __post_init__(self) -> None:
        for name in ("slots", "max_context_tokens", "cache_mib", "chunk_tokens", "stall_seconds", "load_seconds"):
            if getattr(self, name) <= 0:
                raise ConfigMalformed(f"engine.{name} must be more than 0, not {getattr(self, name)}")
        for name in ("threads", "memory_mib"):
            if getattr(self, name) < 0:
                raise ConfigMalformed(f"engine.{name} must be 0 or more, not {getattr(self, name)}")
