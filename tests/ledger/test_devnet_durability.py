"""What the embedded ledger has answered is on disk: after a restart, and after a kill at any moment."""

from __future__ import annotations

import secrets
import sqlite3
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from cactus_mesh.errors import StateMalformed
from cactus_mesh.ledger import dev, rules
from cactus_mesh.ledger.connect import http_client
from cactus_mesh.ledger.devnet import open_devnet
from cactus_mesh.ledger.devnet.service import DATABASE
from cactus_mesh.ledger.devnet.store import open_store
from cactus_mesh.ledger.rules.params import Params
from tests.ledger import wire
from tests.ledger.kill_devnet import torture
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
    from pathlib import Path

PAYEE = person("payee")
KILLS = 20


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


@pytest.mark.parametrize("seed", [20_261_123, secrets.randbits(32)], ids=["fixed", "fresh"])
async def test_a_kill_at_any_moment_leaves_each_transaction_applied_exactly_once(tmp_path: Path, seed: int) -> None:
    print(f"seed {seed}")
    tally = await torture(tmp_path, kills=KILLS // 2, seed=seed)
    assert tally.kills == KILLS // 2
    assert tally.flawless, tally
    assert min(tally.cut_before_commit, tally.cut_after_commit) > 0, "both sides of a commit were hit"
