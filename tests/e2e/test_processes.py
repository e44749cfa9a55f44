"""Separate processes over real sockets: what happens to a task when one of them dies, stops or is not to be trusted."""

from __future__ import annotations

import signal
import sys

import pytest
import trio

from cactus_mesh.adapters import identity_at
from cactus_mesh.clients import open_client
from cactus_mesh.errors import OrchestratorLost, RouterNotAuthorised
from cactus_mesh.identity import Address
from cactus_mesh.testing.engine import FAKE_TEXT
from cactus_mesh.testing.mesh import APT, ProcessMesh, open_process_mesh

LARGE, SMALL = 1_000 * APT, APT
SLOW = {"delay_seconds": 0.2}


def named(mesh: ProcessMesh, name: str) -> str:
    return identity_at(mesh.family.home(name)).peer_id


async def test_a_task_crosses_five_processes_and_is_paid_to_the_octa():
    async with open_process_mesh() as mesh:
        await mesh.router()
        await mesh.orchestrator()
        await mesh.acquainted()
        async with mesh.client() as client, mesh.ledger() as ledger:
            worker = Address(identity_at(mesh.family.home("orchestrator")).address)
            before = await ledger.balance(worker)
            answer = client.generate("go", model="fake")
            text = "".join([piece async for piece in answer])
            with trio.fail_after(30):
                split = await client.paid(answer.result)
            deposit = (await ledger.client(client.identity.address)).deposit

            assert text == FAKE_TEXT
            assert await ledger.balance(worker) == before + split.orchestrator
            assert deposit == 1_000 * APT - split.paid


async def test_a_stream_outlives_the_orchestrators_that_are_killed_under_it_until_none_is_left():
    async with open_process_mesh() as mesh:
        await mesh.router()
        await mesh.orchestrator("first", stake=LARGE, engine={"delay_seconds": 30.0})
        await mesh.orchestrator("second", stake=3 * SMALL, engine=SLOW)
        await mesh.orchestrator("third", stake=2 * SMALL, engine=SLOW)
        await mesh.acquainted(orchestrators=3)
        async with mesh.client() as client, mesh.ledger() as ledger:
            answer = client.generate("go", model="fake")
            assert await answer.accepted() == named(mesh, "first")
            await mesh.children["first"].kill()
            text = await anext(answer)
            assert await answer.accepted() == named(mesh, "second")
            await mesh.children["second"].kill()
            text += "".join([piece async for piece in answer])
            result = answer.result
            with trio.fail_after(30):
                split = await client.paid(result)

            assert (text, result.orchestrator) == (FAKE_TEXT, named(mesh, "third"))
            assert result.continued_at
            assert (await ledger.client(client.identity.address)).deposit == 1_000 * APT - split.paid

            answer = client.generate("go on", model="fake")
            await anext(answer)
            await mesh.children["third"].kill()
            with trio.fail_after(10), pytest.raises(OrchestratorLost, match="nothing is paid"):
                await answer.wait()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signal that stops a process and lets it go on")
async def test_a_stopped_orchestrator_is_found_out_and_its_task_goes_to_another():
    async with open_process_mesh() as mesh:
        await mesh.router(patience={"accept_ms": 60_000, "first_token_ms": 60_000})
        await mesh.orchestrator("first", stake=LARGE, engine={"delay_seconds": 60.0})
        await mesh.orchestrator("second", stake=2 * SMALL)
        await mesh.acquainted(orchestrators=2)
        async with mesh.client() as client:
            answer = client.generate("go", model="fake")
            assert await answer.accepted() == named(mesh, "first")
            mesh.children["first"].process.send_signal(signal.SIGSTOP)
            try:
                with trio.fail_after(25):
                    result = await answer.wait()
            finally:
                mesh.children["first"].process.send_signal(signal.SIGCONT)

        assert result.orchestrator == named(mesh, "second")


async def test_a_router_without_authorisation_gets_no_task():
    async with open_process_mesh() as mesh:
        await mesh.router(authorised=False)
        await mesh.orchestrator()
        await mesh.acquainted()
        async with mesh.client() as client:
            with pytest.raises(RouterNotAuthorised, match="not authorised on the ledger"):
                await client.generate("go", model="fake").wait()


async def test_a_client_comes_back_without_being_told_a_bootstrap_peer_again():
    async with open_process_mesh() as mesh:
        await mesh.router()
        await mesh.orchestrator()
        await mesh.acquainted()
        async with mesh.client() as client:
            await client.generate("go", model="fake").wait()
        async with open_client(home=mesh.family.home("client").state, ledger=mesh.chain["url"]) as client:
            assert (await client.generate("again", model="fake").wait()).text == FAKE_TEXT


async def test_a_router_that_is_told_to_stop_settles_what_it_has_finished():
    async with open_process_mesh() as mesh:
        await mesh.router(router={"settle_after_seconds": 60.0})
        await mesh.orchestrator()
        await mesh.acquainted()
        async with mesh.client() as client:
            result = await client.generate("go", model="fake").wait()
            assert await client.ledger.task(client.identity.address, result.task_id) is None
            await mesh.children["router"].stop()

            assert (await client.paid(result)).orchestrator > 0


async def test_two_routers_share_the_work_when_one_is_gone():
    async with open_process_mesh() as mesh:
        await mesh.router("one")
        await mesh.router("two")
        await mesh.orchestrator()
        for name in ("one", "two"):
            await mesh.acquainted(name)
        async with mesh.client() as client:
            first = await client.generate("go", model="fake").wait()
            (name,) = [name for name in ("one", "two") if named(mesh, name) == first.router]
            await mesh.children[name].kill()
            second = await client.generate("go", model="fake").wait()

        assert second.router != first.router


async def test_a_killed_router_settles_at_its_next_start_what_it_had_finished():
    async with open_process_mesh() as mesh:
        await mesh.router(router={"settle_after_seconds": 60.0})
        await mesh.orchestrator()
        await mesh.acquainted()
        async with mesh.client() as client:
            result = await client.generate("go", model="fake").wait()
            await mesh.children["router"].kill()
            assert await client.ledger.task(client.identity.address, result.task_id) is None
            await mesh.start("router", "router", {"router": {"settle_after_seconds": 0.1}})
            with trio.fail_after(30):
                split = await client.paid(result)

            assert (await client.ledger.client(client.identity.address)).deposit == 1_000 * APT - split.paid
