"""``python -m tests.ledger.serve HOME``: an embedded ledger in a process of its own, to be killed."""

from __future__ import annotations

import sys
from pathlib import Path

import trio

from cactus_mesh.ledger.devnet import DevnetSettings, serve_devnet


async def main() -> None:
    async with trio.open_nursery() as nursery:
        devnet = await nursery.start(serve_devnet, DevnetSettings(Path(sys.argv[1]), port=0))
        print(devnet.url, flush=True)


if __name__ == "__main__":
    trio.run(main)
