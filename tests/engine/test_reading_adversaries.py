"""Cheats of who reads texts whole, against the real engine's audit.  Each answer is written as an honest one would be.

``python -m benchmarks audit`` says how often each is found, and over more kinds of honest machines.
"""

from __future__ import annotations

import hashlib
import random
from array import array
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from cactus_mesh.calibration import SHIPPED, read_texts
from cactus_mesh.core.audit import compare_texts, finding_of_texts, judge
from cactus_mesh.core.draws import drawn_places
from cactus_mesh.core.readings import Reading, efforts_of, passages_of, read, well_formed, written
from cactus_mesh.core.thresholds import read_table
from cactus_mesh.errors import BadParameters
from cactus_mesh.messages import MOST_PLACES, Classify, Embed, Generate, Rerank, kind_of
from tests.engine.conftest import EngineThread
from tests.samples import bodies

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from cactus_mesh.core.audit import Judgement
    from cactus_mesh.core.readings import Reads
    from cactus_mesh.ports import Engine, EngineModel

    Cheat = Callable[[Engine, "Asked"], Awaitable["Said"]]

KINDS = ("embeds", "classifies", "ranks")
CHEAP = ("other", "int8", "bf16", "dropped")
TEXTS = [
    *(
        "A cactus",
        "keeps its water for the dry season",
        "and shares the shade that it has " * 8,
        "the shade of old walls",
    ),
    *("seven letters under a stone", "he asks why the night walks"),
]
WORKS = {"embeds": Embed(TEXTS), "classifies": Classify(TEXTS), "ranks": Rerank("What has a cactus?", TEXTS)}
TABLE = read_table(SHIPPED.read_bytes(), "thresholds.json")
RNG = random.Random(11)


@dataclass(frozen=True)
class Asked:
    name: str
    work: Reads


@dataclass(frozen=True)
class Said:
    """An answer, and what its receipt says that it cost to read."""

    reading: Reading
    prompt_tokens: int


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from tests.engine.small_encoders import make_cheap_encoders, make_small_encoders

    place = tmp_path_factory.mktemp("encoders")
    honest = make_small_encoders(place)
    return honest | make_cheap_encoders(place, honest, CHEAP)


@pytest.fixture(scope="module")
def engine(folders: dict[str, Path]) -> Iterator[EngineThread]:
    thread = EngineThread(list(map(str, folders.values())))
    yield thread
    thread.close()


def model_of(engine: Engine, name: str) -> EngineModel:
    return next(model for model in engine.models if model.name == name)


async def answer(engine: Engine, asked: Asked, name: str | None = None, work: Reads | None = None) -> Said:
    """What the model *name* says to *work*; honestly the ones that were asked for."""
    model, done = model_of(engine, name or asked.name), work or asked.work
    counted = await engine.reread(model_of(engine, asked.name).digest, asked.work, [0])
    return Said(read(done, await read_texts(engine, model, done)), counted.prompt_tokens)


async def verdict(engine: Engine, asked: Asked, said: Said) -> Judgement:
    work, model = asked.work, model_of(engine, asked.name)
    text = f"[{', '.join(written(work, said.reading.rows, said.reading.labels))}]"
    assert well_formed(work, text), "nothing cheap would have found it"
    receipt = msgspec.structs.replace(bodies()["receipt"], finish="stop", prompt_tokens=said.prompt_tokens)
    places = drawn_places(RNG.randbytes(32), hashlib.sha256(text.encode()).digest(), efforts_of(work), MOST_PLACES)
    found = await engine.reread(model.digest, work, places)
    thresholds = TABLE.find(model.digest, model.dtype, "cpu", kind=kind_of(work))
    assert thresholds.calibrated
    return judge(
        compare_texts(work, receipt, text, places, finding_of_texts(bytes(32), found, ""), thresholds), thresholds
    )


def with_rows(said: Said, rows: Any, labels: tuple[str, ...] | None = None) -> Said:
    singles = tuple(array("f", row) for row in rows)
    return replace(said, reading=Reading(singles, said.reading.labels if labels is None else labels))


def of(kind: type, texts: list[str]) -> Any:
    return Rerank("What has a cactus?", texts) if kind is Rerank else kind(texts)


# --- cheats ----------------------------------------------------------------------------------------------------------


def from_a_cheaper_model(which: str) -> Cheat:
    async def cheat(engine: Engine, asked: Asked) -> Said:
        return await answer(engine, asked, f"{asked.name}-{which}")

    cheat.__name__ = f"from_{which}"
    return cheat


