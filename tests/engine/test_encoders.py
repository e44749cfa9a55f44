"""Vectors, labels and scores against transformers itself, and what is refused by name."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import trio

from cactus_mesh.engine import EngineSettings, open_engine
from cactus_mesh.engine.runner.encoders import PIECE_CHARACTERS
from cactus_mesh.errors import BadParameters, CannotContinue, PromptTooLong
from cactus_mesh.messages import Classify, Embed, Generate, Rerank, Sampling
from tests.engine.conftest import EngineThread
from tests.engine.test_port import SEED, make

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cactus_mesh.ports import Engine
    from tests.engine.test_port import Made

TEXTS = ["A cactus", "keeps its water for the dry season and shares the shade that it has " * 6, "the shade"]
ROOM = Sampling(max_tokens=2_000)
NAMES = ("embeds", "classifies", "ranks")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from tests.engine.small_encoders import make_small_encoders

    return make_small_encoders(tmp_path_factory.mktemp("encoders"))


@pytest.fixture(scope="module")
def encoders(folders: dict[str, Path]) -> Iterator[EngineThread]:
    thread = EngineThread([str(folders[name]) for name in NAMES])
    yield thread
    thread.close()


def ask(encoders: EngineThread, work: object, name: str, sampling: Sampling = ROOM) -> Made:
    return encoders.run(lambda engine: make(engine, work, sampling, NAMES.index(name)))


def output(folder: Path, *parts: str) -> Any:
    """What transformers makes of one text, alone."""
    import torch
    from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

    kind = AutoModel if folder.name == "embeds" else AutoModelForSequenceClassification
    with torch.inference_mode():
        ids = AutoTokenizer.from_pretrained(folder)(*parts, return_tensors="pt")
        return kind.from_pretrained(folder)(input_ids=ids["input_ids"])


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_vectors_are_those_of_each_text_alone_and_have_length_one(
    encoders: EngineThread, folders: dict[str, Path], pooling: str
) -> None:
    found = json.loads(ask(encoders, Embed(TEXTS, pooling), "embeds").text)
    for text, vector in zip(TEXTS, found, strict=True):
        states = output(folders["embeds"], text).last_hidden_state[0]
        wanted = states[0] if pooling == "cls" else states.mean(dim=0)
        assert vector == pytest.approx((wanted / wanted.norm()).tolist(), abs=1e-5)
        assert sum(number**2 for number in vector) == pytest.approx(1, abs=1e-6)


def test_labels_have_their_probabilities(encoders: EngineThread, folders: dict[str, Path]) -> None:
    found = json.loads(ask(encoders, Classify(TEXTS), "classifies").text)
    for text, labels in zip(TEXTS, found, strict=True):
        wanted = output(folders["classifies"], text).logits[0].softmax(dim=0).tolist()
        assert labels == pytest.approx(dict(zip(("no", "yes", '"?"'), wanted, strict=True)), abs=1e-5)


def test_documents_have_their_scores(encoders: EngineThread, folders: dict[str, Path]) -> None:
    found = json.loads(ask(encoders, Rerank("What has a cactus?", TEXTS), "ranks").text)
    wanted = [output(folders["ranks"], "What has a cactus?", text).logits[0, 0].item() for text in TEXTS]
    assert found == pytest.approx(wanted, abs=1e-4)


def test_many_texts_come_in_pieces_that_others_take_turns_with(encoders: EngineThread) -> None:
    async def scenario(engine: Engine) -> list[Made]:
        made: list[Made] = []

        async def one(count: int) -> None:
            made.append(await make(engine, Embed(TEXTS * count), ROOM, 0))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(one, 80)
            nursery.start_soon(one, 1)
        return made

    short, long = encoders.run(scenario)
    assert len(json.loads(long.text)) == 240
    assert json.loads(long.text)[:3] == [pytest.approx(each, abs=1e-5) for each in json.loads(short.text)]
    assert len(long.token_ids) == -(-len(long.text) // PIECE_CHARACTERS)
    assert (long.finish.finish, set(long.token_ids), set(long.logprobs)) == ("stop", {0}, {0.0})
    assert long.finish.prompt_tokens == 80 * short.finish.prompt_tokens


@pytest.mark.parametrize(
    ("work", "name", "sampling", "error", "says"),
    [
        (Generate("x"), "embeds", ROOM, BadParameters, "embeds does not generate; it can embed"),
        (Embed(["x"]), "ranks", ROOM, BadParameters, "ranks does not embed; it can rerank"),
        (Embed(["word " * 300]), "embeds", ROOM, PromptTooLong, "embeds reads 200; cut it"),
        (Embed(TEXTS * 10), "embeds", Sampling(max_tokens=3), BadParameters, "ask with max_tokens 27"),
        (Embed([]), "embeds", ROOM, BadParameters, "outside the protocol's bounds"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    encoders: EngineThread, work: object, name: str, sampling: Sampling, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        ask(encoders, work, name, sampling)


def test_it_cannot_be_continued(encoders: EngineThread) -> None:
    async def scenario(engine: Engine) -> None:
        digest = engine.models[0].digest
        with pytest.raises(CannotContinue):
            async with engine.generate(digest, Embed(["x"]), ROOM, SEED, [0]):
                pytest.fail("it never gets here")

    encoders.run(scenario)


async def test_a_model_that_continues_texts_does_not_embed() -> None:
    async with open_engine(["selftest"], EngineSettings(threads=1)) as engine:
        with pytest.raises(BadParameters, match="cactus-selftest does not embed; it can chat and generate"):
            await make(engine, Embed(["x"]), ROOM)
