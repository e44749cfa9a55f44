"""The worker as a process: framing that libraries cannot disturb, and an end that nothing can prevent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
import trio

from cactus_mesh.engine import EngineSettings, open_engine
from cactus_mesh.engine.frames import (
    MAX_FRAME_BYTES,
    Alive,
    BrokenFrames,
    Ended,
    FrameBuffer,
    Open,
    decode_event,
    to_frame,
)
from cactus_mesh.engine.worker import WORKER_COMMAND, worker_environment
from cactus_mesh.errors import EngineFailed
from cactus_mesh.messages import Generate, Sampling
from tests.engine.test_port import make

NOISY = """
import os
from cactus_mesh.engine.frames import Alive, Ended
from cactus_mesh.engine.runner.__main__ import claim_pipes
pipes = claim_pipes()
pipes.emit([Alive()])
print("a library says hello", flush=True)
os.write(1, b"and so does its C part")
os.system("echo and a child of it")
assert input.__name__ and os.read(0, 1) == b""
pipes.emit([Ended(7)])
"""


@pytest.mark.parametrize("piece", [1, 3, 1000])
def test_frames_come_out_whole_however_the_pipe_cuts_them(piece: int) -> None:
    data = b"".join(to_frame(event) for event in (Alive(), Ended(1), Ended(2**40)))
    buffer = FrameBuffer()
    pieces = [data[at : at + piece] for at in range(0, len(data), piece)]
    assert [decode_event(body) for p in pieces for body in buffer.feed(p)] == [Alive(), Ended(1), Ended(2**40)]


def test_a_frame_that_is_too_long_is_refused_before_it_is_kept() -> None:
    with pytest.raises(BrokenFrames, match="at most"):
        list(FrameBuffer().feed((MAX_FRAME_BYTES + 1).to_bytes(4, "big")))


@pytest.mark.parametrize(
    "body", [b"", b"\xff", b"\x80", b"\x81\xa4type\xa5other", b"\x81\xa4type\xa5\xff\xff\xff\xff\xff"]
)
def test_nonsense_is_no_event(body: bytes) -> None:
    with pytest.raises(BrokenFrames):
        decode_event(body)


def test_what_libraries_print_does_not_get_between_the_frames() -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", NOISY], stdin=pipe, stdout=pipe, stderr=pipe) as process:
        process.wait(timeout=30)  # with its standard input still open
        out, errors = process.communicate()
    assert out == to_frame(Alive()) + to_frame(Ended(7))
    assert b"a library says hello" in errors
    assert b"and a child of it" in errors


def test_the_worker_exits_when_its_parent_is_gone_even_while_it_loads() -> None:
    process = subprocess.Popen(WORKER_COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdin.write(to_frame(Open(["selftest"], EngineSettings())))
    process.stdin.flush()
    out, _ = process.communicate(timeout=30)  # closes its standard input
    assert (process.returncode, out) == (0, b"")


def test_the_environment_is_set_before_torch_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEPT", "1")
    quiet = worker_environment(EngineSettings(threads=3))
    assert (quiet["OMP_WAIT_POLICY"], quiet["OMP_NUM_THREADS"], quiet["KEPT"]) == ("PASSIVE", "3", "1")
    assert (quiet["TOKENIZERS_PARALLELISM"], quiet["HF_HUB_OFFLINE"]) == ("false", "1")
    assert "HF_HUB_OFFLINE" not in worker_environment(EngineSettings(allow_download=True))


@pytest.mark.skipif(os.name != "posix", reason="kills by signal")
async def test_a_killed_worker_fails_its_task_by_name_and_the_next_task_is_served() -> None:
    with trio.fail_after(60):
        async with open_engine(["selftest"], EngineSettings(threads=1)) as engine:
            os.kill(engine.worker_pid, signal.SIGINT)  # as Ctrl-C does to the whole group: the parent decides
            before = await make(engine)
            killed = engine.worker_pid
            digest = engine.models[0].digest
            async with engine.generate(digest, Generate("One day"), Sampling(max_tokens=900), bytes(32)) as events:
                await anext(events)
                os.kill(killed, signal.SIGKILL)
                with pytest.raises(EngineFailed, match="was ended by signal 9"):
                    _ = [event async for event in events]
            after = await make(engine)
            assert (after.token_ids, after.logprobs) == (before.token_ids, before.logprobs)
            assert engine.worker_pid != killed
