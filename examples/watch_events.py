"""Watch what a client does, while it does it."""

from __future__ import annotations

import sys

import trio

import cactus_mesh
from cactus_mesh.events import TaskDone, TaskFailed, TaskSent

MODEL = sys.argv[1] if len(sys.argv) > 1 else "cactus-selftest"


async def tell(mesh: cactus_mesh.Client, task_status: trio.TaskStatus[None]) -> None:
    with mesh.watch() as events:
        task_status.started()
        async for event in events:
            match event:
                case TaskSent(task_id=task, router=router):
                    print(f"{task.hex()[:8]} sent to {router}")
                case TaskDone(task_id=task, result=result):
                    print(f"{task.hex()[:8]} done by {result.orchestrator} for {result.price} octas")
                case TaskFailed(task_id=task, error=error):
                    print(f"{task.hex()[:8]} failed: {error.code}")


async def main() -> None:
    async with cactus_mesh.open_client() as mesh, trio.open_nursery() as nursery:
        await nursery.start(tell, mesh)
        for peer in mesh.network.peers():
            print(f"connected to {peer.peer} as {', '.join(peer.roles)}")
        await mesh.generate("A cactus", model=MODEL, max_tokens=8).wait()
        await trio.sleep(0.1)
        nursery.cancel_scope.cancel()


trio.run(main)
