"""Who may end a process, and how: in order at the first request, at once at the second."""

from __future__ import annotations

import signal

import pytest
import trio
import trio.testing

from cactus_mesh.lifetime import open_lifetime

STOPS = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@pytest.fixture
def heeded(name):
    """The signal as it is for a program that nobody started with nohup."""
    before = signal.getsignal(signal.Signals[name])
    if before is signal.SIG_IGN:
        signal.signal(signal.Signals[name], signal.SIG_DFL)
    yield
    signal.signal(signal.Signals[name], before)


@pytest.mark.usefixtures("heeded")
@pytest.mark.parametrize("name", STOPS)
async def test_a_request_to_stop_ends_the_wait_and_lets_the_block_end_in_order(name):
    ended_in_order = False
    with trio.fail_after(5):
        async with open_lifetime() as lifetime, trio.open_nursery() as nursery:
            nursery.start_soon(lifetime.serving)
            await trio.testing.wait_all_tasks_blocked()
            signal.raise_signal(signal.Signals[name])
        ended_in_order = True
    assert ended_in_order


async def test_a_second_request_does_not_wait():
    reached = False
    with trio.fail_after(5):
        async with open_lifetime() as lifetime:
            signal.raise_signal(signal.SIGTERM)
            await lifetime.serving()
            signal.raise_signal(signal.SIGTERM)
            await trio.sleep_forever()
            reached = True
    assert not reached


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="only Unix tells a process that its terminal is closed")
async def test_a_process_under_nohup_outlives_its_terminal():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        async with open_lifetime():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