async def half_of_each_text(engine: Engine, asked: Asked) -> Said:
    shorter = [text[: (len(text) + 1) // 2] for text in passages_of(asked.work)]
    return await answer(engine, asked, work=of(type(asked.work), shorter))


async def made_up(engine: Engine, asked: Asked) -> Said:
    """Other honest numbers: a random one for each text would be no likelier to pass."""
    return await answer(engine, asked, work=of(type(asked.work), [f"{number} roads" for number in range(len(TEXTS))]))


async def in_another_order(engine: Engine, asked: Asked) -> Said:
    said = await answer(engine, asked)
    return with_rows(said, reversed(said.reading.rows))


async def one_for_all(engine: Engine, asked: Asked) -> Said:
    said = await answer(engine, asked)
    return with_rows(said, [said.reading.rows[0]] * len(said.reading.rows))


async def one_number_edited(engine: Engine, asked: Asked) -> Said:
    said = await answer(engine, asked)
    row = list(said.reading.rows[2])
    row = [row[0] * 0.99] if asked.name == "ranks" else [row[1], row[0], *row[2:]]
    return with_rows(said, [*said.reading.rows[:2], row, *said.reading.rows[3:]])


async def prompt_tokens_inflated(engine: Engine, asked: Asked) -> Said:
    said = await answer(engine, asked)
    return replace(said, prompt_tokens=said.prompt_tokens + 1)


EACH = [*map(from_a_cheaper_model, CHEAP), half_of_each_text, made_up, in_another_order, one_for_all, one_number_edited]
EACH += [prompt_tokens_inflated]


@pytest.mark.parametrize("cheat", EACH, ids=lambda cheat: cheat.__name__)
@pytest.mark.parametrize("name", KINDS)
def test_a_cheat_fails_its_first_audit(engine: EngineThread, name: str, cheat: Cheat) -> None:
    async def scenario(engine: Engine) -> None:
        asked = Asked(name, WORKS[name])
        assert (await verdict(engine, asked, await cheat(engine, asked))).result == "fail"

    engine.run(scenario)


async def pooled_otherwise(engine: Engine, asked: Asked) -> Said:
    return await answer(engine, asked, work=Embed(TEXTS, "cls"))


async def labels_swapped(engine: Engine, asked: Asked) -> Said:
    said = await answer(engine, asked)
    return with_rows(said, said.reading.rows, tuple(reversed(said.reading.labels)))


async def best_last(engine: Engine, asked: Asked) -> Said:
    said = await answer(engine, asked)
    return with_rows(said, [[-score] for (score,) in said.reading.rows])


async def narrower(engine: Engine, asked: Asked) -> Said:
    said = await answer(engine, asked)
    return with_rows(said, [[1.0] for _ in said.reading.rows])


OF_ITS_KIND = {pooled_otherwise: "embeds", narrower: "embeds", labels_swapped: "classifies", best_last: "ranks"}


@pytest.mark.parametrize("cheat", OF_ITS_KIND, ids=lambda cheat: cheat.__name__)
def test_a_cheat_of_its_own_kind_fails_its_first_audit(engine: EngineThread, cheat: Cheat) -> None:
    async def scenario(engine: Engine) -> None:
        asked = Asked(OF_ITS_KIND[cheat], WORKS[OF_ITS_KIND[cheat]])
        assert (await verdict(engine, asked, await cheat(engine, asked))).result == "fail"

    engine.run(scenario)


# --- honest ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_honest_answers_pass_however_many_texts_are_read_beside_each_other(engine: EngineThread, name: str) -> None:
    async def scenario(engine: Engine) -> None:
        for texts in (TEXTS[:1], TEXTS, TEXTS * 9, [*TEXTS, "word " * 150]):
            asked = Asked(name, of(type(WORKS[name]), texts))
            assert (await verdict(engine, asked, await answer(engine, asked))).result == "pass"

    engine.run(scenario)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", KINDS)
def test_what_plain_transformers_makes_of_each_text_alone_passes(
    engine: EngineThread, folders: dict[str, Path], name: str, attention: str
) -> None:
    from tests.engine.small_encoders import plain_rows

    async def scenario(engine: Engine) -> None:
        asked = Asked(name, WORKS[name])
        said = await answer(engine, asked)
        assert (await verdict(engine, asked, with_rows(said, rows))).result == "pass"

    rows = plain_rows(folders[name], WORKS[name], attention)
    engine.run(scenario)


# --- reading again ---------------------------------------------------------------------------------------------------


def test_only_some_texts_are_read_again_and_all_are_counted(engine: EngineThread) -> None:
    async def scenario(engine: Engine) -> None:
        asked = Asked("classifies", WORKS["classifies"])
        whole, found = await answer(engine, asked), await engine.reread(engine.models[1].digest, asked.work, [1, 4])
        assert found.labels == whole.reading.labels == ("no", "yes", '"?"')
        assert found.rows == tuple(pytest.approx(tuple(whole.reading.rows[place]), abs=1e-6) for place in (1, 4))
        assert found.prompt_tokens == (await engine.reread(engine.models[1].digest, asked.work, [0])).prompt_tokens

    engine.run(scenario)


@pytest.mark.parametrize("places", [[], [1, 0], [1, 1], [6], [-1], list(range(9))], ids=str)
def test_places_that_are_none_are_refused(engine: EngineThread, places: list[int]) -> None:
    async def scenario(engine: Engine) -> None:
        with pytest.raises(BadParameters, match="can be read again"):
            await engine.reread(engine.models[0].digest, Embed(TEXTS), places)

    engine.run(scenario)


def test_what_is_continued_is_not_read_again(engine: EngineThread) -> None:
    async def scenario(engine: Engine) -> None:
        with pytest.raises(BadParameters, match="have the whole answer replayed"):
            await engine.reread(engine.models[0].digest, Generate("x"), [0])
        with pytest.raises(BadParameters, match="does not embed"):
            await engine.reread(engine.models[1].digest, Embed(["x"]), [0])

    engine.run(scenario)
