"""What is heard of tasks that pass through a network, whoever listens."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import trio

from cactus_mesh.dispatch import RUN_METHOD
from cactus_mesh.errors import BY_CODE, Busy, MeshError
from cactus_mesh.heard import FAILED, GONE, OK, heard_network
from cactus_mesh.messages import Chunk, Done, encode_unsigned
from cactus_mesh.router import SUBMIT_METHOD
from cactus_mesh.testing.network import open_fake_mesh
from cactus_mesh.verifying import AUDIT_METHOD
from tests.world import identity

CHUNK = Chunk(bytes(16), 0, [1], "a")
DONE = Done(b"assignment", [], b"receipt", None)


@dataclass
class Notes:
    """Of one listener, who keeps everything."""

    parts: list[str] = field(default_factory=list)
    items: list[object] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)

    def listen(self, part, payload, peer):
        self.parts.append(part)
        return self

    def item(self, item):
        self.items.append(item)

    def ended(self, outcome):
        self.ends.append(outcome)


async def ask(method, handler, *, at_server=(), at_client=()):
    """One call of *method*, answered by *handler*."""
    async with open_fake_mesh() as mesh:
        server = heard_network(mesh.join(identity("router"), roles=("router",)), [each.listen for each in at_server])
        client = heard_network(mesh.join(identity("client"), roles=("client",)), [each.listen for each in at_client])
        server.serve(method, handler, at_once=1)
        try:
            async with client.call(server.peer_id, method, b"payload") as reply:
                return [item async for item in reply]
        except MeshError as error:
            return error


async def answer(call):
    for item in (CHUNK, DONE):
        await call.send(encode_unsigned(item))


async def test_all_who_listen_hear_the_same_on_both_sides_and_nothing_is_changed():
    asked, first, second = Notes(), Notes(), Notes()
    got = await ask(SUBMIT_METHOD, answer, at_server=[first, second], at_client=[asked])
    assert got == [encode_unsigned(CHUNK), encode_unsigned(DONE)]
    assert (first.parts, first.items, first.ends) == (["router"], [CHUNK, DONE], [OK])
    assert second == first
    assert (asked.parts, asked.items, asked.ends) == (["client"], [CHUNK, DONE], [OK])


@pytest.mark.parametrize(("error", "outcome"), [(Busy("full"), Busy.code), (ValueError("a bug"), FAILED)])
async def test_an_error_ends_a_task_by_its_code_or_as_failed(error, outcome):
    async def fail(call):
        raise error

    notes, asked = Notes(), Notes()
    await ask(RUN_METHOD, fail, at_server=[notes])
    await ask(SUBMIT_METHOD, fail, at_client=[asked])
    assert (notes.parts, notes.ends) == (["orchestrator"], [outcome])
    assert asked.ends[0] in BY_CODE


async def test_who_is_not_waited_for_is_gone():
    async def for_ever(call):
        began.set()
        await trio.sleep_forever()

    notes, asked, began = Notes(), Notes(), trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: ask(SUBMIT_METHOD, for_ever, at_server=[notes], at_client=[asked]))
        await began.wait()
        nursery.cancel_scope.cancel()
    assert (notes.ends, asked.ends) == ([GONE], [GONE])


async def test_a_client_that_leaves_without_a_receipt_is_gone_though_nothing_was_raised():
    async def half(call):
        await call.send(encode_unsigned(CHUNK))

    asked = Notes()
    await ask(SUBMIT_METHOD, half, at_client=[asked])
    assert (asked.items, asked.ends) == ([CHUNK], [GONE])


async def test_of_an_audit_only_its_end_is_heard_and_of_other_calls_nothing():
    async def one(call):
        await call.send(b"not an item of a task")

    notes = Notes()
    for method in (AUDIT_METHOD, "mesh.models"):
        await ask(method, one, at_server=[notes], at_client=[notes])
    assert (notes.parts, notes.items, notes.ends) == (["verifier"], [], [OK])


async def test_what_cannot_be_read_passes_unheard():
    async def nonsense(call):
        await call.send(b"\xff")

    notes = Notes()
    assert await ask(SUBMIT_METHOD, nonsense, at_server=[notes]) == [b"\xff"]
    assert (notes.items, notes.ends) == ([], [OK])
