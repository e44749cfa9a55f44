"""Vectors, labels and scores of real models over real sockets: asked, signed for, checked and paid."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import httpx
import pytest
import trio

from cactus_mesh.config import GatewayConfig
from cactus_mesh.control import ask_node
from cactus_mesh.gateway.server import open_gateway
from cactus_mesh.testing.mesh import APT, LISTEN, ProcessMesh, open_process_mesh

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

TEXTS = ["A cactus", "keeps its water for the dry season", "and shares the shade that it has"]


@asynccontextmanager
async def open_serving(folders: dict[str, Path]) -> AsyncIterator[ProcessMesh]:
    """A mesh whose two orchestrators run these models: one can audit the other."""
    async with open_process_mesh() as mesh:
        await mesh.router()
        models = [word for folder in folders.values() for word in ("--model", str(folder))]
        common = ("--ledger", mesh.chain["url"], "--listen", LISTEN, "--json", "--until-stdin-closes")
        children = []
        for name in ("one", "other"):
            identity = await mesh.fund(name)
            async with mesh.ledger() as ledger:
                await ledger.register_orchestrator(identity, identity.public_key, 1_000 * APT)
            children.append(await mesh.family.start(name, "run", "--bootstrap", mesh.bootstrap, *models, *common))
        for child in children:
            said = await child.ready()
            assert sorted(said["orchestrator"]["memory"]["loaded"]) == ["classifies", "embeds", "ranks"]
        await mesh.acquainted(orchestrators=2)
        yield mesh


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from tests.engine.small_encoders import make_small_encoders

    return make_small_encoders(tmp_path_factory.mktemp("encoders"))


async def audited(mesh: ProcessMesh, answers: int) -> None:
    """Wait until so many have been read again, and passed."""
    found: dict[str, int] = {}
    with trio.fail_after(60):
        while found.get("audits_pass", 0) < answers:
            await trio.sleep(0.05)
            status = await ask_node(mesh.family.home("router").control_file, "status")
            found = {name: count for name, count in status["router"].items() if name.startswith("audits_")}
            assert set(found) <= {"audits_pass"}


async def test_vectors_labels_and_scores_cross_the_network_and_are_audited_and_paid(folders: dict[str, Path]) -> None:
    async with open_serving(folders) as mesh, mesh.client() as client:
        vectors = await client.embed(TEXTS, model="embeds").wait()
        labels = await client.classify(TEXTS, model="classifies").wait()
        scores = await client.rerank("What has a cactus?", TEXTS, model="ranks").wait()

        assert [len(vector) for vector in vectors.vectors()] == [48, 48, 48]
        assert [sum(number**2 for number in vector) for vector in vectors.vectors()] == pytest.approx([1, 1, 1])
        assert [set(each) for each in labels.labels()] == [{"no", "yes", '"?"'}] * 3
        assert len(set(scores.scores())) == 3
        for result in (vectors, labels, scores):
            assert result.verdict.body.result == "pass"
            assert 0 < result.receipt.body.prompt_tokens < 200
            with trio.fail_after(30):
                assert 0 < (await client.paid(result)).paid <= result.price

        await audited(mesh, 3)
        keys_file = mesh.family.home("client").gateway_keys_file
        async with open_gateway(client, GatewayConfig(port=0), keys_file) as gateway, httpx.AsyncClient() as http:
            body = {"model": "embeds", "input": TEXTS}
            reply = (await http.post(f"{gateway.url}/v1/embeddings", json=body, timeout=30)).json()
        for item, vector in zip(reply["data"], vectors.vectors(), strict=True):
            assert item["embedding"] == pytest.approx(vector, abs=1e-5)
