"""How likely each token of an answer was, and which were likeliest in its place."""

from __future__ import annotations

import math
import sys

import trio

import cactus_mesh

MODEL = sys.argv[1] if len(sys.argv) > 1 else "cactus-selftest"


async def main() -> None:
    async with cactus_mesh.open_client() as mesh:
        answer = mesh.generate("The cactus", model=MODEL, max_tokens=8, top_logprobs=3)
        async for piece in answer.pieces():
            for token in piece.tokens:
                others = ", ".join(other.token for other in token.top if other.token_id != token.token_id)
                print(f"{math.exp(token.logprob):7.2%}  {token.token!r}, not {others}")
        sure = sum(token.logprob for token in answer.result.logprobs or ())
        print(f"all of it together: {math.exp(sure):.2%}, by the receipt of {answer.result.orchestrator}")


trio.run(main)
