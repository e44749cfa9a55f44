"""Stream an answer, without an event loop."""

from __future__ import annotations

import sys

from cactus_mesh import sync

MODEL = sys.argv[1] if len(sys.argv) > 1 else "cactus-selftest"

with sync.open_client() as mesh:
    with mesh.chat([{"role": "user", "content": "What is a router?"}], model=MODEL) as answer:
        for piece in answer:
            print(piece, end="", flush=True)
    print(f"\nby {answer.result.orchestrator}, for at most {answer.result.price} octas")
