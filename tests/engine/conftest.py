"""One real worker for all tests of this folder: starting it costs seconds.

It runs under a trio of its own in a thread; a test hands it an async function of the engine.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

import pytest
import trio

from cactus_mesh.engine import EngineSettings, open_engine
from cactus_mesh.testing.engine import FakeEngine

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from cactus_mesh.ports import Engine, EngineModel
    from tests.engine.small_models import SmallModels

    Run = Callable[[Callable[["Engine"], Awaitable["T"]]], "T"]

T = TypeVar("T")
PATIENCE_SECONDS = 60
SLOTS = 32
CHUNK_TOKENS = 16
"""Small, so that prompts of the tests are read in several pieces."""


class EngineThread:
    def __init__(self, models: Sequence[str]) -> None:
        self._opened: Future[tuple[trio.lowlevel.TrioToken, Engine]] = Future()
        self._done = trio.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._main, list(models)))
        self._thread.start()
        self._token, self.engine = self._opened.result()

    async def _main(self, models: list[str]) -> None:
        try:
            settings = EngineSettings(slots=SLOTS, chunk_tokens=CHUNK_TOKENS, threads=1)
            async with open_engine(models, settings) as engine:
                self._opened.set_result((trio.lowlevel.current_trio_token(), engine))
                await self._done.wait()
        except BaseException as error:
            if self._opened.done():
                raise
            self._opened.set_exception(error)

    def run(self, scenario: Callable[[Engine], Awaitable[T]]) -> T:
        async def patiently() -> T:
            with trio.fail_after(PATIENCE_SECONDS):
                return await scenario(self.engine)

        return trio.from_thread.run(patiently, trio_token=self._token)

    def close(self) -> None:
        trio.from_thread.run_sync(self._done.set, trio_token=self._token)
        self._thread.join()


@pytest.fixture(scope="session")
def small_models(tmp_path_factory: pytest.TempPathFactory) -> SmallModels:
    from tests.engine.small_models import make_small_models  # torch: seconds that other tests need not wait

    return make_small_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def real(small_models: SmallModels) -> Iterator[EngineThread]:
    thread = EngineThread(["selftest", *map(str, small_models.folders.values())])
    yield thread
    thread.close()


@pytest.fixture(scope="session")
def selftest(real: EngineThread) -> EngineModel:
    return real.engine.models[0]


@pytest.fixture(params=["fake", "real"])
def run(request: pytest.FixtureRequest) -> Run[T]:
    """Runs a scenario on an engine with `SLOTS` slots: the conformance suite takes each in turn."""
    if request.param == "real":
        real: EngineThread = request.getfixturevalue("real")
        return real.run

    def run_fake(scenario: Callable[[Engine], Awaitable[T]]) -> T:
        return trio.run(scenario, FakeEngine(slots=SLOTS))

    return run_fake
