"""Stream an answer, on trio."""

from __future__ import annotations

import sys

import trio

import cactus_mesh

MODEL = sys.argv[1] if len(sys.argv) > 1 else "cactus-selftest"


async def main() -> None:
    async with cactus_mesh.open_client() as mesh:
        async with mesh.chat([{"role": "user", "content": "What is a router?"}], model=MODEL) as answer:
            async for piece in answer:
                print(piece, end="", flush=True)
        print(f"\nby {answer.result.orchestrator}, for at most {answer.result.price} octas")


trio.run(main)
