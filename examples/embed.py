"""Embed a list of texts, and find the one that is nearest to a question."""

from __future__ import annotations

import sys

import trio

import cactus_mesh
from cactus_mesh import errors

MODEL = sys.argv[1] if len(sys.argv) > 1 else "my-embedding-model"
TEXTS = ["A cactus stores water.", "A router settles payments."]


async def main() -> None:
    async with cactus_mesh.open_client() as mesh:
        try:
            result = await mesh.embed([*TEXTS, "Where does the water go?"], model=MODEL).wait()
        except errors.UnknownModel as error:
            print(f"nobody here embeds with it: {error}")
            return
        *known, question = result.vectors()  # of length 1 each, so that their product is their likeness
        likeness = [sum(a * b for a, b in zip(vector, question, strict=True)) for vector in known]
        print(TEXTS[likeness.index(max(likeness))])


trio.run(main)
