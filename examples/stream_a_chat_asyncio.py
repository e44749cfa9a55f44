"""Stream an answer, on asyncio."""

from __future__ import annotations

import asyncio
import sys

from cactus_mesh import aio

MODEL = sys.argv[1] if len(sys.argv) > 1 else "cactus-selftest"


async def main() -> None:
    async with aio.open_client() as mesh:
        async with await mesh.chat([{"role": "user", "content": "What is a router?"}], model=MODEL) as answer:
            async for piece in answer:
                print(piece, end="", flush=True)
        print(f"\nby {answer.result.orchestrator}, for at most {answer.result.price} octas")


asyncio.run(main())
