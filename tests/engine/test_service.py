"""The parent's side against a stub worker that dies, hangs, lies and stays: no torch, so it is quick."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from cactus_mesh.engine import service
from cactus_mesh.engine.service import open_service
from cactus_mesh.engine.settings import EngineSettings
from cactus_mesh.errors import Busy, EngineFailed, ModelMissing, PromptTooLong
from cactus_mesh.messages import Chat, ChatMessage, Generate, Sampling
from cactus_mesh.ports import EngineFinish, EngineTokens
from cactus_mesh.testing.engine import FAKE_MODEL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from cactus_mesh.engine.service import Service
    from cactus_mesh.ports import EngineEvent

    OpenStub = Callable[..., AbstractAsyncContextManager[Service]]

STUB = str(Path(__file__).with_name("stub_worker.py"))
ONE = EngineTokens((1,), (-0.5,), "one")


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OpenStub:
    monkeypatch.setattr(service, "FIRST_BACKOFF_SECONDS", 0.01)

    @asynccontextmanager
    async def open_stub(mode: str = "", **settings: object) -> AsyncIterator[Service]:
        command = (sys.executable, STUB, mode, str(tmp_path / "started"))
        with trio.fail_after(30):
            async with open_service(["stub"], EngineSettings(**settings), command) as engine:
                yield engine

    return open_stub


def generation(engine: Service, prompt: str, max_tokens: int = 4) -> AbstractAsyncContextManager[object]:
    return engine.generate(FAKE_MODEL.digest, Generate(prompt), Sampling(max_tokens=max_tokens), bytes(32))


async def events_of(engine: Service, prompt: str) -> list[EngineEvent]:
    async with generation(engine, prompt) as events:
        return [event async for event in events]


async def ended(pid: int) -> None:
    """Wait until no process *pid* is left, not even as a zombie."""
    while os.name == "posix":
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        await trio.sleep(0.01)


async def test_a_generation_passes_from_worker_to_caller(stub: OpenStub) -> None:
    async with stub() as engine:
        assert await events_of(engine, "hello") == [ONE, EngineFinish("length", 1, 1)]


@pytest.mark.parametrize("deed", ["die", "flood", "nonsense"])
async def test_a_lost_worker_ends_its_generations_by_name_and_is_replaced(stub: OpenStub, deed: str) -> None:
    async with stub() as engine:
        first = engine.worker_pid
        async with generation(engine, "wait") as bystander:
            with pytest.raises(EngineFailed, match=r"the engine's worker .*; it is being replaced"):
                await events_of(engine, deed)
            assert await anext(bystander) == ONE
            with pytest.raises(EngineFailed, match="is being replaced"):
                await anext(bystander)
        assert await events_of(engine, "hello") == [ONE, EngineFinish("length", 1, 1)]
        assert engine.worker_pid != first


async def test_a_stuck_worker_is_replaced(stub: OpenStub) -> None:
    async with stub(stall_seconds=0.5) as engine:
        stuck = engine.worker_pid
        with pytest.raises(EngineFailed, match="said nothing for"):
            await events_of(engine, "hang")
        await ended(stuck)
        assert await events_of(engine, "hello") == [ONE, EngineFinish("length", 1, 1)]


async def test_a_model_whose_loading_ends_the_worker_is_named_and_left_alone_for_a_while(stub: OpenStub) -> None:
    async with stub("then avoiding") as engine:
        with pytest.raises(EngineFailed, match=r"status 9 while it loaded .*; it is being replaced"):
            await events_of(engine, "die while loading")
        with pytest.raises(EngineFailed, match=r"loading .* has ended .* tried again in"):
            await events_of(engine, "hello")
        await engine._running_worker()


async def test_an_engine_whose_workers_all_die_gives_up_and_says_so(
    stub: OpenStub, caplog: pytest.LogCaptureFixture
) -> None:
    async with stub("then dead") as engine:
        with pytest.raises(EngineFailed):
            await events_of(engine, "die")
        with pytest.raises(EngineFailed, match=r"exited with status 1, 6 times in a row; restart the node"):
            await events_of(engine, "hello")
    assert [record.levelno for record in caplog.records].count(logging.WARNING) == service.MAX_RESTARTS


async def test_other_model_files_after_a_restart_are_not_served_as_the_old(stub: OpenStub) -> None:
    async with stub("then other") as engine:
        with pytest.raises(EngineFailed):
            await events_of(engine, "die")
        with pytest.raises(EngineFailed, match="changed on disk"):
            await events_of(engine, "hello")


@pytest.mark.parametrize(
    ("mode", "error", "says"),
    [
        ("dead", EngineFailed, "exited with status 1 while it loaded stub"),
        ("garbage", EngineFailed, "spoke nonsense"),
        ("silent", EngineFailed, "said nothing for 1 s while it loaded stub"),
        ("no model", ModelMissing, "there is no such model"),
    ],
)
async def test_what_goes_wrong_before_the_first_worker_is_ready_is_raised(
    stub: OpenStub, mode: str, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        async with stub(mode, load_seconds=1):
            pytest.fail("it never gets here")


async def test_beyond_the_slots_it_is_busy_and_leaving_frees_the_slot(stub: OpenStub) -> None:
    async with stub(slots=2) as engine, generation(engine, "wait"):
        for _ in range(20):
            async with generation(engine, "wait"):
                with pytest.raises(Busy, match="all 2 slots are taken"):
                    await events_of(engine, "hello")


async def test_a_finished_generation_frees_its_slot_before_its_block_is_left(stub: OpenStub) -> None:
    async with stub(slots=1) as engine, generation(engine, "hello") as events:
        assert len([event async for event in events]) == 2
        assert len(await events_of(engine, "hello")) == 2


async def test_a_reader_that_never_reads_holds_nobody_up(stub: OpenStub) -> None:
    async with stub() as engine, generation(engine, "wait"):
        assert len(await events_of(engine, "hello")) == 2


async def test_leaving_the_engine_ends_its_worker_and_its_generations(stub: OpenStub) -> None:
    async with trio.open_nursery() as nursery:
        async with stub() as engine:
            pid = engine.worker_pid
            opened = trio.Event()

            async def outlive() -> None:
                async with generation(engine, "wait") as events:
                    opened.set()
                    with pytest.raises(EngineFailed, match="closed before this task was done"):
                        assert [event async for event in events] == "unreached"

            nursery.start_soon(outlive)
            await opened.wait()
        with pytest.raises(EngineFailed, match="the engine is closed"):
            await events_of(engine, "hello")
    await ended(pid)


async def test_a_worker_that_will_not_end_is_killed(stub: OpenStub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cactus_mesh.engine.worker._TERMINATE_SECONDS", 0.1)
    async with stub("stubborn") as engine:
        pid = engine.worker_pid
    await ended(pid)


async def test_a_cancelled_opening_leaves_no_process(stub: OpenStub, tmp_path: Path) -> None:
    with trio.move_on_after(0.5) as scope:
        async with stub("silent"):
            pytest.fail("it never gets here")
    assert scope.cancelled_caught


async def test_a_prompt_larger_than_a_frame_is_refused(stub: OpenStub) -> None:
    async with stub() as engine:
        work = Chat([ChatMessage("user", "x" * 200_000)] * 12)
        with pytest.raises(PromptTooLong, match="takes at most"):
            async with engine.generate(FAKE_MODEL.digest, work, Sampling(max_tokens=1), bytes(32)):
                pytest.fail("it never gets here")


def test_the_parent_never_imports_torch() -> None:
    program = "import sys, cactus_mesh.engine, cactus_mesh.engine.models; print(*sys.modules, sep='\\n')"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert not {"torch", "transformers", "numpy", "safetensors", "huggingface_hub"} & set(loaded.split())


async def test_without_torch_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "torch" else object())
    with pytest.raises(
        service.MissingExtra, match=r"needs torch; install with: pip install 'cactus-mesh\[inference\]'"
    ):
        async with service.open_engine(["selftest"]):
            pytest.fail("it never gets here")
