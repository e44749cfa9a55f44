"""A mesh that has done some work, and what it left: numbers, and every line that was logged at ``-vv``."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass

import httpx
import pytest
import trio

from cactus_mesh.errors import MeshError
from cactus_mesh.testing.mesh import open_process_mesh

PROMPT = "saguaro-prompt-that-nobody-may-log"
MODEL_OF_NOBODY = "no-such-model"


@dataclass
class Seen:
    router: str
    orchestrator: str
    logs: dict[str, list[dict]]
    secrets: list[str]
    tasks: list[str]


async def _work() -> Seen:
    async with open_process_mesh() as mesh:
        listen = {"metrics": {"listen": "0"}}
        urls = {}
        for name, start in (("router", mesh.router), ("orchestrator", mesh.orchestrator)):
            child = await start(**listen)
            urls[name] = child.said["metrics"]
        await mesh.acquainted()
        tasks = []
        async with mesh.client() as client:
            result = await client.generate(PROMPT, model="fake").wait()
            tasks.append(result.task_id.hex())
            await client.paid(result)
            with contextlib.suppress(MeshError):
                await client.generate(PROMPT, model=MODEL_OF_NOBODY).wait()
        async with httpx.AsyncClient(trust_env=False) as http:
            with trio.fail_after(30):
                while True:
                    texts = {name: (await http.get(url)).text for name, url in urls.items()}
                    if 'settlements_total{result="paid"} 1.0' in texts["router"]:
                        break
                    await trio.sleep(0.2)
        secrets = [
            mesh.family.home(name).key_file.read_text().split("0x")[1].strip() for name in ("router", "orchestrator")
        ]
        logs = {
            name: [json.loads(line) for line in mesh.children[name].log.read_text().splitlines() if line]
            for name in urls
        }
        return Seen(texts["router"], texts["orchestrator"], logs, secrets, tasks)


@pytest.fixture(scope="package")
def seen() -> Seen:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MESH_VERBOSITY", "2")
        return trio.run(_work)
