"""What a router passes on to a client: in order, several things at once where they came at once, nothing when alone."""

from __future__ import annotations

from dataclasses import dataclass, field

import trio

from cactus_mesh.routed import Running


@dataclass
class Ears:
    """The client's end of a call."""

    heard: list[bytes] = field(default_factory=list)

    async def send(self, item):
        await trio.lowlevel.checkpoint()
        self.heard.append(item)


async def test_what_is_held_back_leaves_in_its_order():
    running, ears = Running(), Ears()
    running.held += [b"progress", b"tokens"]
    await running.let_go(ears)
    assert (ears.heard, running.held) == ([b"progress", b"tokens"], [])


async def test_nobody_is_told_anything_once_the_client_has_gone():
    running, ears = Running(), Ears()
    running.held.append(b"tokens")
    running.leave()
    await running.let_go(ears)
    assert ears.heard == []
    assert running.stop.asked


async def test_a_client_that_goes_while_it_is_told_something_holds_nobody_up():
    class Deaf(Ears):
        async def send(self, item):
            began.set()
            await trio.sleep_forever()

    running, began = Running(), trio.Event()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            running.held.append(b"tokens")
            nursery.start_soon(running.let_go, Deaf())
            await began.wait()
            running.leave()
