"""Keep the signed receipt of an answer: evidence that anybody can check later."""

from __future__ import annotations

import sys

import trio

import cactus_mesh
from cactus_mesh.messages import Receipt, Verdict, unseal

MODEL = sys.argv[1] if len(sys.argv) > 1 else "cactus-selftest"


async def main() -> None:
    async with cactus_mesh.open_client() as mesh:
        result = await mesh.generate("A cactus", model=MODEL, max_tokens=16).wait()
        evidence, judgement = result.receipt.raw, result.verdict.raw  # bytes: keep them where you like

        receipt = unseal(evidence, Receipt, now_ms=None)  # checks the signature; needs no network
        verdict = unseal(judgement, Verdict, now_ms=None)
        print(f"task     {receipt.body.task_id.hex()}")
        print(f"signed   {result.orchestrator}, {len(receipt.body.token_ids)} tokens in {receipt.body.compute_ms} ms")
        print(f"verdict  {verdict.body.result}, by {result.router}")
        print(f"evidence {len(evidence)} bytes, digest {receipt.digest.hex()}")


trio.run(main)
