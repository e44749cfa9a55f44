"""Answer many prompts, at most four at once; one that fails does not stop the others."""

from __future__ import annotations

import sys

import trio

import cactus_mesh

MODEL = sys.argv[1] if len(sys.argv) > 1 else "cactus-selftest"
PROMPTS = [f"Say something about the number {number}" for number in range(10)]
AT_ONCE = 4


async def main() -> None:
    turns = trio.Semaphore(AT_ONCE)
    answers: dict[int, str] = {}

    async def one(number: int, prompt: str) -> None:
        async with turns:
            try:
                answers[number] = (await mesh.generate(prompt, model=MODEL, max_tokens=16).wait()).text
            except cactus_mesh.MeshError as error:
                answers[number] = f"failed: {error} [{error.code}]"

    async with cactus_mesh.open_client() as mesh, trio.open_nursery() as nursery:
        for number, prompt in enumerate(PROMPTS):
            nursery.start_soon(one, number, prompt)
    for number, text in sorted(answers.items()):
        print(number, text)


trio.run(main)
