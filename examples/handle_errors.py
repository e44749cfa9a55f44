"""Tell errors apart by who is at fault, and do what helps."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Unpack

import trio

import cactus_mesh
from cactus_mesh import errors

if TYPE_CHECKING:
    from cactus_mesh.asking import Options

MODEL = sys.argv[1] if len(sys.argv) > 1 else "cactus-selftest"
TRIES = 3


async def ask(mesh: cactus_mesh.Client, prompt: str, **options: Unpack[Options]) -> str:
    """The answer, or what to do instead."""
    for attempt in range(TRIES):
        try:
            return (await mesh.generate(prompt, model=MODEL, **options).wait()).text
        except errors.PriceOverBudget as error:
            return f"over the budget, nothing was sent: {error}"
        except errors.PriceTooLow as error:
            return f"raise max_price: {error}"
        except errors.NoFunds as error:
            return f"deposit first: {error}"
        except errors.UsageError as error:
            return f"our own mistake: {error}"
        except errors.TaskError as error:
            if not error.retry:
                return f"ask for something else: {error}"
        except errors.UnreachableError as error:
            print(f"nobody there: {error}")
        except errors.LedgerError as error:
            print(f"the ledger: {error}")
        except errors.PeerError as error:
            print(f"a peer broke the rules: {error}")
        await trio.sleep(2**attempt)
    return "no answer; nothing was paid for an answer that did not come"


async def main() -> None:
    async with cactus_mesh.open_client() as mesh:
        print(await ask(mesh, "A cactus", max_tokens=8))
        print(await ask(mesh, "A cactus", max_tokens=8, max_price=1))
        print(await ask(mesh, "A cactus", max_tokens=1_000_000))


trio.run(main)
