"""What the embedded ledger has answered is on disk: after a restart, and after a kill at any moment."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import trio

from cactus_mesh.errors import StateMalformed
from cactus_mesh.ledger import dev, rules
from cactus_mesh.ledger.connect import http_client
from cactus_mesh.ledger.devnet import open_devnet
from cactus_mesh.ledger.devnet.service import DATABASE
from cactus_mesh.ledger.devnet.store import open_store
from cactus_mesh.ledger.rest import transaction_hash
from cactus_mesh.ledger.rules.params import Params
from tests.ledger import wire
from tests.ledger.world import (
    ADMIN,
    CHAIN_ID,
    CLIENT,
    CONTRACT,
    ORCHESTRATOR,
    ROUTER,
    World,
    furnish,
    operator_signature,
    person,
    settlement,
    task_id,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SENDERS = [person(f"sender {number}") for number in range(4)]
PAYEE = person("payee")
KILLS = 4


def _genesis() -> rules.State:
    return rules.init(CHAIN_ID, CONTRACT, ADMIN.address)


def test_every_kind_of_record_survives_a_restart(tmp_path: Path) -> None:
    with open_store(tmp_path / DATABASE, _genesis()) as (store, chain):
        world = World(chain.state)
        furnish(world)
        new_key = person("new key")
        world.create(1)
        world.settle(settlement(2))
        world.settle(settlement(3))
        world.do(CLIENT, "open_dispute", CLIENT.address, task_id(3), b"e" * 32)
        world.do(ROUTER, "open_dispute", CLIENT.address, task_id(2), b"e" * 32)
        world.now += Params().contest_seconds + 1
        world.do(ROUTER, "finalize_dispute", CLIENT.address, task_id(2))
        world.do(ROUTER, "finalize_dispute", CLIENT.address, task_id(3))
        world.do(CLIENT, "request_withdrawal", 5)
        world.do(ORCHESTRATOR, "request_unstake", ORCHESTRATOR.address, 5)
        agreed = operator_signature(new_key, ORCHESTRATOR)
        world.do(ORCHESTRATOR, "set_operator", ORCHESTRATOR.address, new_key.public_key, agreed)
        world.do(ADMIN, "propose_admin", ROUTER.address)
        chain.sequences[ROUTER.address] = 3
        store.commit([], chain.state.take_journal())
        before = world.snapshot() | {"sequences": dict(chain.sequences)}
    with open_store(tmp_path / DATABASE, _genesis()) as (_, restored):
        assert World(restored.state).snapshot() | {"sequences": dict(restored.sequences)} == before
        assert all(before.values()), "every table holds something"


async def test_a_restarted_ledger_goes_on_where_it_stopped(tmp_path: Path) -> None:
    alice, payment = person("alice"), wire.transfer(PAYEE.address, 7)
    for number in range(3):
        async with open_devnet(tmp_path) as devnet, http_client(devnet.url) as http:
            await dev.fund(devnet.url, alice.address, 10**8)
            data = wire.signed(alice, number, payment)
            assert (await http.post("/v1/transactions", content=data, headers=wire.BCS)).status_code == 202
            again = await http.post("/v1/transactions", content=data, headers=wire.BCS)
            assert again.json()["vm_error_code"] == 3
            audit = await dev.audit(devnet.url)
            assert audit.conserved
    assert audit.minted == 10**13 + 3 * 10**8


def test_another_ledgers_database_is_refused_by_name(tmp_path: Path) -> None:
    with open_store(tmp_path / DATABASE, _genesis()):
        pass
    other = replace(_genesis())
    other.chain_id = 99
    with pytest.raises(StateMalformed, match="99"), open_store(tmp_path / DATABASE, other):
        pass


@pytest.mark.parametrize("damage", [b"this is no database, only a text of some length" * 100, None])
def test_a_damaged_database_is_named_and_never_overwritten(tmp_path: Path, damage: bytes | None) -> None:
    path = tmp_path / DATABASE
    if damage is not None:
        path.write_bytes(damage)
    else:
        with open_store(path, _genesis()):
            pass
        with sqlite3.connect(path) as database:
            database.execute("UPDATE rows SET value = x'c1'")
        database.close()
    before = path.read_bytes()
    with pytest.raises(StateMalformed, match="move it away"), open_store(path, _genesis()):
        pass
    assert path.read_bytes() == before


async def test_a_lost_administrators_key_is_not_replaced_in_silence(tmp_path: Path) -> None:
    async with open_devnet(tmp_path):
        pass
    (tmp_path / "admin.key").unlink()
    with pytest.raises(StateMalformed, match="restore it"):
        async with open_devnet(tmp_path):
            pass


# --- kill -9 -----------------------------------------------------------------------------------------------------


class Tally:
    """What a sender knows: transactions that it sent, and those that were answered."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.answered: set[str] = set()


async def test_a_kill_at_any_moment_leaves_each_transaction_applied_exactly_once(tmp_path: Path) -> None:
    rng = random.Random(20_261_123)
    tally = Tally()
    for kill in range(KILLS):
        async with _process(tmp_path) as (process, url), http_client(url) as http:
            if kill == 0:
                for each in SENDERS:
                    await dev.fund(url, each.address, 10**9)
            async with trio.open_nursery() as nursery:
                for each in SENDERS:
                    nursery.start_soon(_send_until_it_dies, http, each, tally)
                await trio.sleep(rng.uniform(0.0, 0.3))  # the moment of the kill is what is drawn, not awaited
                process.kill()
    async with open_devnet(tmp_path) as devnet, http_client(devnet.url) as http:
        await _assert_exactly_once(devnet.url, http, tally)
    assert len(tally.answered) >= KILLS


async def _send_until_it_dies(http: httpx.AsyncClient, sender: Any, tally: Tally) -> None:
    try:
        number = int((await http.get(f"/v1/accounts/{sender.address}")).json()["sequence_number"])
        while True:
            data = wire.signed(sender, number, wire.transfer(PAYEE.address, 1), expires_at=int(time.time()) + 600)
            tally.sent.append(transaction_hash(data))
            reply = await http.post("/v1/transactions", content=data, headers=wire.BCS)
            assert reply.status_code == 202
            tally.answered.add(transaction_hash(data))
            number += 1
    except httpx.TransportError:
        return


async def _assert_exactly_once(url: str, http: httpx.AsyncClient, tally: Tally) -> None:
    replies = [(each, await http.get(f"/v1/transactions/by_hash/{each}")) for each in tally.sent]
    applied = {each for each, reply in replies if reply.status_code == 200}
    assert tally.answered <= applied
    numbers = [int((await http.get(f"/v1/accounts/{each.address}")).json()["sequence_number"]) for each in SENDERS]
    received = int((await http.get(f"/v1/accounts/{PAYEE.address}/balance/0xa")).text)
    assert len(applied) == sum(numbers) == received
    assert (await dev.audit(url)).conserved


@asynccontextmanager
async def _process(home: Path) -> AsyncIterator[tuple[subprocess.Popen[str], str]]:
    """A ledger in a process of its own, and its URL; leaving the block kills it."""
    command = [sys.executable, "-m", "tests.ledger.serve", str(home)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: ASYNC220 - starts at once
        try:
            assert process.stdout is not None
            with trio.fail_after(30):
                url = await trio.to_thread.run_sync(process.stdout.readline, abandon_on_cancel=True)
            yield process, url.strip()
        finally:
            process.kill()
