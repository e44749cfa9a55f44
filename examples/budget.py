"""Know a price before, cap it, and see what was paid after."""

from __future__ import annotations

import sys
from dataclasses import replace

import trio

import cactus_mesh
from cactus_mesh.config import find_home
from cactus_mesh.core.pricing import asked_price
from cactus_mesh.errors import PriceOverBudget

MODEL = sys.argv[1] if len(sys.argv) > 1 else "cactus-selftest"
MAX_TOKENS = 16
HOME = find_home(None)


async def main() -> None:
    config = cactus_mesh.load_config(HOME)
    capped = replace(config.client, cap_per_task=50_000, cap_per_day=10_000_000)  # as in config.toml, [client]
    async with cactus_mesh.open_client(home=HOME, config=replace(config, client=capped)) as mesh:
        listed = next(each for each in await mesh.models() if each.offer.name == MODEL)
        most = asked_price(listed.dearest, prompt_tokens=40, output_tokens=MAX_TOKENS)
        print(f"known before: at most {most} octas for 40 tokens in and {MAX_TOKENS} out")

        result = await mesh.generate("A cactus", model=MODEL, max_tokens=MAX_TOKENS, max_price=most).wait()
        print(f"agreed to {result.max_price}, asked for {result.price}")
        print(f"paid {(await mesh.paid(result)).paid}; today so far at most {mesh.spent_today()}")

        try:
            mesh.generate("A cactus", model=MODEL, max_price=50_001)
        except PriceOverBudget as error:
            print(f"refused before anything was sent: {error}")


trio.run(main)
