"""Vectors, labels and scores of real models over real sockets: asked, signed for, checked and paid."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import httpx
import pytest
import trio

from cactus_mesh.config import GatewayConfig
from cactus_mesh.gateway.server import open_gateway
from cactus_mesh.testing.mesh import APT, LISTEN, ProcessMesh, open_process_mesh

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

TEXTS = ["A cactus", "keeps its water for the dry season", "and shares the shade that it has"]


@asynccontextmanager
async def open_serving(folders: dict[str, Path]) -> AsyncIterator[ProcessMesh]:
    """A mesh whose one orchestrator runs these models."""
    async with open_process_mesh() as mesh:
        await mesh.router()
        identity = await mesh.fund("orchestrator")
        async with mesh.ledger() as ledger:
            await ledger.register_orchestrator(identity, identity.public_key, 1_000 * APT)
        models = [word for folder in folders.values() for word in ("--model", str(folder))]
        common = ("--ledger", mesh.chain["url"], "--listen", LISTEN, "--json", "--until-stdin-closes")
        child = await mesh.family.start("orchestrator", "run", "--bootstrap", mesh.bootstrap, *models, *common)
        said = await child.ready()
        assert sorted(said["orchestrator"]["memory"]["loaded"]) == ["classifies", "embeds", "ranks"]
        await mesh.acquainted()
        yield mesh


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from tests.engine.small_encoders import make_small_encoders

    return make_small_encoders(tmp_path_factory.mktemp("encoders"))


async def test_vectors_labels_and_scores_cross_the_network_and_are_paid(folders: dict[str, Path]) -> None:
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

        keys_file = mesh.family.home("client").gateway_keys_file
        async with open_gateway(client, GatewayConfig(port=0), keys_file) as gateway, httpx.AsyncClient() as http:
            body = {"model": "embeds", "input": TEXTS}
            reply = (await http.post(f"{gateway.url}/v1/embeddings", json=body, timeout=30)).json()
        for item, vector in zip(reply["data"], vectors.vectors(), strict=True):
            assert item["embedding"] == pytest.approx(vector, abs=1e-5)
