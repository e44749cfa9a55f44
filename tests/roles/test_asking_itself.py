"""A router whose own client asks it: nothing is sent, and nothing is checked less."""

from __future__ import annotations

import pytest
import trio

from cactus_mesh.client import open_client_role
from cactus_mesh.config import ClientConfig
from cactus_mesh.errors import Busy, Cancelled, MessageTooLarge, NoFunds, PeerUnreachable, RouterNotAuthorised
from cactus_mesh.errors import UnknownMethod as NoMethod
from cactus_mesh.itself import answering_itself
from cactus_mesh.router import CANCEL_METHOD, MODELS_METHOD, SUBMIT_METHOD
from cactus_mesh.testing.engine import FAKE_TEXT, FakeEngine
from tests.world import DEPOSIT, clock, identity, open_world

ME = identity("router")


@pytest.fixture
def itself(monkeypatch):
    """Routers of this world can ask themselves; their networks."""
    networks = []

    def join(mesh, me, **how):
        network = original(mesh, me, **how)
        if "router" in how.get("roles", ()):
            network = answering_itself(network, me.public_key)
            networks.append(network)
        return network

    from cactus_mesh.testing.network import FakeMesh

    original = FakeMesh.join
    monkeypatch.setattr(FakeMesh, "join", join)
    return networks


def client_of(world, networks, deposit=DEPOSIT):
    if deposit:
        world.ledger.deposit_for(ME, deposit)
    return open_client_role(ME, networks[0], world.ledger, ClientConfig(), clock, own_router=True)


async def test_a_router_with_nobody_else_beside_it_answers_its_own_client(itself, autojump_clock):
    async with open_world() as world:
        await world.router()
        await world.orchestrator()
        async with client_of(world, itself) as client:
            await world.settle_down()
            result = await client.generate("go", model="fake").wait()
            split = await client.paid(result)

            assert (result.text, result.router) == (FAKE_TEXT, ME.peer_id)
            assert [listed.offer.name for listed in await client.models()] == ["fake"]
            assert (await world.ledger.client(ME.address)).deposit == DEPOSIT - split.paid
            assert world.ledger.conserved


async def test_its_own_client_pays_what_it_cancels(itself, autojump_clock):
    async with open_world() as world:
        engine = FakeEngine(delay_seconds=1.0)
        await world.router()
        await world.orchestrator(engine=engine)
        async with client_of(world, itself) as client:
            await world.settle_down()
            answer = client.generate("go", model="fake")
            await anext(aiter(answer))
            result = await answer.cancel()

            assert (result.finish, result.text) == ("cancelled", "A")
            assert (await client.paid(result)).paid > 0


async def test_no_check_is_left_out(itself, autojump_clock):
    async with open_world() as world:
        await world.router(authorised=False)
        await world.orchestrator()
        async with client_of(world, itself, deposit=0) as client:
            await world.settle_down()
            with pytest.raises(RouterNotAuthorised, match="knows no other"):
                await client.generate("go", model="fake").wait()
            world.ledger.authorise(ME)
            with pytest.raises(NoFunds):
                await client.generate("go", model="fake").wait()


async def test_what_clients_do_not_ask_of_routers_is_not_answered(itself, autojump_clock):
    async with open_world() as world:
        await world.router()
        (network,) = itself
        with pytest.raises(NoMethod):
            await network.ask(ME.peer_id, "task.run", b"")
        with pytest.raises(MessageTooLarge):
            await network.ask(ME.peer_id, MODELS_METHOD, bytes(2**20 + 1))
        with pytest.raises(PeerUnreachable):
            await network._network.ask(ME.peer_id, MODELS_METHOD, b"")


async def test_its_own_calls_are_bounded_and_errors_keep_their_names(itself, autojump_clock):
    async with open_world() as world:
        (network,) = [answering_itself(world.mesh.join(identity("other")), identity("other").public_key)]

        async def wait(call):
            await call.send(b"1")
            await trio.sleep_forever()

        async def refuse(_call):
            raise Cancelled("no")

        network.serve(SUBMIT_METHOD, wait, at_once=1)
        network.serve(CANCEL_METHOD, refuse, at_once=1)
        me = identity("other").peer_id
        async with network.call(me, SUBMIT_METHOD, b"") as reply:
            assert await anext(aiter(reply)) == b"1"
            with pytest.raises(Busy):
                await network.ask(me, SUBMIT_METHOD, b"")
        with pytest.raises(Cancelled, match="no"):
            await network.ask(me, CANCEL_METHOD, b"")
        async with network.call(me, SUBMIT_METHOD, b"") as reply:  # the place is free again
            assert await anext(aiter(reply)) == b"1"
